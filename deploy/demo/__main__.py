"""`make demo`: a machine over gRPC boots, gets and gives back devices, is powered off and on, deleted; nothing is left.

Exit status 0 when every step came out as it should, 1 with the reason when one did not, 130 when interrupted; the
host is cleared in each case. Needs root and the packages of `make setup`.
"""

from __future__ import annotations

import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from pathlib import Path

import grpc
import libvirt
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deploy.demo import host
from deploy.demo.host import DemoFailed, Marks, Thing
from deploy.demo.provider import Provider
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.guest import BuildError, image

URI = "qemu:///system"
PROVISION = Path(__file__).parents[2] / "vagrant" / "provision.sh"
BOOT = 120.0
"""Seconds that a guest may take to boot: UEFI without KVM takes eight, on a busy host several times that."""
OFF = 60.0
"""Seconds that a power-off or a deletion may take: 30 s of grace and some."""


class Screen:
    """What the demo says while it goes: each step with the time that it took."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.began = time.monotonic()

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show a step as it runs, then as done or failed."""
        began = time.monotonic()
        try:
            with self.console.status(escape(title)):
                yield
        except BaseException:
            self.console.print(f"[red]failed[/] {time.monotonic() - began:6.1f} s  {escape(title)}", soft_wrap=True)
            raise
        self.console.print(f"[green]    ok[/] {time.monotonic() - began:6.1f} s  {escape(title)}", soft_wrap=True)

    def detail(self, text: str) -> None:
        for line in text.splitlines():
            self.console.print(f"{'':17}[dim]{escape(line)}[/]", soft_wrap=True)

    def classes(self, classes: list[pb.MachineClassStatus]) -> None:
        table = Table("class", "CPU", "memory", "machines")
        fitting = [each for each in classes if each.quantity]
        for each in fitting:
            capabilities = each.machine_class.capabilities
            cpu, memory = f"{capabilities.cpu_millis / 1000:g}", f"{capabilities.memory_bytes / (1 << 30):g} GiB"
            table.add_row(each.machine_class.name, cpu, memory, str(each.quantity))
        self.console.print(table)
        if len(fitting) < len(classes):
            self.detail(f"and {len(classes) - len(fitting)} classes that are too large for this host")


