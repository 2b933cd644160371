"""A machine's directory and an image directory that QEMU's tools can really use."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.paths import MachinePaths

MACHINE = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    root = tmp_path / "machine"
    root.mkdir()
    return MachinePaths(root)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    directory = tmp_path / "images"
    directory.mkdir()
    return directory
