"""What the host lets QEMU open a disk with: asked by opening, and of the kernel's own words."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import process
from sri_libvirt.host import diskio
from sri_libvirt.process import ProcessError


@pytest.mark.parametrize(("error", "taken"), [(0, True), (errno.EINVAL, False), (errno.ENOENT, False)])
def test_a_file_is_opened_past_the_page_cache_and_nothing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, taken: bool
) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"data")
    real, seen = os.open, []

    def fake(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if path != disk:
            return real(path, flags, *more, **named)
        seen.append(flags)
        if error:
            raise OSError(error, os.strerror(error))
        return real(path, flags & ~os.O_DIRECT, *more)  # the tests' file system need not have it

    monkeypatch.setattr(os, "open", fake)
    assert diskio.takes_direct(disk) is taken
    (flags,) = seen
    assert flags & os.O_DIRECT
    assert flags & os.O_NONBLOCK
    assert flags & os.O_ACCMODE == os.O_RDONLY
    assert [each.name for each in tmp_path.iterdir()] == ["disk.raw"]


def procfs(root: Path, **values: object) -> Path:
    for name, value in values.items():
        path = root / "sys" / name.replace("__", "/").replace("_nr", "-nr").replace("_max", "-max")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


@pytest.mark.parametrize(("value", "allowed"), [(None, True), (0, True), (1, False), (2, False), ("odd", False)])
def test_io_uring_that_is_kept_from_processes_without_privilege_is_not_there(
    tmp_path: Path, value: object, allowed: bool
) -> None:
    if value is not None:
        procfs(tmp_path, kernel__io_uring_disabled=value)
    assert diskio.allows_io_uring(tmp_path) is allowed


@pytest.mark.parametrize(("taken", "room"), [(0, True), (49152, True), (49153, False), (65536, False)])
def test_linux_aio_needs_room_for_one_more_qemu_and_for_others(tmp_path: Path, taken: int, room: bool) -> None:
    procfs(tmp_path, fs__aio_nr=taken, fs__aio_max_nr=65536)
    assert diskio.has_room_for_aio(tmp_path) is room


def test_a_kernel_that_does_not_tell_has_no_room(tmp_path: Path) -> None:
    assert not diskio.has_room_for_aio(tmp_path)
    assert not diskio.has_room_for_aio(procfs(tmp_path, fs__aio_nr=1))


@pytest.mark.parametrize(
    ("io", "block", "node"),
    [
        ("io_uring", False, {"driver": "file", "aio": "io_uring", "cache": {"direct": False}}),
        ("native", False, {"driver": "file", "aio": "native", "cache": {"direct": True}}),
        ("native", True, {"driver": "host_device", "aio": "native", "cache": {"direct": True}}),
    ],
)
def test_qemus_own_code_opens_the_disk_beside_a_guest_that_may_have_it(
    monkeypatch: pytest.MonkeyPatch, io: Any, block: bool, node: dict[str, object]
) -> None:
    said: list[Sequence[str]] = []

    def run(argv: Sequence[str], **_: object) -> str:
        said.append(argv)
        return ""

    monkeypatch.setattr(process, "run", run)
    path = Path('/a, "b"/d.raw')
    assert diskio.works(io, path, block=block)
    ((*words, disk),) = said
    assert words == ["qemu-img", "info", "--force-share"]
    assert json.loads(disk.removeprefix("json:")) == {**node, "filename": str(path)}


def test_what_qemu_cannot_open_it_with_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> str:
        raise ProcessError("qemu-img: failed to init linux io_uring ring", 1)

    monkeypatch.setattr(process, "run", run)
    assert not diskio.works("io_uring", Path("/d"), block=False)


def test_what_qemu_does_not_say_in_time_is_not_taken_for_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object, **__: object) -> str:
        raise ProcessError("qemu-img did not end within 10 s", late=True)

    monkeypatch.setattr(process, "run", run)
    with pytest.raises(ProcessError, match="within 10 s"):
        diskio.works("io_uring", Path("/d"), block=False)
