"""The provider as it is installed on the machine, and a client outside that reaches its socket through ssh.

The client is a member of the socket's group and nothing else. What the guests say is read from their console logs.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, LABEL_UID
from tests.vm.machine import CHECKOUT, PYTHON, ROOT, VM

T = TypeVar("T")

_SAID = re.compile(r"^(?:tiny# \x1b\[6n)?(tiny: .*)")
"""A line of the tiny guest, perhaps behind a prompt with which its shell asks where the cursor is."""

_KNOWN = re.compile(r'name="(/sys/devices/[^"]*/block/[^"/]*/queue/|/dev/vhost-net")')

SOCKET = "/run/sri-libvirt/sri-virtd.sock"
UNINSTALL = f"{CHECKOUT}/deploy/uninstall.sh"
STATE = "/var/lib/sri-libvirt"
IMAGE = "/srv/images/tiny.raw"
VIRSH = "virsh -q -c qemu:///system"
"""With its URI: a client's own default may be libvirtd where virtqemud runs."""

TYPE = """
import libvirt, sys, time
machine_id, line = sys.argv[1:]
connection = libvirt.open("qemu:///system")
stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
connection.lookupByUUIDString(machine_id).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
stream.send(f"\\r{line}\\r".encode())
echoed, end = b"", time.monotonic() + 10
while line.encode() not in echoed.replace(b"\\r\\n", b"") and time.monotonic() < end:
    time.sleep(0.1)
    heard = stream.recv(4096)
    echoed += heard if isinstance(heard, bytes) else b""
"""
"""Types a line into a guest's console and waits until its terminal has echoed it, or ten seconds."""

NETWORK = "sri-test"
BOOT = 300.0
"""Seconds that a guest may take to say that it is up: KVM in a machine that is itself emulated takes 15 to 30."""

CONFIG = f"""\
address = "unix://{SOCKET}"
socket_group = "sri-libvirt"
image_dir = ["/srv/images"]
machine_classes = "/etc/sri-libvirt/classes.yaml"
reserved_memory = "512Mi"
cpu_overcommit = 16
disk_overcommit = 4
"""

CLASSES = """\
classes:
  - {name: tiny, cpu: 1, memory: 192Mi, root_disk: 1Gi, firmware: bios}
  - {name: half, cpu: 500m, memory: 192Mi, root_disk: 1Gi, firmware: bios}
  - {name: uefi, cpu: 1, memory: 256Mi, root_disk: 1Gi, firmware: uefi}
"""

NETWORK_XML = f"""\
<network><name>{NETWORK}</name><bridge name='virbr-sri' stp='off' delay='0'/>
<ip address='192.168.77.1' prefix='24'><dhcp><range start='192.168.77.10' end='192.168.77.99'/></dhcp></ip></network>
"""


def wait_for(what: str, condition: Callable[[], T], seconds: float = BOOT, poll: float = 0.5) -> T:
    """Poll until condition() is true and return its value; fail with the last value seen."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"no {what} within {seconds:g} s (last: {value!r})"
        time.sleep(poll)


@dataclass(frozen=True, slots=True)
class Guest:
    """A running QEMU: its process, and when that began (in ticks since the boot), so that it cannot be another's."""

    pid: int
    began: int


