"""Exit status, messages, and what a command loads."""

from __future__ import annotations

import ast
from pathlib import Path

import click
import pytest

from sri_libvirt import config
from sri_libvirt.cli import main
from sri_libvirt.cli.machine import COMMANDS as MACHINE_COMMANDS
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.errors import NotReady
from tests.unit.cli.conftest import Cli

ROOT = Path(main.__file__).parent


def test_version(cli: Cli) -> None:
    result = cli("version")
    assert (result.status, result.out) == (0, "sri-libvirt 0.1.0\n")
    assert cli("--version").out == result.out


def test_help_names_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert result.status == 0
    assert all(name in result.out for name in main.COMMANDS)
    assert all(name in cli("machine", "-h").out for name in MACHINE_COMMANDS)


@pytest.mark.parametrize(
    "argv",
    [
        ("nonsense",),
        ("machine", "get"),
        ("machine", "list", "--nonsense"),
        ("machine", "list", "-o", "xml"),
        ("machine", "why"),
    ],
)
def test_wrong_usage_is_2(cli: Cli, argv: tuple[str, ...]) -> None:
    result = cli(*argv)
    assert result.status == 2
    assert "Usage: sri-libvirt" in result.err
    assert not result.out


def test_a_bad_flag_is_wrong_usage_and_named(cli: Cli) -> None:
    result = cli("machine", "list", "--state-dir", "")
    assert result.status == 2
    assert "'--state-dir': the path is empty" in result.err


def test_an_error_is_one_line(cli: Cli, state_dir: Path) -> None:
    result = cli("machine", "list")
    assert result.status == 1
    assert result.err.startswith("sri-libvirt: there is no state database at")
    assert result.err.count("\n") == 1
    assert not state_dir.exists()


def test_a_bad_setting_elsewhere_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRI_LIBVIRT_LANES", "many")
    result = cli("machine", "list")
    assert result.status == 1
    assert "SRI_LIBVIRT_LANES" in result.err


def test_what_is_not_ready_is_told_with_its_advice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def not_ready(*_args: object, **_kwargs: object) -> None:
        raise NotReady("no firmware", "Install it.")

    monkeypatch.setattr(main.sri_libvirt, "main", not_ready)
    assert main.run(["version"]) == 1
    assert capsys.readouterr().err == "sri-libvirt: no firmware. Install it.\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_interrupted_is_130(monkeypatch: pytest.MonkeyPatch, error: type[BaseException]) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise error

    monkeypatch.setattr(main.sri_libvirt, "main", interrupted)
    assert main.run(["version"]) == 130


def test_every_setting_has_its_flag() -> None:
    got: list[config.Settings] = []

    @click.command()
    @settings_options()
    def command(settings: config.Settings) -> None:
        got.append(settings)

    argv = ["--insecure-tcp", "--image-dir", "/a", "--image-dir", "/b", "--socket-mode", "600", "--lanes", "3"]
    command.main(argv, standalone_mode=False)
    assert (got[0].insecure_tcp, got[0].image_dir, got[0].socket_mode, got[0].lanes) == (
        True,
        (Path("/a"), Path("/b")),
        0o600,
        3,
    )
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert flags == {option.flag for option in config.OPTIONS} | {"--config"}
    assert all(isinstance(parameter, click.Option) and parameter.help for parameter in command.params)


def test_a_flag_goes_before_the_environment(cli: Cli, tmp_path: Path) -> None:
    assert str(tmp_path / "other") in cli("machine", "list", "--state-dir", str(tmp_path / "other")).err


def test_the_entry_imports_no_command() -> None:
    """Start-up matters: what is slow to import is imported by the command that needs it."""
    for file in (ROOT / "main.py", ROOT / "lazy.py", ROOT / "machine" / "__init__.py"):
        imported = {
            node.module
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sri_libvirt")
        }
        assert imported <= {"sri_libvirt", "sri_libvirt.cli.lazy", "sri_libvirt.errors"}


def test_what_is_for_root_is_said_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def forbidden(*_args: object, **_kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/lib/sri-libvirt/store/backups")

    monkeypatch.setattr(main.sri_libvirt, "main", forbidden)
    assert main.run(["version"]) == 1
    said = capsys.readouterr().err
    assert said == "sri-libvirt: /var/lib/sri-libvirt/store/backups: Permission denied: this is for root\n"


def test_a_store_that_this_user_may_not_see_is_said_to_be_for_root(
    cli: Cli, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exists(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", exists)
    result = cli("machine", "list")
    assert result.status == 1
    assert result.err.endswith("Permission denied: it is for root\n")
