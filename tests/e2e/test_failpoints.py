"""A real provider fails, hangs or is killed at points of its work; on real QEMU, too, the work is finished.

Some chosen points run with every test run. The matrix (`make test-all`) records what a flow passes and runs it once
for every point and kind; which points there are is `failpoints.py`'s business.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import FailedPrecondition, Unavailable
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, LABEL_UID
from sri_libvirt.server import asking
from tests import guest, third_party
from tests.backends import artifacts, luks
from tests.backends.ceph import Ceph
from tests.backends.nbd import NbdServer
from tests.backends.registry import PORT, Registry
from tests.e2e.connected import ceph_volume, connected, expect_released, new_name
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for
from tests.e2e.test_restarts import domains, expect_nothing_left, guests
from tests.e2e.test_secrets import attach as attach_volume
from tests.e2e.test_secrets import locked
from tests.points import distinct

pytestmark = pytest.mark.e2e

VARIABLE = "SRI_LIBVIRT_FAILPOINT"
REGISTRY = "127.86.86.86"
"""Where a registry is in a worker's own network, for flows that need one."""

OPTIONS = (
    "--firmware", "bios", "--shutdown-grace", "1s", "--detach-settle", "0s", "--call-deadline", "20s",
    "--insecure-registry", REGISTRY,
)  # fmt: skip
PATIENCE = 120.0
PASSPHRASE = b"open, sesame"
PARTS = 4


def create(provider: Provider, _: str) -> None:
    machine = pb.Machine(spec=spec(disks={"data": "oda"}, nics={"nic": "isolated"}))
    machine.metadata.labels.update({LABEL_UID: "uid-1", LABEL_NAMESPACE: "default", LABEL_NAME: "m"})
    provider.stub.CreateMachine(pb.CreateMachineRequest(machine=machine), timeout=10)


def create_fetched(provider: Provider, _: str, tag: str = "disk") -> None:
    machine = pb.Machine(spec=spec(disks={"data": "oda"}))
    machine.spec.image.image = f"{REGISTRY}:{PORT}/org/image:{tag}"
    machine.metadata.labels.update({LABEL_UID: "uid-1", LABEL_NAMESPACE: "default", LABEL_NAME: "m"})
    provider.stub.CreateMachine(pb.CreateMachineRequest(machine=machine), timeout=10)


def create_unpacked(provider: Provider, machine_id: str) -> None:
    create_fetched(provider, machine_id, "layers")


def collect(provider: Provider, _: str) -> None:
    """Remove all images that no machine needs; who was killed meanwhile gives no answer."""
    with suppress(Unavailable, FailedPrecondition):
        asking.ask(provider.state / "admin.sock", "images-prune", {"all": True}, seconds=PATIENCE)


def attach(provider: Provider, machine_id: str) -> None:
    volume = pb.Volume(name="late", device="odb")
    volume.empty_disk.size_bytes = 1 << 20
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)


def boot(provider: Provider, _: str) -> None:
    """A guest that lets a disk go which it is asked for."""
    image = provider.images / "tiny.raw"
    shutil.copyfile(guest.image(), image)
    image.chmod(0o444)
    machine = pb.Machine(spec=spec(image=image, disks={"data": "oda"}))
    machine.metadata.labels.update({LABEL_UID: "uid-1", LABEL_NAMESPACE: "default", LABEL_NAME: "m"})
    reply = provider.stub.CreateMachine(pb.CreateMachineRequest(machine=machine), timeout=10)
    provider.wait_console(reply.machine.metadata.id, "tiny: up")


def attach_connected(provider: Provider, machine_id: str) -> None:
    """Its server has it encrypted: it needs a probe, a secret and a connection."""
    host, port = address_file(provider.libvirt).read_text().split()
    attributes = {"address": f"{host}:{port}", "export": "e"}
    volume = connected("late", "nbd", attributes, encryption={"encryptionKey": PASSPHRASE})
    attach_volume(provider, machine_id, volume)


