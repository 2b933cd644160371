"""A machine's directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.paths import MachinePaths


@pytest.fixture
def paths(tmp_path: Path) -> MachinePaths:
    root = tmp_path / "machine"
    root.mkdir()
    return MachinePaths(root)
