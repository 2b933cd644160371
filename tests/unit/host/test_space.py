"""What of a file system is not for machines: what others hold, and not what machines' own files take."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sri_libvirt.host.space import Space, held, space

MIB = 1 << 20


def test_only_what_is_written_of_a_sparse_file_is_held(tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    directory.mkdir()
    sparse = directory / "disk.qcow2"
    sparse.write_bytes(b"x" * MIB)
    with sparse.open("r+b") as file:
        file.truncate(1000 * MIB)
    (directory / "link").symlink_to("/nowhere")
    assert MIB <= held(tmp_path) < 2 * MIB
    assert held(tmp_path / "absent") == 0


def test_our_own_files_are_not_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = tmp_path / "machines"
    (ours / "one").mkdir(parents=True)
    (ours / "one" / "disk").write_bytes(b"x" * MIB)
    values = (1024, 1024, 100 * 1024, 60 * 1024, 50 * 1024, 0, 0, 0, 0, 255)  # blocks: all, free, available
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(values))
    assert space(tmp_path, ours) == Space(100 * MIB, 50 * MIB - held(ours))