def attach_image(provider: Provider, machine_id: str) -> None:
    """Of Ceph: it is asked who else has it open, too, and its key is lent."""
    volume = pb.Volume.FromString(image_file(provider.libvirt).read_bytes())
    attach_volume(provider, machine_id, volume)


def detach(provider: Provider, machine_id: str) -> None:
    provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="late"), timeout=10)


def attach_locked(provider: Provider, machine_id: str) -> None:
    attach_volume(provider, machine_id, locked(provider, "late", "odb"))


def attach_addressed(provider: Provider, machine_id: str) -> None:
    """Its address is reserved, and it is filtered."""
    nic = pb.NetworkInterface(name="late", network_id="lan", ips=["10.99.71.57"])
    request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
    provider.stub.AttachNetworkInterface(request, timeout=10)


def detach_addressed(provider: Provider, machine_id: str) -> None:
    request = pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name="late")
    provider.stub.DetachNetworkInterface(request, timeout=10)


def off(provider: Provider, machine_id: str) -> None:
    provider.power(machine_id, pb.POWER_OFF)


def on(provider: Provider, machine_id: str) -> None:
    provider.power(machine_id, pb.POWER_ON)


def delete(provider: Provider, machine_id: str) -> None:
    provider.delete(machine_id)


@dataclass(frozen=True)
class Flow:
    """What is asked before the provider is armed, what then, and what must come of it."""

    before: tuple[Callable[[Provider, str], None], ...]
    wish: Callable[[Provider, str], None]
    state: str
    disks: int = 1


FLOWS = {
    "create": Flow((), create, "MACHINE_RUNNING"),
    "fetched": Flow((), create_fetched, "MACHINE_RUNNING"),
    "unpacked": Flow((), create_unpacked, "MACHINE_RUNNING"),
    "collected": Flow((create_fetched, delete), collect, "GONE"),
    "attach": Flow((create,), attach, "MACHINE_RUNNING", disks=2),
    "locked": Flow((create,), attach_locked, "MACHINE_RUNNING", disks=2),
    "connected": Flow((create,), attach_connected, "MACHINE_RUNNING", disks=2),
    "connected-on": Flow((create, attach_connected, off), on, "MACHINE_RUNNING", disks=2),
    "ceph": Flow((create,), attach_image, "MACHINE_RUNNING", disks=2),
    "given-back": Flow((boot, attach_connected), detach, "MACHINE_RUNNING"),
    "addressed": Flow((create,), attach_addressed, "MACHINE_RUNNING"),
    "given-up": Flow((boot, attach_addressed), detach_addressed, "MACHINE_RUNNING"),
    "power-off": Flow((create,), off, "MACHINE_SUSPENDED"),
    "power-on": Flow((create, off), on, "MACHINE_RUNNING"),
    "delete": Flow((create,), delete, "GONE"),
}

