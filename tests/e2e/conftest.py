"""One private libvirtd per worker; every test leaves it running and without domains."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests import guest
from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, wait_for
from tests.terminal import relay as relaying


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With a failure comes what the daemons said: it may never happen again."""
    report = yield
    if report.failed:
        arguments = getattr(item, "funcargs", {})
        private, provider = arguments.get("private_libvirt"), arguments.get("provider")
        if isinstance(private, PrivateLibvirt):
            report.sections.append(("libvirt's log", private.log()))
        if isinstance(provider, Provider):
            report.sections.append(("the provider's log", provider.log()))
    return report


@pytest.fixture(scope="session")
def libvirt_of_worker() -> Iterator[PrivateLibvirt]:
    """The worker's libvirtd; tests take `private_libvirt`."""
    private = PrivateLibvirt()
    try:
        private.start()
        yield private
    finally:
        private.close()


@pytest.fixture
def private_libvirt(libvirt_of_worker: PrivateLibvirt) -> Iterator[PrivateLibvirt]:
    """A running libvirtd without domains, whatever the test before did to it."""
    libvirt_of_worker.start()
    yield libvirt_of_worker
    libvirt_of_worker.start()
    libvirt_of_worker.remove_domains()


@pytest.fixture
def network(private_libvirt: PrivateLibvirt) -> Iterator[str]:
    """A libvirt network with DHCP on the worker's own libvirtd."""
    private_libvirt.network("lan")
    yield "lan"
    private_libvirt.remove_network("lan")


@pytest.fixture
def provider(private_libvirt: PrivateLibvirt) -> Iterator[Provider]:
    """A provider that the test starts, watched as by a poollet; ended with its guests, whatever the test did to it."""
    made = Provider(private_libvirt, private_libvirt.directory("sri"))
    try:
        yield made
        made.expect_rest()
    finally:
        made.kill()


@pytest.fixture
def relay(private_libvirt: PrivateLibvirt, tmp_path: Path) -> Iterator[str]:
    """A way to the provider's streaming address, which is in libvirt's network namespace."""
    socket, log = str(tmp_path / "relay"), tmp_path / "relay.log"
    with log.open("wb") as output:
        argv = [sys.executable, relaying.__file__, socket]
        child = private_libvirt.popen(argv, stdout=output, stderr=output)
    wait_for("the relay", lambda: b"ready" in log.read_bytes())
    yield socket
    child.terminate()
    child.wait(10)


@pytest.fixture
def tiny_image(provider: Provider) -> Path:
    """The tiny guest's disk below the provider's image directory, readable as a host's images are."""
    target = provider.images / "tiny.raw"
    shutil.copyfile(guest.image(), target)
    target.chmod(0o444)
    return target


@pytest.fixture(scope="session")
def ceph_of_worker(libvirt_of_worker: PrivateLibvirt) -> Iterator[Ceph]:
    """The worker's cluster, where its guests run; tests take `ceph`."""
    with Ceph(libvirt_of_worker.directory("ceph"), libvirt_of_worker.inside) as ceph:
        yield ceph


@pytest.fixture
def ceph(ceph_of_worker: Ceph) -> Ceph:
    """A cluster that serves, whatever the test before did to it."""
    ceph_of_worker.start()
    return ceph_of_worker


@pytest.fixture(scope="session")
def targets_of_worker(libvirt_of_worker: PrivateLibvirt) -> Iterator[Targets]:
    """The worker's iSCSI portal, where its guests run; tests take `targets`."""
    with Targets(libvirt_of_worker.directory("iscsi"), libvirt_of_worker.inside) as targets:
        yield targets


@pytest.fixture
def targets(targets_of_worker: Targets) -> Targets:
    """A portal that serves, whatever the test before did to it."""
    targets_of_worker.start()
    return targets_of_worker
