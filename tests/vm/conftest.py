"""The virtual machine of these tests; without `--vm RELEASE` none of them runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import image
from tests.vm.machine import VM
from tests.vm.pool import Pool
from tests.vm.service import Service

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here, before the whole suite's conftest looks at the marks."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.vm)
            # Each wait has a deadline of its own that says what did not come; this one is for a bug in the tests.
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="session")
def vm(request: pytest.FixtureRequest) -> VM:
    """The machine that `make vm` or `make test-vm` made."""
    return VM.of(request.config.getoption("--vm"))


@pytest.fixture(scope="session")
def service(vm: VM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The provider, freshly installed as a service and without machines; its client is connected."""
    work = tmp_path_factory.mktemp("vm")
    service = Service(vm, work)
    service.uninstall("--purge", "--with-machines")  # what an earlier run left
    service.prepare(image())
    service.install(service.wheel())
    vm.run("usermod -aG sri-libvirt vagrant")
    vm.hang_up()  # a session has the groups that its user had when it began
    service.connect()
    yield service
    service.disconnect()


@pytest.fixture(scope="session")
def pool(service: Service) -> Pool:
    """Machines that tests share."""
    return Pool(service)