CHOSEN = [
    ("create", "kill 1 before perform.Define"),
    ("create", "kill 1 after process.qemu-img"),
    ("create", "kill 1 after libvirt.define"),
    ("create", "kill 1 before libvirt.start"),
    ("create", "kill 1 after libvirt.start"),
    ("create", "kill 1 after store.Performer._begin_run"),
    ("create", "fail 1 after libvirt.define"),
    ("create", "fail 1 after libvirt.start"),
    ("create", "hang 1 before libvirt.start"),
    ("fetched", "kill 1 before process.image-fetcher"),
    ("fetched", "kill 1 after store.MachineImage.resolve"),
    ("fetched", "kill 2 after process.image-fetcher"),
    ("fetched", "fail 2 after process.image-fetcher"),
    ("fetched", "kill 1 after images.install"),
    ("fetched", "kill 1 after store.Cache.keep"),
    ("unpacked", "kill 1 after images.room"),
    ("unpacked", "fail 1 before images.room"),
    ("unpacked", "kill 1 before images.install"),
    ("collected", "kill 1 before images.remove"),
    ("collected", "kill 1 after images.remove"),
    ("collected", "fail 1 before images.remove"),
    ("attach", "kill 1 before libvirt.attach_device"),
    ("attach", "kill 1 after libvirt.attach_device"),
    ("attach", "fail 1 after libvirt.attach_device"),
    ("attach", "hang 1 after libvirt.attach_device"),
    ("locked", "kill 1 after libvirt.set_secret"),
    ("locked", "kill 1 before libvirt.drop_secret"),
    ("locked", "fail 1 before libvirt.drop_secret"),
    ("locked", "hang 1 after libvirt.set_secret"),
    ("connected", "kill 1 before process.qemu-img"),
    ("connected", "kill 1 after process.qemu-img"),
    ("connected", "fail 1 after process.qemu-img"),
    ("connected", "kill 1 after libvirt.set_secret"),
    ("connected", "hang 1 after libvirt.attach_device"),
    ("connected-on", "kill 1 after libvirt.set_secret"),
    ("ceph", "kill 1 after process.rbd"),
    ("given-back", "kill 1 after libvirt.detach_device"),
    ("given-back", "kill 1 after perform.ReleaseDevice"),
    ("addressed", "kill 1 after libvirt.have_filter"),
    ("addressed", "kill 1 after libvirt.reserve"),
    ("addressed", "fail 1 after libvirt.reserve"),
    ("addressed", "hang 1 before libvirt.reserve"),
    ("addressed", "kill 1 after libvirt.attach_device"),
    ("given-up", "kill 1 after libvirt.detach_device"),
    ("given-up", "kill 1 before libvirt.unreserve"),
    ("given-up", "kill 1 after libvirt.unreserve"),
    ("given-up", "fail 1 after libvirt.unreserve"),
    ("power-off", "kill 1 after libvirt.press_power_button"),
    ("power-off", "kill 1 after libvirt.destroy"),
    ("power-on", "kill 1 after libvirt.start"),
    ("delete", "kill 1 after libvirt.destroy"),
    ("delete", "kill 1 after libvirt.undefine"),
    ("delete", "kill 1 after perform.RemoveFiles"),
    ("delete", "hang 1 before libvirt.undefine"),
]


@pytest.fixture(autouse=True)
def drivers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(third_party.install(tmp_path / "site")))


def address_file(private: PrivateLibvirt) -> Path:
    """Where flows read at which address the backend of connected volumes listens."""
    return private.base / "backend"


@pytest.fixture(autouse=True)
def backend(private_libvirt: PrivateLibvirt, tmp_path: Path) -> Iterator[NbdServer]:
    """The server of connected volumes, where guests run."""
    file = tmp_path / "late.raw"
    luks.make(file, 1 << 20, PASSPHRASE, 1)
    with NbdServer(file, "e", private_libvirt.inside) as server:
        address_file(private_libvirt).write_text(f"{server.host} {server.port}")
        yield server


def image_file(private: PrivateLibvirt) -> Path:
    """Where a flow reads the volume that is an image of Ceph."""
    return private.base / "image"


@pytest.fixture(autouse=True)
def image(request: pytest.FixtureRequest, private_libvirt: PrivateLibvirt) -> Iterator[None]:
    """An image of Ceph, for the flow that needs one; nobody has it open in the end."""
    if request.node.callspec.params["name"] != "ceph":
        yield
        return
    ceph: Ceph = request.getfixturevalue("ceph")
    name = ceph.image(new_name(), 1 << 20)
    image_file(private_libvirt).write_bytes(ceph_volume(ceph, name, "late").SerializeToString())
    yield
    wait_for("end of its watchers", lambda: not ceph.watchers(name), PATIENCE)
    ceph.remove(name)


@pytest.fixture(autouse=True)
def lan(request: pytest.FixtureRequest, private_libvirt: PrivateLibvirt) -> Iterator[None]:
    """A network that reserves addresses, for the flows that need one; it has none reserved in the end."""
    if request.node.callspec.params["name"] not in ("addressed", "given-up"):
        yield
        return
    private_libvirt.network("lan", kept=True)
    yield
    private_libvirt.start()
    xml = private_libvirt.run(["sh", "-c", "cat /etc/libvirt/qemu/networks/lan.xml /run/libvirt/network/lan.xml"])
    private_libvirt.remove_network("lan")
    assert "<range " in xml
    assert "<host " not in xml


