"""`config`, and whose settings other commands go by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt import config, effective, statedir
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store
from tests.unit.cli import reports
from tests.unit.cli.conftest import Cli


@pytest.fixture
def provider(state_dir: Path, store: Store) -> Iterator[None]:
    """One runs that was given things that nobody finds in the environment or a file."""
    paths = StatePaths(state_dir)
    flags = {"state_dir": state_dir, "max_machines": 3, "image_source": ("oci://a/*", "oci://b/*")}
    environ = {"SRI_LIBVIRT_DOMAIN_TYPE": "qemu"}
    statedir.prepare(paths)
    with statedir.lock(paths):
        effective.keep(paths, config.load(flags, environ=environ, default_file=state_dir / "none.toml"), 1_700_000_000)
        yield


@pytest.mark.usefixtures("provider")
def test_config_shows_what_the_provider_runs_with_and_where_it_comes_from(cli: Cli) -> None:
    shown = cli("config", "--changed")
    assert [line.split() for line in shown.out.splitlines()] == [
        ["SETTING", "VALUE", "FROM"],
        ["state_dir", shown.out.splitlines()[1].split()[1], "--state-dir"],
        ["domain_type", "qemu", "environment", "variable", "SRI_LIBVIRT_DOMAIN_TYPE"],
        ["image_source", "oci://a/*", "oci://b/*", "--image-source"],
        ["max_machines", "3", "--max-machines"],
    ]
    assert "runs with these since 1970-01-01T00:00:01" in shown.err
    found = json.loads(cli("config", "-o", "json").out)
    assert set(found["settings"]) == set(config.BY_NAME)
    assert found["settings"]["socket_mode"] == {"value": "0660", "source": "default"}
    assert found["settings"]["insecure_tcp"] == {"value": False, "source": "default"}
    assert found["provider"]["started"] == "1970-01-01T00:00:01.700000Z"


def test_config_without_a_provider_shows_what_one_would_find(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRI_LIBVIRT_LANES", "9")
    shown = cli("config", "--changed")
    assert "no provider runs" in shown.err
    assert shown.out.splitlines()[-1].split() == ["lanes", "9", "environment", "variable", "SRI_LIBVIRT_LANES"]
    assert json.loads(cli("config", "-o", "json").out)["provider"] is None


@pytest.mark.usefixtures("provider")
def test_capacity_goes_by_the_settings_of_the_provider_and_flags_ask_what_if(cli: Cli, tmp_path: Path) -> None:
    tree = reports.server(tmp_path / "host")
    roots = ("--sysfs", str(tree.sysfs), "--procfs", str(tree.procfs))

    def most(*argv: str) -> tuple[int, str]:
        shown = cli("capacity", "-o", "json", *roots, *argv)
        return max(each["quantity"] for each in json.loads(shown.out)["classes"]), shown.err

    assert most()[0] == 3
    quantity, told = most("--max-machines", "2")
    assert quantity == 2
    assert "what if: the provider does not run so:" in told
    assert "--max-machines 2, not 3" in told
    assert "--max-machines" not in most("--max-machines", "3")[1]


@pytest.mark.usefixtures("provider")
def test_a_file_that_is_named_asks_what_if_and_the_environment_does_not(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRI_LIBVIRT_LANES", "9")
    assert cli("machine", "list").err == ""
    file = tmp_path / "other.toml"
    file.write_text("max_machines = 5\n")
    assert "--max-machines 5, not 3" in cli("machine", "list", "--config", str(file)).err
