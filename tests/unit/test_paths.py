"""Where files lie while they are made, and who gets to them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sri_libvirt import paths

OWNER = 1000


@pytest.mark.parametrize("name", ["empty-94c680144b12aee3-67108864.qcow2", "image.qcow2", "seed.raw", "kernel"])
def test_what_is_being_made_looks_like_no_disk(name: str) -> None:
    made = paths.unfinished(Path("/machines/m") / name)
    assert made.parent == Path("/machines/m")
    assert not any(made.match(pattern) for pattern in (name, "*.qcow2", "*.raw"))


@pytest.mark.parametrize(
    ("mode", "user", "passes"),
    [
        (0o711, 64055, True),
        (0o750, 64055, True),  # its group may be QEMU's
        (0o700, 64055, False),
        (0o704, 64055, False),
        (0o700, 0, True),
        (0o700, None, True),
        (0o700, OWNER, True),
        (0o077, OWNER, False),
    ],
)
def test_a_directory_that_a_user_cannot_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, user: int | None, passes: bool
) -> None:
    middle = tmp_path / "middle"

    def stat(path: Path) -> os.stat_result:
        return os.stat_result((0o40000 | (mode if path == middle else 0o755), 1, 1, 1, OWNER, 7, 0, 0, 0, 0))

    monkeypatch.setattr(Path, "stat", stat)
    assert paths.barred(middle / "below" / "file", user) == (None if passes else middle)


def test_a_group_that_is_roots_lets_nobody_pass_and_an_access_list_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "stat", lambda _: os.stat_result((0o40750, 1, 1, 1, 0, 0, 0, 0, 0, 0)))
    assert paths.barred(tmp_path, 64055) == Path("/")
    monkeypatch.setattr(os, "listxattr", lambda _: ["system.posix_acl_access"])
    assert paths.barred(tmp_path, 64055) is None