class Service:
    """sri-libvirt.service on the machine."""

    def __init__(self, vm: VM, work: Path) -> None:
        self.vm = vm
        self._work = work
        self._wheels: dict[str, str] = {}
        self._tunnel: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None
        self._sri: Any = None

    # --- installing ------------------------------------------------------------------------------

    def wheel(self, version: str = "") -> str:
        """A wheel of this tree, as `version` if one is named; its path in the machine."""
        if version in self._wheels:
            return self._wheels[version]
        source = self._work / f"source-{version}"
        shutil.copytree(
            ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "__pycache__", "tests", "bench", "vagrant")
        )
        if version:
            (source / "sri_libvirt" / "__init__.py").write_text(f'"""Another build."""\n\n__version__ = "{version}"\n')
        out = self._work / f"wheel-{version}"
        argv = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
        subprocess.run(argv, check=True, capture_output=True)
        (wheel,) = out.glob("*.whl")
        self.vm.put(wheel, "/root/")
        self._wheels[version] = f"/root/{wheel.name}"
        return self._wheels[version]

    def install(self, wheel: str, *options: str) -> str:
        """Run install.sh as an operator does; what it said. The machine is offline, so dependencies are the tests'."""
        words = ("--no-packages", "--dependencies-of", PYTHON, *options, wheel)
        return self.vm.run(f"{CHECKOUT}/deploy/install.sh {' '.join(words)} 2>&1", deadline=600)

    def uninstall(self, *options: str) -> str:
        """Run uninstall.sh; what it said."""
        return self.vm.run(f"{UNINSTALL} {' '.join(options)} 2>&1", deadline=300)

    def prepare(self, image: Path) -> None:
        """Settings, classes, an image, a network, and a user who may call the provider."""
        self.vm.run("mkdir -p /etc/sri-libvirt /srv/images && chmod 755 /srv/images")
        self.vm.write("/etc/sri-libvirt/config.toml", CONFIG)
        self.vm.write("/etc/sri-libvirt/classes.yaml", CLASSES)
        self.vm.put(image, IMAGE)
        self.vm.run(f"chmod 0444 {IMAGE}")
        self.vm.write("/root/network.xml", NETWORK_XML)
        self.vm.run(
            f"{VIRSH} net-info {NETWORK} >/dev/null 2>&1 || "
            f"{{ {VIRSH} net-define /root/network.xml && {VIRSH} net-autostart {NETWORK}; }}"
        )
        self.vm.run(f"{VIRSH} net-list --name | grep -qx {NETWORK} || {VIRSH} net-start {NETWORK}")

    def configure(self, text: str) -> None:
        """Write /etc/sri-libvirt/config.toml: ours and these lines; takes effect at the next start."""
        self.vm.write("/etc/sri-libvirt/config.toml", CONFIG + text)

    # --- the service -----------------------------------------------------------------------------

    def systemctl(self, *words: str) -> str:
        return self.vm.run(f"systemctl {' '.join(words)}")

    @contextmanager
    def drop_in(self, text: str) -> Iterator[None]:
        """Change the unit for a while; takes effect, and ends, with a restart."""
        directory = "/run/systemd/system/sri-libvirt.service.d"
        self.vm.run(f"mkdir -p {directory}")
        self.vm.write(f"{directory}/test.conf", text)
        self.systemctl("daemon-reload")
        try:
            yield
        finally:
            self.vm.run(f"rm -r {directory}")
            self.systemctl("daemon-reload")

    def property(self, name: str, unit: str = "sri-libvirt.service") -> str:
        return self.vm.run(f"systemctl show --property={name} --value {unit}").strip()

    def log(self) -> list[dict[str, Any]]:
        """What the daemon that runs has logged, oldest first; a line that is not JSON fails the test."""
        run = self.property("InvocationID")
        words = f"_COMM=sri-libvirt _SYSTEMD_INVOCATION_ID={run}"
        lines = self.vm.run(f"journalctl --boot --output cat --quiet {words}")
        return [json.loads(line) for line in lines.splitlines()]

    def libvirt_units(self) -> list[str]:
        """The services that run guests here: modular on trixie, monolithic on bookworm, as the boxes have it."""
        modular = self.vm.ask("systemctl is-enabled virtqemud.socket").stdout.strip() == "enabled"
        return ["virtqemud.service", "virtnetworkd.service"] if modular else ["libvirtd.service"]

    # --- the client ------------------------------------------------------------------------------

    def connect(self) -> None:
        """Reach the socket; again after the machine has booted."""
        self.disconnect()
        local = self._work / "sri.sock"
        local.unlink(missing_ok=True)
        argv = self.vm.ssh("-N", "-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes",
                           "-L", f"{local}:{SOCKET}")  # fmt: skip
        self._tunnel = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        wait_for("tunnel", local.exists, 120)
        options = (("grpc.max_reconnect_backoff_ms", 1000),)
        self._channel = grpc.insecure_channel(f"unix://{local}", options=options)
        self._sri = MachineRuntimeStub(self._channel)
        self.wait_serving()

    def disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        if self._tunnel is not None:
            self._tunnel.kill()
            self._tunnel.wait()
            self._tunnel = None

    def wait_serving(self, seconds: float = 120.0) -> None:
        wait_for("answer of the provider", self.serves, seconds)

    def serves(self) -> bool:
        try:
            self._sri.Version(pb.VersionRequest(), timeout=10)
        except grpc.RpcError:
            return False
        return True

    def version(self) -> str:
        return str(self._sri.Version(pb.VersionRequest(), timeout=30).runtime_version)

    def create(self, name: str, spec: pb.MachineSpec) -> str:
        """Create a machine; its id."""
        machine = pb.Machine(spec=spec)
        machine.metadata.labels.update({LABEL_UID: str(uuid.uuid4()), LABEL_NAMESPACE: "vm", LABEL_NAME: name})
        reply = self._sri.CreateMachine(pb.CreateMachineRequest(machine=machine), timeout=60)
        return str(reply.machine.metadata.id)

    def console_url(self, machine_id: str) -> str:
        return str(self._sri.Exec(pb.ExecRequest(machine_id=machine_id), timeout=60).url)

    def machines(self) -> list[pb.Machine]:
        return list(self._sri.ListMachines(pb.ListMachinesRequest(), timeout=60).machines)

    def get(self, machine_id: str) -> pb.Machine:
        (found,) = [each for each in self.machines() if each.metadata.id == machine_id]
        return found

    def state(self, machine_id: str) -> str:
        states = {each.metadata.id: each.status.state for each in self.machines()}
        return pb.MachineState.Name(states[machine_id]) if machine_id in states else "GONE"

    def wait_state(self, machine_id: str, state: str, seconds: float = BOOT) -> None:
        try:
            wait_for(state, lambda: self.state(machine_id) == state, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.why(machine_id)}") from None

    def power(self, machine_id: str, power: pb.Power) -> None:
        self._sri.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=power), timeout=60)

    def annotate(self, machine_id: str, **annotations: str) -> None:
        request = pb.UpdateMachineAnnotationsRequest(machine_id=machine_id, annotations=annotations)
        self._sri.UpdateMachineAnnotations(request, timeout=60)

    def attach(self, machine_id: str, *things: pb.Volume | pb.NetworkInterface) -> None:
        for thing in things:
            if isinstance(thing, pb.Volume):
                self._sri.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=thing), timeout=60)
            else:
                request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=thing)
                self._sri.AttachNetworkInterface(request, timeout=60)

    def detach(self, machine_id: str, *things: pb.Volume | pb.NetworkInterface) -> None:
        for thing in things:
            if isinstance(thing, pb.Volume):
                self._sri.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=thing.name), timeout=60)
            else:
                request = pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=thing.name)
                self._sri.DetachNetworkInterface(request, timeout=60)

    def delete(self, machine_id: str) -> None:
        """Delete a machine and wait until it is gone."""
        self._sri.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id), timeout=60)
        self.wait_state(machine_id, "GONE")

    # --- guests ----------------------------------------------------------------------------------

    def console(self, machine_id: str) -> str:
        """All that the guest wrote on its serial console since the machine exists, as far as it is kept."""
        log = f"{STATE}/machines/{machine_id}/console.log"
        return self.vm.run(f"cat {log}.2 {log}.1 {log}.0 {log} 2>/dev/null || true").replace("\r", "")

    def lines(self, machine_id: str) -> list[str]:
        """What the tiny guest said of itself; not what was typed, which comes after the prompt `tiny# ` as well."""
        said = (_SAID.search(line) for line in self.console(machine_id).splitlines())
        return [line[1] for line in said if line]

    def wait_line(self, machine_id: str, line: str, count: int = 1, seconds: float = BOOT) -> None:
        """Wait until the tiny guest has said a line (its beginning is enough) `count` times."""

        def said() -> bool:
            return sum(each.startswith(f"tiny: {line}") for each in self.lines(machine_id)) >= count

        try:
            wait_for(line, said, seconds, 1.0)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.why(machine_id)}\n{self.console(machine_id)[-2000:]}") from None

    def wait_disk(self, machine_id: str, device: str) -> str:
        """Wait until the guest has the SRI's device; the guest's own name of it, given by the order of coming."""

        def names() -> list[str]:
            told = (line.split() for line in self.lines(machine_id) if f"serial={device}-" in line)
            return [words[2] for words in told]

        return wait_for(f"disk {device}", names, poll=1.0)[-1]

    def boots(self, machine_id: str) -> int:
        return self.lines(machine_id).count("tiny: up")

    def type(self, machine_id: str, line: str, heard: Callable[[], bool]) -> None:
        """Type a line into the guest's shell until heard() shows that it took it: one that just starts drops input."""
        end = time.monotonic() + BOOT
        while not heard():
            assert time.monotonic() < end, f"the guest does not take {line!r}: {self.console(machine_id)[-1000:]}"
            self.vm.ask(f"timeout 60 {PYTHON} -c {shlex.quote(TYPE)} {machine_id} {shlex.quote(line)}")
            with suppress(AssertionError):  # typed anew then
                wait_for(f"effect of {line!r}", heard, 15)

    def guests(self) -> dict[str, Guest]:
        """Every guest that runs, by machine id."""
        read = (
            "for file in $(ls /run/libvirt/qemu/*.pid 2>/dev/null); do id=$(basename $file .pid); pid=$(cat $file); "
            "[ ! -e /proc/$pid/stat ] || echo $id $pid $(cut -d ' ' -f 22 /proc/$pid/stat); done"
        )
        words = (line.split() for line in self.vm.run(read).splitlines())
        return {name: Guest(int(pid), int(began)) for name, pid, began in words if len(name) == 36}

    def xml(self, machine_id: str) -> str:
        return self.vm.run(f"{VIRSH} dumpxml {machine_id}")

    def denials(self) -> list[str]:
        """What AppArmor has denied to us, QEMU and libvirt's helper, as the kernel says it.

        But for what QEMU 10 asks in /sys of a block device's queue (is it zoned?), and takes for no where it is denied:
        nothing that we have given it. And but for vhost-net, of a guest that was started without a network interface:
        libvirt's helper puts it into no such guest's profile, and it is plugged in another way then.
        """
        read = "journalctl --dmesg --boot all --output cat | grep DENIED || true; dmesg | grep DENIED || true"
        names = ("libvirt-", "sri-libvirt", "qemu")
        lines = (line for line in self.vm.run(read).splitlines() if not _KNOWN.search(line))
        return [line for line in lines if any(name in line for name in names)]

    def why(self, machine_id: str) -> str:
        """What the operator's command line says of a machine."""
        done = self.vm.ask(
            f"sri-libvirt machine why {machine_id}; sri-libvirt machine events {machine_id}; "
            "journalctl --unit sri-libvirt --boot --lines 20 --output cat"
        )
        return done.stdout + done.stderr