class Demo:
    """One run, from the first look at the host to the last."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.mark = secrets.token_hex(4)
        self.marks = Marks({self.mark})
        self.network = f"sri-demo-{self.mark}"
        self.bridge = f"sri{self.mark}"
        self.directory = Path(tempfile.gettempdir())
        self.machine_id = ""

    def run(self) -> None:
        """Do all steps; the host is cleared at the end of any way through. Raises DemoFailed and others."""
        with ExitStack() as stack:
            links_before = set(host.links())
            self._start_libvirt(stack, links_before)
            connection = host.connect(URI)
            stack.callback(connection.close)
            with self.screen.step("look at what is on this host"):
                before = host.snapshot(connection)
            with ExitStack() as made:
                provider = self._prepare(made, connection)
                try:
                    self._life(provider)
                except Exception:
                    self._explain(provider)
                    raise
                self._prove_deleted(connection, provider)
            self._prove_clear(connection, before)

    def _start_libvirt(self, stack: ExitStack, links_before: set[str]) -> None:
        with self.screen.step("libvirt answers"):
            done = subprocess.run([PROVISION, "start"], stdout=subprocess.PIPE, text=True, check=False)
            started = done.stdout.split()
            if started:
                stack.callback(self._stop_libvirt, started, links_before)
        if done.returncode:
            raise DemoFailed("libvirt does not start; its own words are above")
        if started:
            self.screen.detail(f"started {' and '.join(started)}; stopped again at the end")

    def _stop_libvirt(self, started: list[str], links_before: set[str]) -> None:
        """Stop the daemons that were started here, and the networks that came up with them."""
        with self.screen.step(f"stop {' and '.join(started)}"):
            connection = host.connect(URI)
            for network in connection.listAllNetworks(libvirt.VIR_CONNECT_LIST_NETWORKS_ACTIVE):
                if network.bridgeName() not in links_before:
                    network.destroy()
            connection.close()
            if subprocess.run([PROVISION, "stop", *reversed(started)], check=False).returncode:
                raise DemoFailed("a daemon that was started for the demo does not stop; its own words are above")

    def _prepare(self, stack: ExitStack, connection: libvirt.virConnect) -> Provider:
        with self.screen.step("the tiny guest's disk image"):
            tiny = image()
        # QEMU's user must be able to reach it.
        self.directory = Path(tempfile.mkdtemp(prefix=f"sri-demo-{self.mark}-", dir="/var/tmp"))
        stack.callback(host.clear, connection, self.marks, self.directory)
        self.directory.chmod(0o711)
        (self.directory / "images").mkdir(mode=0o711)
        shutil.copy(tiny, self.directory / "images" / "tiny.raw")
        with self.screen.step(f"libvirt network {self.network}"):
            subnet = host.create_network(connection, self.network, self.bridge)
        self.screen.detail(f"isolated, DHCP in {subnet}")
        provider = Provider(self.directory)
        stack.callback(provider.stop)
        return provider

    def _life(self, provider: Provider) -> None:
        with self.screen.step("sri-libvirt serve"):
            version = provider.start()
        self.screen.detail(f"{version.runtime_name} {version.runtime_version} on {self.directory}/sri.sock")
        self.screen.classes(provider.classes())
        with self.screen.step("CreateMachine deploy/demo/machine.yaml"):
            machine = provider.create(
                {
                    "UID": str(uuid.uuid4()),
                    "NAME": f"demo-{self.mark}",
                    "IMAGE": str(provider.images / "tiny.raw"),
                    "NETWORK": self.network,
                }
            )
        self.machine_id = machine.metadata.id
        self.marks.words.add(self.machine_id)
        self.screen.detail(f"machine {self.machine_id}")
        self._boot(provider, since=0)
        self._check_guest(provider, machine)
        self._hot_plug(provider)

        with self.screen.step("POWER_OFF: the guest hears the power button and halts"):
            provider.power(self.machine_id, pb.POWER_OFF)
            self._wait_state(provider, pb.MACHINE_SUSPENDED, OFF)
        if "tiny: power button" not in provider.console(self.machine_id):
            raise DemoFailed("the machine is off, but its guest was not asked to halt")
        off = len(provider.console(self.machine_id))
        provider.power(self.machine_id, pb.POWER_ON)
        self._boot(provider, since=off)

        with self.screen.step("DeleteMachine"):
            provider.delete(self.machine_id)
            provider.wait("the machine is gone", lambda: None if provider.machine(self.machine_id) else True, OFF)
        with self.screen.step("stop the provider"):
            status = provider.stop()
        if status:
            raise DemoFailed(f"the provider ended with status {status}")

    def _boot(self, provider: Provider, since: int) -> None:
        with self.screen.step("MACHINE_RUNNING"):
            self._wait_state(provider, pb.MACHINE_RUNNING, BOOT)
        with self.screen.step('the guest says "up" on its serial console'):
            self._wait_console(provider, r"tiny: up$", since)

    def _check_guest(self, provider: Provider, machine: pb.Machine) -> None:
        """The guest has what was asked for: the volume, the NIC, the ignition data."""
        with self.screen.step("the guest has its volume, its network interface and its ignition data"):
            size = machine.spec.volumes[0].empty_disk.size_bytes
            self._wait_console(provider, rf"tiny: disk \S+ serial=oda-\S* size={size}$")
            self._wait_console(provider, r"tiny: nic \S+ mac=\S+ address=\S+$")
            self._wait_console(provider, rf"tiny: ignition sha256={sha256(machine.spec.ignition_data).hexdigest()}$")
        with suppress(DemoFailed), self.screen.step("the guest has an address (or this host's firewall drops DHCP)"):
            self._wait_console(provider, r"tiny: nic \S+ ip=\S+$", seconds=15)
        lines = re.findall(r"tiny: .*$", provider.console(self.machine_id), re.MULTILINE)
        self.screen.detail("\n".join(lines))

    def _hot_plug(self, provider: Provider) -> None:
        """A disk and a NIC come to the running guest and leave it again, by its own words."""
        volume = pb.Volume(name="more", device="odb", empty_disk=pb.EmptyDisk(size_bytes=32 << 20))
        nic = pb.NetworkInterface(name="more", network_id=f"network://{self.network}")
        since = len(provider.console(self.machine_id))
        with self.screen.step("AttachVolume, AttachNetworkInterface: the running guest has them"):
            provider.attach(self.machine_id, volume, nic)
            self._wait_console(provider, r"tiny: disk vdc serial=odb-\S* size=33554432$", since)
            self._wait_console(provider, r"tiny: nic eth1 mac=\S+ address=\S+$", since)
        with self.screen.step("DetachVolume, DetachNetworkInterface: it has let them go"):
            provider.detach(self.machine_id, volume, nic)
            self._wait_console(provider, r"tiny: disk vdc gone$", since)
            self._wait_console(provider, r"tiny: nic eth1 gone$", since)
        lines = re.findall(r"tiny: .*$", provider.console(self.machine_id)[since:], re.MULTILINE)
        self.screen.detail("\n".join(lines))

    def _wait_state(self, provider: Provider, state: pb.MachineState, seconds: float) -> None:
        def look() -> bool | None:
            machine = provider.machine(self.machine_id)
            if machine is None:
                raise DemoFailed("the machine is not listed any more")
            return True if machine.status.state == state else None

        provider.wait(f"state {pb.MachineState.Name(state)}", look, seconds)

    def _wait_console(self, provider: Provider, pattern: str, since: int = 0, seconds: float = BOOT) -> None:
        def look() -> bool | None:
            return True if re.search(pattern, provider.console(self.machine_id)[since:], re.MULTILINE) else None

        provider.wait(f"console line {pattern}", look, seconds)

    def _explain(self, provider: Provider) -> None:
        """Show what helps to find out why a step failed, before it is cleared away."""
        if self.machine_id and provider.paths.machine(self.machine_id).root.exists():
            self.screen.detail(f"sri-libvirt machine why:\n{provider.why(self.machine_id)}")
            self.screen.detail(f"console, its last lines:\n{_tail(provider.console(self.machine_id))}")
        self.screen.detail(f"provider's log, its last lines:\n{_tail(provider.log.read_text(errors='replace'))}")

    def _prove_deleted(self, connection: libvirt.virConnect, provider: Provider) -> None:
        """The provider itself left nothing of the machine, before the demo clears its own things. Raises DemoFailed."""

        def of_machine(thing: Thing) -> bool:
            match thing.kind:
                case "domain" | "secret":
                    return self.marks.on(thing.text)
                case "link":
                    return thing.text.endswith(f" {self.bridge}")  # a guest's end in the demo's network
                case "file":  # libvirt keeps a domain's log for ever; clear() removes it
                    return self.machine_id in thing.name and not thing.name.startswith("/var/log/libvirt/")
                case _:
                    return self.machine_id in thing.text

        with self.screen.step("the provider left nothing of the machine"):
            left = [str(thing) for thing in host.snapshot(connection) if of_machine(thing)]
            left += [f"file {path}" for path in provider.paths.machines.iterdir()]
            if left:
                raise DemoFailed("the provider left behind: " + ", ".join(sorted(left)))

    def _prove_clear(self, connection: libvirt.virConnect, before: frozenset[Thing]) -> None:
        """Nothing of the demo is left at all. Raises DemoFailed. Other people's changes are told."""
        with self.screen.step("nothing that bears the demo's marks is left on this host"):
            after = host.snapshot(connection)
            left = [str(thing) for thing in after if self.marks.on(thing.text)]
            if left:
                raise DemoFailed("left behind: " + ", ".join(sorted(left)))
        for word, things in (("came", after - before), ("went", before - after)):
            others = sorted(str(thing) for thing in things if thing.kind != "process")
            if others:
                self.screen.detail(f"{word} meanwhile, not of the demo: " + ", ".join(others[:20]))


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-25:])


def _reason(error: BaseException) -> str:
    """What went wrong, first things first: clearing up after a failure may have failed too."""
    said = f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
    return f"{_reason(error.__context__)}; then: {said}" if isinstance(error.__context__, DemoFailed) else said


def _interrupt(_number: int, _frame: object) -> None:
    # Once is enough: what is cleared after it must not be interrupted again.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Run the demo and return its exit status."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _interrupt)
    screen = Screen()
    try:
        Demo(screen).run()
    except (DemoFailed, BuildError, grpc.RpcError, libvirt.libvirtError) as error:
        screen.console.print(f"[red]The demo failed:[/] {escape(_reason(error))}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        screen.console.print("Interrupted; the host is cleared.")
        return 130
    screen.console.print(f"[green]The demo is done[/] after {time.monotonic() - screen.began:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