@pytest.fixture(autouse=True)
def registry(request: pytest.FixtureRequest, private_libvirt: PrivateLibvirt) -> Iterator[None]:
    """A registry with images, where guests run."""
    if request.node.callspec.params["name"] not in ("fetched", "unpacked", "collected"):
        yield
        return
    directory = private_libvirt.directory("registry")
    with Registry(directory, inside=private_libvirt.inside, address=REGISTRY), Registry(directory) as fill:
        root = b"\xeb\x3c\x90" + bytes(1 << 20)
        artifacts.ironcore(fill, "org/image", "disk", parts={"rootfs": root})
        artifacts.container_disk(fill, "org/image", "layers", layers=[artifacts.disk(root)], packing="zstd")
        yield


def machine_id(provider: Provider) -> str:
    machines = provider.machines()
    return str(machines[0].metadata.id) if machines else ""


def rest(provider: Provider, flow_state: str, disks: int) -> bool:
    """Whether the one machine is what was asked for, with nothing more to do."""
    machines = provider.machines()
    if not machines:
        return flow_state == "GONE"
    (machine,) = machines
    attached = [each.state for each in machine.status.volumes] == [pb.VOLUME_ATTACHED] * disks
    return (
        pb.MachineState.Name(machine.status.state) == flow_state
        and attached
        and machine.status.observed_generation == machine.metadata.generation
        and not provider.reasons(machine.metadata.id)
    )


def rests(what: str, provider: Provider, state: str, disks: int) -> None:
    """Wait for it; AssertionError, with why it does not and the provider's log."""
    try:
        wait_for(what, lambda: rest(provider, state, disks), PATIENCE)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{provider.why(machine_id(provider))}\n{provider.log()}") from None


def prepare(provider: Provider, flow: Flow) -> None:
    if not flow.before:
        return
    provider.start(*OPTIONS)
    disks = 1
    for wish in flow.before:
        wish(provider, machine_id(provider))
        state = "MACHINE_SUSPENDED" if wish is off else "GONE" if wish is delete else "MACHINE_RUNNING"
        disks += wish is attach_connected
        rests(f"{state} before the flow", provider, state, disks)
    provider.stop()


def ask(provider: Provider, flow: Flow) -> None:
    """As the poollet does: an answer that did not come is no answer, and it asks again later."""
    with suppress(grpc.RpcError):
        flow.wish(provider, machine_id(provider))


def harmed(provider: Provider, kind: str) -> bool:
    process = provider.process
    assert process is not None
    if kind == "kill":
        return process.poll() is not None
    if kind == "fail":  # which may have been the end of a start
        return "a failpoint does its harm" in (provider.root / "provider.log").read_text(errors="replace")
    assert process.poll() is None, provider.log()
    found = machine_id(provider)
    return bool(found) and not {"stuck-call", "stuck-work"}.isdisjoint(provider.reasons(found))


def leave(provider: Provider, kind: str) -> None:
    """End what is left of a provider that was harmed."""
    if kind == "hang":
        provider.kill()
        return
    provider.channel.close()
    process, provider.process = provider.process, None
    assert isinstance(process, subprocess.Popen)
    process.wait(10)


def ended(provider: Provider) -> bool:
    return provider.process is None or provider.process.poll() is not None


def lists(provider: Provider) -> bool:
    """Whether it lists machines: an empty store does once libvirt was asked."""
    with suppress(grpc.RpcError):
        provider.machines()
        return True
    return False


def end(provider: Provider, machine: str) -> None:
    provider.delete(machine)
    wait_for("end of the machine", lambda: not provider.machines(), PATIENCE)