def spec(
    machine_class: str,
    *,
    image: bool = True,
    ignition: bytes = b"",
    disks: Sequence[str] = (),
    nics: Sequence[str] = (),
    ips: Sequence[str] = (),
) -> pb.MachineSpec:
    """A machine's spec: empty disks of 32 MiB by device name, network interfaces in the test's network with `ips`."""
    made = pb.MachineSpec(ignition_data=ignition)
    setattr(made, "class", machine_class)
    if image:
        made.image.image = f"file://{IMAGE}"
    made.volumes.extend(disk(device) for device in disks)
    made.network_interfaces.extend(nic(name, *ips) for name in nics)
    return made


def disk(device: str) -> pb.Volume:
    return pb.Volume(name=f"disk-{device}", device=device, empty_disk=pb.EmptyDisk(size_bytes=32 << 20))


def nic(name: str, *ips: str) -> pb.NetworkInterface:
    return pb.NetworkInterface(name=name, network_id=f"network://{NETWORK}", ips=ips)


def hardware(lines: Sequence[str]) -> Iterator[str]:
    """What a guest's boot says of its devices: disks, NICs, MACs and PCI addresses."""
    return (line for line in lines if line.startswith(("tiny: disk", "tiny: pci", "tiny: nic")) and " ip=" not in line)
