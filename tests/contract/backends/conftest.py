"""Backends of a worker, each started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets


@pytest.fixture(scope="session")
def ceph_of_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ceph]:
    """The worker's cluster; tests take `ceph`."""
    with Ceph(tmp_path_factory.mktemp("ceph")) as ceph:
        yield ceph


@pytest.fixture
def ceph(ceph_of_worker: Ceph) -> Ceph:
    """A cluster that serves, whatever the test before did to it."""
    ceph_of_worker.start()
    return ceph_of_worker


@pytest.fixture(scope="session")
def targets_of_worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Targets]:
    """The worker's portal; tests take `targets`."""
    with Targets(tmp_path_factory.mktemp("iscsi")) as targets:
        yield targets


@pytest.fixture
def targets(targets_of_worker: Targets) -> Targets:
    """A portal that serves, whatever the test before did to it."""
    targets_of_worker.start()
    return targets_of_worker
