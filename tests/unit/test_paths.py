"""Where files lie while they are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt import paths


@pytest.mark.parametrize("name", ["empty-94c680144b12aee3-67108864.qcow2", "image.qcow2", "seed.raw", "kernel"])
def test_what_is_being_made_looks_like_no_disk(name: str) -> None:
    made = paths.unfinished(Path("/machines/m") / name)
    assert made.parent == Path("/machines/m")
    assert not any(made.match(pattern) for pattern in (name, "*.qcow2", "*.raw"))
