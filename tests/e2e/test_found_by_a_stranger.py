"""Ten faults, planted here and found by who knows nothing but the commands: `machine list|why|describe|events|xml`,
`classes --check`. What each command says word by word does not belong here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import libvirt
import pytest
import yaml

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e


class Host:
    """The host of one provider, and the stranger at its command line."""

    def __init__(self, provider: Provider, private: PrivateLibvirt, image: Path) -> None:
        self.provider, self.private, self.image = provider, private, image
        self.machine_id = ""

    def begin(self, *options: str, machine: pb.MachineSpec | None = None) -> None:
        """A provider with a machine that runs, if it is to."""
        self.provider.start("--firmware", "bios", *options)
        self.machine_id = self.provider.create(machine or spec(image=self.image, disks={"data": "oda"})).metadata.id

    def runs(self) -> None:
        self.finds(lambda: self.asks("console", self.machine_id, "--log"), "tiny: up")

    def asks(self, *words: str, typed: str = "") -> str:
        """What a command says, whatever its status."""
        argv = [sys.executable, "-m", "sri_libvirt", *words, "--state-dir", str(self.provider.state)]
        done = subprocess.run(
            self.private.inside(argv), input=typed, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def machine(self, command: str, *words: str) -> str:
        return self.asks("machine", command, self.machine_id, *words)

    def finds(self, command: Callable[[], str], *words: str) -> None:
        """The cause is there, as soon as anybody can know it."""
        wait_for(f"{words} in what is said", lambda: all(word in command() for word in words))


@pytest.fixture
def host(provider: Provider, private_libvirt: PrivateLibvirt, tiny_image: Path) -> Host:
    return Host(provider, private_libvirt, tiny_image)


@contextmanager
def missing_image(host: Host) -> Iterator[None]:
    host.begin(machine=spec(image=host.provider.images / "none.raw"))
    yield
    host.finds(lambda: host.machine("why"), "none.raw is not there (yet)", "the machine starts then")
    host.finds(lambda: host.asks("machine", "list"), "PENDING", "none.raw is not there (yet)")


@contextmanager
def locked_disk(host: Host) -> Iterator[None]:
    files = host.private.directory("files")
    disk = files / "data.raw"
    disk.write_bytes(bytes(1 << 20))
    host.begin("--file-dir", str(files))
    host.runs()
    held = host.private.popen(["qemu-io", "-f", "raw", disk], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    volume = pb.Volume(name="more", device="odb")
    volume.connection.driver, volume.connection.handle = "file", "more"
    volume.connection.attributes.update(path=str(disk), format="raw")
    host.provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=host.machine_id, volume=volume), timeout=10)
    yield
    host.finds(lambda: host.machine("why"), 'Volume "more"', '"write" lock', "lslocks and fuser -v FILE tell which")
    host.finds(lambda: host.machine("describe"), "volume more", "PENDING", "(in-use, since")
    held.kill()
    held.wait()


@contextmanager
def edited_domain(host: Host) -> Iterator[None]:
    host.begin()
    host.runs()
    connection = libvirt.open(host.private.uri)
    xml = connection.lookupByUUIDString(host.machine_id).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    connection.defineXML(xml.replace("</devices>", "<graphics type='vnc'/></devices>"))
    connection.close()
    yield
    host.finds(lambda: host.machine("why"), "Somebody else has changed its domain", "graphics")
    places = ("--libvirt-uri", host.private.uri)
    host.finds(lambda: host.machine("xml", "--diff", *places), "--- as-defined", "+another device, graphics")


@contextmanager
def full_disk(host: Host) -> Iterator[None]:
    host.provider.state.mkdir(mode=0o711)
    host.private.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=711", "none", host.provider.state])
    host.begin(machine=spec(image=host.image))
    host.runs()
    fill = "head -c 1G /dev/zero > {0}/ballast 2>/dev/null; head -c 1M /dev/zero >> {0}/ballast 2>/dev/null; true"
    host.private.run(["sh", "-c", fill.format(host.provider.state)])
    pid = host.provider.qemu_pid(host.machine_id)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    yield
    host.finds(lambda: host.asks("machine", "list"), "is full, so this may be out of date")
    host.finds(lambda: host.machine("why"), f"The file system of {host.provider.state} is full")
    host.private.run(["rm", host.provider.state / "ballast"])
    host.finds(lambda: host.machine("events"), "killed")


@contextmanager
def dead_libvirtd(host: Host) -> Iterator[None]:
    host.begin()
    host.runs()
    host.private.kill()
    try:
        yield
        host.finds(lambda: host.machine("why"), "Libvirt cannot be asked", "systemctl start libvirtd")
        host.finds(lambda: host.machine("describe"), "domain", "unknown: libvirt cannot be reached", "process ")
    finally:
        host.private.start()


@contextmanager
def stuck_qemu(host: Host) -> Iterator[None]:
    host.begin("--call-deadline", "4s", "--shutdown-grace", "2m")
    host.runs()
    pid = host.provider.qemu_pid(host.machine_id)
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        late = pb.Volume(name="late", device="odb", empty_disk=pb.EmptyDisk(size_bytes=1 << 20))
        host.provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=host.machine_id, volume=late), timeout=10)
        yield
        host.finds(lambda: host.machine("why"), "has not come back in time", "Its QEMU or the storage below it hangs")
        host.finds(lambda: host.machine("events"), "stuck-call")
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def lost_mount(host: Host) -> Iterator[None]:
    elsewhere = host.private.directory("elsewhere")
    host.private.run(["mount", "-t", "tmpfs", "-o", "size=96m,mode=755", "none", elsewhere])
    host.private.run(["cp", "--sparse=always", host.image, elsewhere / "tiny.raw"])
    host.private.run(["chmod", "0444", elsewhere / "tiny.raw"])
    host.begin("--image-dir", str(elsewhere), machine=spec(image=elsewhere / "tiny.raw"))
    host.runs()
    host.provider.power(host.machine_id, pb.POWER_OFF)
    host.provider.wait_state(host.machine_id, "MACHINE_SUSPENDED")
    host.private.run(["umount", elsewhere])
    host.provider.power(host.machine_id, pb.POWER_ON)
    yield
    host.finds(lambda: host.machine("why"), f"{elsewhere}/tiny.raw", "is not there", "Put it back in its place")


@contextmanager
def drifted_class(host: Host) -> Iterator[None]:
    host.begin()
    ours = list(yaml.safe_load_all(host.asks("classes", "--manifests")))
    ours[0]["capabilities"]["memory"] = "777Mi"
    yield
    told = host.asks("classes", "--check", "-", typed=yaml.safe_dump_all(ours))
    assert f"DROPPED {ours[0]['metadata']['name']} has memory 1Gi here and 777Mi there" in told


@contextmanager
def deaf_guest(host: Host) -> Iterator[None]:
    host.begin("--detach-settle", "0s", machine=spec(disks={"one": "oda", "two": "odb"}))
    host.provider.wait_state(host.machine_id, "MACHINE_RUNNING")
    request = pb.DetachVolumeRequest(machine_id=host.machine_id, name="one")
    host.provider.stub.DetachVolume(request, timeout=10)
    yield
    host.finds(lambda: host.machine("why"), 'let volume "one" go and has not done so yet', "no driver for hot-plug")
    host.finds(lambda: host.machine("describe"), "volume one", "LEAVING")


@contextmanager
def crash_loop(host: Host) -> Iterator[None]:
    host.begin(machine=spec())
    for _ in range(2):
        host.provider.wait_state(host.machine_id, "MACHINE_RUNNING")
        pid = host.provider.qemu_pid(host.machine_id)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_for("the pause", lambda: host.provider.reasons(host.machine_id) == {"back-off"})
    yield
    host.finds(lambda: host.machine("events"), "its QEMU ended without a word: killed, or crashed", "after stop")
    host.finds(lambda: host.machine("why"), "is started again after a pause (2 short runs in a row)", "SIGKILL")


@pytest.mark.parametrize(
    "planted",
    [
        missing_image, locked_disk, edited_domain, full_disk, dead_libvirtd, stuck_qemu, lost_mount, drifted_class,
        deaf_guest, crash_loop,
    ],
)  # fmt: skip
def test_the_cause_is_found_by_the_commands_alone(
    host: Host, planted: Callable[[Host], AbstractContextManager[None]]
) -> None:
    with planted(host):
        """Each looks for its own once it is planted."""
