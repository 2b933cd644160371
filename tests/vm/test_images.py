"""Images from a registry as a whole host has them: fetched in the unit's sandbox, past AppArmor, and no tenant's own.

The registry runs in the machine, where the tests' own code starts and fills it. What goes wrong with images otherwise
does not belong here (tests/contract/images).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.vm.machine import CHECKOUT, PYTHON
from tests.vm.service import IMAGE, STATE, Service, spec, wait_for

HOST = "127.77.0.1"
SERVE = f"""
import pathlib, signal, tempfile
from tests import guest
from tests.backends import artifacts
from tests.backends.registry import Registry
from tests.guest import build, parts

work = pathlib.Path(tempfile.mkdtemp())
with Registry(work, address="{HOST}") as registry:
    files = {{"rootfs": guest.image(), "kernel": parts.kernel(work), "initramfs": parts.initramfs(work)}}
    artifacts.ironcore(registry, "tiny", "kernel", parts=files, command_line=build.OPTIONS)
    pathlib.Path("/run/sri-registry").write_text(registry.host)
    signal.pause()
"""
CACHE = f"{STATE}/images/sha256"


@pytest.fixture(scope="module")
def registry(service: Service) -> Iterator[str]:
    """Its host, which the provider may ask."""
    vm = service.vm
    vm.run("rm -f /run/sri-registry")
    vm.run(
        f"systemd-run --quiet --unit=sri-registry --working-directory={CHECKOUT} -E HOME=/root {PYTHON} -c '{SERVE}'"
    )
    wait_for("a registry", lambda: vm.ask("test -s /run/sri-registry").returncode == 0)
    host = vm.run("cat /run/sri-registry").strip()
    service.configure(f'insecure_registry = ["{host}"]\n')
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    yield host
    service.configure("")
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    vm.ask("systemctl stop sri-registry")


def owners(service: Service, *paths: str) -> list[str]:
    return service.vm.run(f"stat -c '%U %a' {' '.join(paths)}").splitlines()


def test_a_kernel_is_booted_past_apparmor_and_the_cache_stays_everybodys(service: Service, registry: str) -> None:
    before = len(service.denials())
    wanted = spec("tiny", image=False)
    wanted.image.image = f"{registry}/tiny:kernel"
    machine = service.create("fetched", wanted)
    service.wait_line(machine, "up")
    assert "<kernel>" in service.xml(machine)
    assert service.get(machine).status.image_ref.startswith(f"{registry}/tiny@sha256:")
    guest = service.guests()[machine]
    profile = service.vm.run(f"cat /proc/{guest.pid}/attr/current").strip("\n\0")
    assert profile == f"libvirt-{machine} (enforce)"
    copies = [f"{STATE}/machines/{machine}/{name}" for name in ("kernel", "initramfs")]
    assert {line.split()[0] for line in owners(service, *copies)} == {"libvirt-qemu"}, "its own, while it runs"
    assert set(owners(service, f"{CACHE}/*")) == {"root 444"}
    (listed,) = [each for each in _listed(service) if each["format"] == "raw"]
    assert listed["machines"] == 1
    service.power(machine, pb.POWER_OFF)
    service.wait_state(machine, "MACHINE_SUSPENDED")
    service.vm.run("systemctl stop sri-registry")
    service.power(machine, pb.POWER_ON)
    service.wait_line(machine, "up", count=2)
    assert len(service.denials()) == before
    service.delete(machine)
    assert "came free" in service.vm.run("sri-libvirt images prune --all")
    assert _listed(service) == []


def _listed(service: Service) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(service.vm.run("sri-libvirt images list -o json"))["files"]
    return found


def test_an_image_where_qemus_user_does_not_get_to_is_named(service: Service) -> None:
    """Before QEMU is started, and with what to do."""
    closed = f"{IMAGE.rpartition('/')[0]}/closed"
    service.vm.run(f"install -d -m 0700 {closed} && cp --sparse=always -p {IMAGE} {closed}/")
    wanted = spec("tiny", image=False)
    wanted.image.image = f"{closed}/tiny.raw"
    machine = service.create("closed", wanted)
    wait_for("the reason", lambda: f"cannot pass the directory {closed} of the image" in service.why(machine))
    assert f"chmod o+x {closed}" in service.why(machine)
    service.vm.run(f"chmod o+x {closed}")
    service.wait_line(machine, "up")
    service.delete(machine)
    service.vm.run(f"rm -r {closed}")
