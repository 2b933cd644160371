"""The settings that a daemon keeps: what commands find of them, and when they do not believe them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sri_libvirt import __version__, config, effective, statedir
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths
from tests.unit.config.test_config import SAMPLES


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    paths = StatePaths(tmp_path / "state")
    statedir.prepare(paths)
    return paths


def settings(tmp_path: Path, **environ: str) -> Settings:
    variables = {config.BY_NAME[name].variable: text for name, text in environ.items()}
    return config.load(environ=variables, default_file=tmp_path / "none.toml")


@pytest.mark.parametrize("chosen", [{}, {name: text for name, (text, _) in SAMPLES.items()}], ids=["default", "other"])
def test_every_setting_is_found_as_it_was_kept(tmp_path: Path, paths: StatePaths, chosen: dict[str, str]) -> None:
    ours = settings(tmp_path, **chosen)
    with statedir.lock(paths):
        effective.keep(paths, ours, 7)
        found = effective.of_daemon(paths)
    assert found is not None
    assert found.values == {name: getattr(ours, name) for name in SAMPLES}
    assert set(found.sources.values()) == {config.DEFAULT} if not chosen else config.DEFAULT not in found.sources
    assert (found.version, found.started) == (__version__, 7)
    assert paths.settings.stat().st_mode & 0o777 == 0o600
    assert effective.of_daemon(paths) is None, "none runs any more"


def test_what_is_of_the_daemon_before_is_not_of_this_one(tmp_path: Path, paths: StatePaths) -> None:
    with statedir.lock(paths):
        effective.keep(paths, settings(tmp_path), 7)
        paths.lock.write_text("1\n")
        assert effective.of_daemon(paths) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"pid": %d, "settings": []}', '{"pid": %d, "settings": {"lanes": 1}}']
)
def test_what_cannot_be_read_is_not_guessed(paths: StatePaths, text: str) -> None:
    with statedir.lock(paths):
        pid = paths.lock.read_text().strip()
        paths.settings.write_text(text.replace("%d", pid))
        assert effective.of_daemon(paths) is None


def test_a_setting_of_another_version_is_left_out(tmp_path: Path, paths: StatePaths) -> None:
    with statedir.lock(paths):
        effective.keep(paths, settings(tmp_path, lanes="7"), 7)
        kept = json.loads(paths.settings.read_text())
        kept["settings"]["of_tomorrow"] = kept["settings"]["lanes"]
        del kept["settings"]["backups"]
        paths.settings.write_text(json.dumps(kept))
        found = effective.of_daemon(paths)
    assert found is not None
    assert found.values["lanes"] == 7
    assert not {"of_tomorrow", "backups"} & set(found.values)
