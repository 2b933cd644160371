"""A real provider process inside the worker's private libvirt, and a client that knows only the .proto."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import grpc
import libvirt

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Event, Machine
from sri_libvirt.store.reader import Reader
from tests.e2e.libvirtd import PrivateLibvirt
from tests.poollet.witness import Witness

T = TypeVar("T")

ROOMY = ("--cpu-overcommit", "100", "--disk-overcommit", "1000", "--reserved-memory", "0")
"""Guests of tests are small and few, and the hosts that run them may be too."""

BOOT = 180.0
"""Seconds that a guest may take to say "up" on a busy machine; it takes 4 to 8."""


def wait_for(what: str, condition: Callable[[], T], seconds: float = BOOT) -> T:
    """Poll until condition() is true and return its value; fail with the last value seen."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"no {what} within {seconds:g} s (last: {value!r})")
        time.sleep(0.05)


class Provider:
    """`sri-libvirt serve` with a state directory of its own."""

    def __init__(self, libvirt: PrivateLibvirt, root: Path, *options: str) -> None:
        self.libvirt = libvirt
        self.root = root
        self.state = root / "state"
        self.images = root / "images"
        self.socket = root / "sri.sock"
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None
        self.witness = Witness()
        self._latest: tuple[str, ...] = ()
        self.images.mkdir(mode=0o755, parents=True, exist_ok=True)
        root.chmod(0o755)

    def command(self, *options: str) -> list[str]:
        """The command line; of an option that is given twice the last counts."""
        return [
            sys.executable, "-m", "sri_libvirt", "serve", "--address", f"unix://{self.socket}", "--state-dir",
            str(self.state), "--image-dir", str(self.images), "--domain-type", "qemu", "--log-format", "json",
            "--streaming-address", "127.0.0.1:0",
            *ROOMY, *self.options, *options,
        ]  # fmt: skip

    def start(self, *options: str) -> None:
        """Start it and wait until it answers."""
        self._latest = options
        with (self.root / "provider.log").open("ab") as log:
            self.process = self.libvirt.popen(self.command(*options), stdout=log, stderr=log)
        self.channel = grpc.insecure_channel(f"unix://{self.socket}")
        self.stub = self.witness.stub(MachineRuntimeStub(self.channel))
        wait_for("answer of the provider", self._answers, 30)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        try:
            self.stub.Version(pb.VersionRequest(), timeout=1)
        except grpc.RpcError:
            return False
        return True

    def expect_rest(self, relists: int = 5) -> None:
        """What a poollet needs at the end of every scenario: lists that are equal, message by message."""
        if self.process is None or self.process.poll() is not None:
            return
        latest, equal = pb.ListMachinesResponse(), 0

        def quiet() -> bool:
            nonlocal latest, equal
            listed = self.stub.ListMachines(pb.ListMachinesRequest(), timeout=10)
            equal = equal + 1 if listed == latest else 0
            latest = listed
            return equal >= relists

        wait_for("rest: each list differs from the last", quiet)

    def start_again(self) -> None:
        """Start it with the options of its latest start."""
        self.start(*self._latest)

    def stop(self) -> int:
        """End it in order; its guests stay."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        if self.process is None:
            return 0
        self.channel.close()
        if self.process.poll() is None:
            os.kill(self._pid(), number)
        code = self.process.wait(30)
        self.process = None
        return code

    def _pid(self) -> int:
        """The provider's own pid: what was started is nsenter, which execs it."""
        assert self.process is not None
        return self.process.pid

    def log(self) -> str:
        log = self.root / "provider.log"
        return log.read_text(errors="replace")[-6000:] if log.exists() else ""

    # --- RPCs ------------------------------------------------------------------------------------

    def create(self, spec: pb.MachineSpec, name: str = "m") -> pb.Machine:
        uid = str(uuid.uuid4())
        labels = {
            "machinepoollet.spheric.cloud/machine-uid": uid,
            "machinepoollet.spheric.cloud/machine-namespace": "default",
            "machinepoollet.spheric.cloud/machine-name": name,
        }
        machine = pb.Machine(spec=spec)
        machine.metadata.labels.update(labels)
        reply: pb.CreateMachineResponse = self.stub.CreateMachine(pb.CreateMachineRequest(machine=machine), timeout=10)
        return reply.machine

    def machines(self) -> list[pb.Machine]:
        return list(self.stub.ListMachines(pb.ListMachinesRequest(), timeout=10).machines)

    def get(self, machine_id: str) -> pb.Machine | None:
        request = pb.ListMachinesRequest(filter=pb.MachineFilter(id=machine_id))
        found = self.stub.ListMachines(request, timeout=10).machines
        return found[0] if found else None

    def state_of(self, machine_id: str) -> str:
        machine = self.get(machine_id)
        return pb.MachineState.Name(machine.status.state) if machine else "GONE"

    def power(self, machine_id: str, power: pb.Power) -> None:
        self.stub.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=power), timeout=10)

    def delete(self, machine_id: str) -> None:
        self.stub.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id), timeout=10)

    def wait_state(self, machine_id: str, state: str, seconds: float = BOOT) -> None:
        try:
            wait_for(f"state {state}", lambda: self.state_of(machine_id) == state, seconds)
        except AssertionError as error:
            found = f"is {self.state_of(machine_id)}\n{self.why(machine_id)}\n{self.log()}"
            raise AssertionError(f"{error}: {found}") from None

    def why(self, machine_id: str) -> str:
        argv = [sys.executable, "-m", "sri_libvirt", "machine", "why", machine_id, "--state-dir", str(self.state)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    # --- what is kept of a machine, and what it is on the host -----------------------------------

    def record(self, machine_id: str) -> Machine:
        """The machine as the store has it, whether the provider runs or not."""
        with Reader.open(StatePaths(self.state)) as reader:
            machine = reader.machine(machine_id)
        assert machine is not None, "the store does not know the machine"
        return machine

    def events(self, machine_id: str) -> list[Event]:
        """The machine's timeline, oldest first."""
        with Reader.open(StatePaths(self.state)) as reader:
            return reader.events(machine_id)

    def reasons(self, machine_id: str) -> set[str]:
        """The codes of why it is not what it should be."""
        return {reason.code for reason in self.record(machine_id).reasons}

    def qemu_pid(self, machine_id: str) -> int | None:
        """The process of its guest, None while there is none."""
        with suppress(FileNotFoundError, ValueError):
            pid = int((self.libvirt.base / "run" / "qemu" / f"{machine_id}.pid").read_text())
            if Path(f"/proc/{pid}").exists():
                return pid
        return None

    @contextmanager
    def domain(self, machine_id: str) -> Iterator[libvirt.virDomain]:
        """Its domain, for doing what an operator does with virsh."""
        connection = libvirt.open(self.libvirt.uri)
        try:
            yield connection.lookupByUUIDString(machine_id)
        finally:
            connection.close()

    def domain_active(self, machine_id: str) -> bool:
        """Whether libvirt says that its domain is active; False when there is none."""
        try:
            with self.domain(machine_id) as domain:
                return bool(domain.isActive())
        except libvirt.libvirtError:
            return False

    # --- the guest's own words -------------------------------------------------------------------

    def console(self, machine_id: str) -> str:
        """All that the guest wrote on its serial console since the machine exists."""
        path = self.state / "machines" / machine_id / "console.log"
        return path.read_text(errors="replace").replace("\r", "") if path.exists() else ""

    def wait_console(self, machine_id: str, text: str, count: int = 1, seconds: float = BOOT) -> list[str]:
        """Wait until the guest has said `text` at least `count` times; the console's lines."""
        try:
            wait_for(text, lambda: self.console(machine_id).count(text) >= count, seconds)
        except AssertionError as error:
            tail = self.console(machine_id)[-2000:]
            raise AssertionError(f"{error}\n{self.why(machine_id)}\n{tail}\n{self.log()}") from None
        return self.console(machine_id).splitlines()


def spec(
    *,
    machine_class: str = "c1-m1",
    image: Path | None = None,
    ignition: bytes = b"",
    disks: dict[str, str] | None = None,
    nics: dict[str, str] | None = None,
) -> pb.MachineSpec:
    """A machine's spec: `disks` maps names to devices (64 MiB each), `nics` names to network ids."""
    made = pb.MachineSpec(ignition_data=ignition)
    setattr(made, "class", machine_class)
    if image:
        made.image.image = f"file://{image}"
    for name, device in (disks or {}).items():
        made.volumes.add(name=name, device=device).empty_disk.size_bytes = 64 << 20
    for name, network in (nics or {}).items():
        made.network_interfaces.add(name=name, network_id=network)
    return made


def type_line(libvirt_uri: str, machine_id: str, line: str, heard: Callable[[], bool], again: float = 3) -> None:
    """Type a line into the guest's shell until heard() shows that it took it: a shell that just starts drops input.

    It is typed `again` after so many seconds.
    """
    connection = libvirt.open(libvirt_uri)
    try:
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        connection.lookupByUUIDString(machine_id).openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        end = time.monotonic() + BOOT
        while not heard():
            assert time.monotonic() < end, f"the guest does not take {line!r}"
            stream.send(f"\r{line}\r".encode())
            with suppress(AssertionError):
                wait_for(f"effect of {line!r}", heard, again)
        with suppress(libvirt.libvirtError):
            stream.abort()
    finally:
        with suppress(libvirt.libvirtError):  # a console of a guest that has just stopped can close the connection
            connection.close()


def asked(provider: Provider, machine_id: str, line: str, number: int) -> str:
    """What a guest answers to a line, which tells its end by a word with the number in it."""
    before, word = len(provider.console(machine_id)), f"end-{number}"
    whole = f"{line}; echo en''d-{number}"
    type_line(provider.libvirt.uri, machine_id, whole, lambda: word in provider.console(machine_id)[before:], 15)
    return provider.console(machine_id)[before:]