def run(provider: Provider, monkeypatch: pytest.MonkeyPatch, flow: Flow, armed: str) -> None:
    """The flow with the harm, another provider where that is needed, and what must be true in the end."""
    kind = armed.split(" ", 1)[0]
    prepare(provider, flow)
    monkeypatch.setenv(VARIABLE, armed)
    with suppress(AssertionError):  # killed before it could answer
        provider.start(*OPTIONS)
    with suppress(grpc.RpcError):
        ask(provider, flow)
    wait_for(f"harm of {armed}", lambda: harmed(provider, kind), PATIENCE)
    monkeypatch.delenv(VARIABLE)
    if kind != "fail":
        leave(provider, kind)
        provider.start(*OPTIONS)
    elif ended(provider):  # it could not begin, and is begun again, as by systemd
        provider.start(*OPTIONS)
    wait_for("a list", lambda: lists(provider), PATIENCE)
    if machine_id(provider) or flow.wish in (create, create_fetched, create_unpacked, collect):
        ask(provider, flow)
    rests(f"rest after {armed}", provider, flow.state, flow.disks)
    found = machine_id(provider)
    if found:
        assert domains(provider) == [found]
        assert guests(provider) == ([found] if flow.state == "MACHINE_RUNNING" else [])
        end(provider, found)
    expect_nothing_left(provider)
    cache = provider.state / "images" / "sha256"
    assert list(cache.glob("*" if flow.wish is collect else "*.part")) == []
    host, port = address_file(provider.libvirt).read_text().split()
    expect_released(provider, (host, int(port)))
    provider.stop()


@pytest.mark.parametrize(("name", "armed"), CHOSEN, ids=[f"{name}-{armed}" for name, armed in CHOSEN])
def test_a_provider_that_is_hit_finishes(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, name: str, armed: str
) -> None:
    run(provider, monkeypatch, FLOWS[name], armed)


@pytest.mark.matrix
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("kind", ["kill", "fail", "hang"])
@pytest.mark.parametrize("name", FLOWS)
def test_a_provider_that_is_hit_anywhere_finishes(
    private_libvirt: PrivateLibvirt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str, part: int
) -> None:
    """All points of a flow, in parts that can run side by side; all of a part are tried, whatever fails."""
    flow = FLOWS[name]
    points = recorded(private_libvirt, monkeypatch, flow, tmp_path / "points")
    if kind == "hang":
        points = [point for point in points if " libvirt." in point[1]]
    failed = []
    for nth, point in distinct(points, kind)[part::PARTS]:
        armed = f"{kind} {nth} {point}"
        provider = Provider(private_libvirt, private_libvirt.directory("sri"))
        try:
            run(provider, monkeypatch, flow, armed)
        except (AssertionError, grpc.RpcError, subprocess.TimeoutExpired) as error:
            failed.append(f"{armed}: {error}")
        finally:
            monkeypatch.delenv(VARIABLE, raising=False)
            provider.kill()
            private_libvirt.start()
            private_libvirt.remove_domains()
        print(f"{name}: {armed}: {'failed' if failed and failed[-1].startswith(armed) else 'finished'}")
    assert not failed, "\n\n".join(failed)


def recorded(
    private: PrivateLibvirt, monkeypatch: pytest.MonkeyPatch, flow: Flow, listing: Path
) -> list[tuple[int, str]]:
    """All points that a flow passes, each with the number of its pass."""
    provider = Provider(private, private.directory("sri"))
    try:
        prepare(provider, flow)
        monkeypatch.setenv(VARIABLE, f"record {listing}")
        provider.start(*OPTIONS)
        ask(provider, flow)
        rests("rest of the recorded flow", provider, flow.state, flow.disks)
        monkeypatch.delenv(VARIABLE)
        # Once for each point: how often the loop looks in vain differs from run to run.
        passed = [(1, point) for point in dict.fromkeys(listing.read_text().splitlines())]
        if found := machine_id(provider):
            end(provider, found)
        return passed
    finally:
        provider.kill()
        private.remove_domains()
