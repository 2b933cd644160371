"""A store on real files, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store
from tests.unit.reconcile.parts import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(root: Path, clock: Clock) -> Iterator[Store]:
    store = Store.open(StatePaths(root), clock)
    yield store
    store.close()
