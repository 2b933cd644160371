"""A hypervisor for tests: small, stateful, and failing on demand.

It keeps domains as libvirt does (live XML = the persistent one at the start), optionally in a file, so that they
survive a kill of the provider; of a secret the file says that it is set, never its value. The contract tests that run
on libvirt run on it too (tests/contract/hypervisor). It looks at nothing in the XML but the UUID, the aliases of
devices, and the targets and secrets of disks. Rules of what a provider does with domains do not belong here.
"""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lxml import etree

from sri_libvirt.errors import ConsoleHeld, HypervisorError, NoConsole, SRIError, Unreachable
from sri_libvirt.hypervisor import filter_rules
from sri_libvirt.hypervisor.base import (
    DiskError,
    DomainEvent,
    DomainSnapshot,
    DomainState,
    EventKind,
    Firmware,
    LastWords,
    Listener,
    Offer,
    Secret,
    SecretUsage,
)
from sri_libvirt.hypervisor.fake_console import FakeConsole
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.hypervisor.networks import Address, Lease, Network

_UUID = re.compile(r"<uuid>\s*([0-9a-fA-F-]{36})\s*</uuid>")
_LIVE = frozenset(DomainState) - {DomainState.OFF}

OFFER = Offer(
    libvirt_version=9_000_000,
    qemu_version=7_002_000,
    architecture="x86_64",
    emulator="/usr/bin/qemu-system-x86_64",
    domain_types=frozenset({"qemu", "kvm"}),
    machine_type="pc-q35-7.2",
    machine_types=frozenset({"pc-q35-7.2", "pc-q35-7.1"}),
    cpu_modes={
        "qemu": frozenset({"maximum", "host-model", "custom"}),
        "kvm": frozenset({"maximum", "host-model", "host-passthrough", "custom"}),
    },
    cpu_models={"qemu": frozenset({"qemu64"}), "kvm": frozenset({"qemu64"})},
    firmware=(
        Firmware("/fw/OVMF_CODE.secboot.fd", "raw", "/fw/OVMF_VARS.ms.fd", True, ("pc-q35-*",)),
        Firmware("/fw/OVMF_CODE.fd", "raw", "/fw/OVMF_VARS.fd", False, ("pc-q35-*",)),
    ),
)


@dataclass
class Domain:
    """One domain of the fake."""

    persistent: str = ""
    live: str = ""
    state: DomainState = DomainState.OFF
    reason: str = "unknown"
    managed_save: bool = False
    saved: str = ""  # its live XML when it was saved
    deaf: bool = False
    deaf_to_unplug: bool = False
    unplugging: list[str] = field(default_factory=list)  # asked for, and not heard
    said: str = ""  # reason in the QEMU log
    terminated_by: str = ""
    aborted: str = ""
    hangs_at_end: bool = False  # its QEMU, when its guest has halted
    agent: bool = False
    clock_set: bool = False
    failed: dict[str, str] = field(default_factory=dict)  # disks by target, since it was started
    failing: dict[str, str] = field(default_factory=dict)  # those at which it is paused again when it runs on
    resumes_in_vain: int = 0
    sizes: dict[str, int] = field(default_factory=dict)  # of disks by target, as QEMU has them


class FakeTaps(set[str]):
    """The names of those that there are."""

    def make(self, name: str) -> None:
        self.add(name)

    def remove(self, name: str) -> None:
        self.discard(name)


class FakeHypervisor:
    """See `base.Hypervisor`. Events are delivered before the call that causes them returns."""

    domain_type: type[Domain] = Domain

    def __init__(self, state: Path | None = None) -> None:
        self.offered = OFFER
        self.taps = FakeTaps()
        self.networks: dict[str, FakeNetwork] = {}
        self.filters: set[str] = set()
        self.bindings: dict[str, str] = {}  # what a crash has left, by device
        self.secrets: dict[str, Secret] = {}
        self.values: dict[str, bytes] = {}  # of secrets that are set; those of a process before are not known
        self.consoles: dict[str, FakeConsole] = {}  # the latest of each machine
        self.opened_with: dict[str, bytes] = {}  # the values that disks were last opened with, by the secret's UUID
        self._file = state
        self._lock = threading.RLock()
        self._listeners: list[Listener] = []
        self._failures: dict[str, deque[SRIError]] = defaultdict(deque)
        self._gates: dict[str, threading.Event] = {}
        self._reachable = True
        self._life = 0  # a connection is of one life of the daemon
        self._after_return: list[Callable[[], None]] = []
        self._domains: dict[str, Domain] = {}
        if state and state.exists():
            data = json.loads(state.read_text())
            self.networks = {name: FakeNetwork(**each) for name, each in data["networks"].items()}
            self.filters = set(data["filters"])
            kept = [Secret(**{**each, "usage": SecretUsage(each["usage"])}) for each in data["secrets"]]
            self.secrets = {each.uuid: each for each in kept}
            self._domains = {
                key: Domain(**{**value, "state": DomainState(value["state"])}) for key, value in data["domains"].items()
            }

    def connect(self) -> FakeConnection:
        """A new connection. Raises Unreachable while `set_reachable(False)`."""
        self._enter("connect")
        with self._lock:
            if not self._reachable:
                raise Unreachable("libvirt cannot be reached: the fake is off")
            return FakeConnection(self, self._life)

    def console(self, machine_id: str, heard: Callable[[], None], *, take_over: bool = False) -> FakeConsole:
        """See `base.Hypervisor`."""
        self._enter("console")
        with self._lock:
            if not self._reachable:
                raise Unreachable("libvirt cannot be reached: the fake is off")
            if (domain := self._domains.get(machine_id)) is None or domain.state not in _LIVE:
                raise NoConsole("the machine does not run, so it has no console: domain is not running", 55)
            before = self.consoles.get(machine_id)
            if before is not None and not (before.ended or before.lost):
                if not take_over:
                    raise ConsoleHeld("somebody has the machine's console")
                before.lose("somebody has taken it over")
            console = self.consoles[machine_id] = FakeConsole(heard)
            return console

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Deliver events to the listener until the returned stop() is called."""
        with self._lock:
            self._listeners.append(listener)
            reachable = self._reachable
        listener.on_connected() if reachable else listener.on_disconnected("the fake is off")

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    # What tests do to it.

    def add_network(self, name: str, network: FakeNetwork) -> None:
        """Let there be a network, which survives a kill of the provider as domains do."""
        with self._lock:
            self.networks[name] = network
            self._save()

    def fail_next(self, method: str, *errors: SRIError) -> None:
        """Let the next calls of a method ("start", "define" …) raise these errors, one each."""
        with self._lock:
            self._failures[method].extend(errors)

    def hang(self, method: str) -> Callable[[], None]:
        """Let calls of a method block until the returned function is called."""
        gate = threading.Event()
        self._gates[method] = gate

        def release() -> None:
            self._gates.pop(method, None)
            gate.set()

        return release

    def set_reachable(self, reachable: bool) -> None:
        """End or start the daemon. Guests live on; the new one has no secrets, and forgot why others ended."""
        with self._lock:
            if reachable == self._reachable:
                return
            self._reachable = reachable
            for console in self.consoles.values():
                console.lose("the fake was stopped")
            self.secrets.clear()
            self.values.clear()
            self._save()
            listeners = list(self._listeners)
            late: list[Callable[[], None]] = []
            if reachable:
                self._life += 1
                late, self._after_return = self._after_return, []
                for domain in self._domains.values():
                    domain.reason = "unknown" if domain.state is DomainState.OFF else domain.reason
        for listener in listeners:
            listener.on_connected() if reachable else listener.on_disconnected("the fake was stopped")
        for ending in late:
            ending()

    def set_deaf(self, machine_id: str, deaf: bool = True) -> None:
        """Let a guest ignore its power button, or answer it again."""
        with self._change():
            self._domains[machine_id].deaf = deaf

    def set_deaf_to_unplug(self, machine_id: str, deaf: bool = True) -> None:
        """Let a guest ignore unplugs, or obey again; what it was asked for meanwhile goes at once then."""
        with self._change() as events:
            domain = self._domains[machine_id]
            domain.deaf_to_unplug = deaf
            if not deaf:
                self._unplug(machine_id, domain, events)

    def reset(self, machine_id: str) -> None:
        """The guest resets: unplugs that it did not hear are completed."""
        with self._change() as events:
            events.append(DomainEvent(machine_id, EventKind.REBOOT))
            self._unplug(machine_id, self._domains[machine_id], events)

    def set_agent(self, machine_id: str) -> None:
        """Let an agent answer in the guest."""
        with self._change():
            self._domains[machine_id].agent = True

    def hang_at_end(self, machine_id: str) -> None:
        """Let a guest's QEMU hang once its guest has halted."""
        with self._change():
            self._domains[machine_id].hangs_at_end = True

    def guest_powers_off(self, machine_id: str) -> None:
        """The guest's own operator powers it off."""
        with self._change() as events:
            domain = self._domains[machine_id]
            if domain.hangs_at_end:
                domain.state, domain.reason = DomainState.SHUTTING_DOWN, "unknown"
                events.append(DomainEvent(machine_id, EventKind.SHUTDOWN, "guest"))
                return
        self._ends(machine_id, "guest", "shutdown", "shutdown", "libvirtd")

    def kill_qemu(self, machine_id: str) -> None:
        """QEMU dies at once, by SIGKILL."""
        self._ends(machine_id, "", "failed", "crashed", "")

    def abort_qemu(self, machine_id: str, words: str) -> None:
        """QEMU gives up, with these words in its log."""
        with self._change():
            self._domains[machine_id].aborted = words
        self._ends(machine_id, "", "failed", "crashed", "")

    def panic(self, machine_id: str, *, kept: bool = False) -> None:
        """The guest's kernel panics: libvirt ends its QEMU, unless it is `kept` (on_crash preserve)."""
        with self._change() as events:
            events.append(DomainEvent(machine_id, EventKind.CRASHED))
            if kept:
                self._domains[machine_id].state, self._domains[machine_id].reason = DomainState.CRASHED, "panicked"
                return
        self._ends(machine_id, "", "crashed", "crashed", "libvirtd")

    def sleep(self, machine_id: str) -> None:
        """The guest suspends itself to RAM."""
        with self._change() as events:
            self._domains[machine_id].state, self._domains[machine_id].reason = DomainState.SUSPENDED, "unknown"
            events.append(DomainEvent(machine_id, EventKind.PMSUSPENDED))

    def eject(self, machine_id: str, alias: str) -> None:
        """The guest lets a device go that nobody has asked it for."""
        with self._change() as events:
            self._domains[machine_id].unplugging.append(alias)
            self._unplug(machine_id, self._domains[machine_id], events)

    def terminate_qemu(self, machine_id: str) -> None:
        """QEMU gets SIGTERM from somebody, as at a host's shutdown."""
        self._ends(machine_id, "host", "shutdown", "shutdown", "bash")

    def destroy_from_outside(self, machine_id: str) -> None:
        """Somebody else destroys the domain."""
        self._ends(machine_id, "host", "destroyed", "destroyed", "libvirtd")

    def save(self, machine_id: str) -> None:
        """Somebody saves the guest (virsh managedsave); the next start restores it."""
        with self._change():
            domain = self._domains[machine_id]
            domain.managed_save, domain.saved = True, domain.live
        self._ends(machine_id, "", "saved", "saved", "libvirtd")

    def move_disk(self, machine_id: str, path: str, to: str) -> None:
        """Somebody lets the guest write to another file, which the persistent domain does not learn."""
        with self._change() as events:
            domain = self._domains[machine_id]
            domain.live = domain.live.replace(f"'{path}'", f"'{to}'").replace(f'"{path}"', f'"{to}"')
            events.append(DomainEvent(machine_id, EventKind.BLOCK_JOB))

    def pause(self, machine_id: str, reason: str = "user") -> None:
        """Pause a guest: by "user", or by an "io error" of no disk in particular."""
        with self._change() as events:
            self._pause(machine_id, reason, events)

    def fail_disk(
        self, machine_id: str, target: str, error: DiskError = DiskError.OTHER, *, resumes: int = 1_000_000
    ) -> None:
        """QEMU cannot write a disk, and pauses the guest; again after so many resumes, or until `mend_disks`."""
        with self._change() as events:
            domain = self._domains[machine_id]
            domain.failing[target], domain.resumes_in_vain = error, resumes
            self._fail_disks(machine_id, events)

    def mend_disks(self, machine_id: str) -> None:
        """All disks can be written again; a guest that is paused stays so."""
        with self._change():
            self._domains[machine_id].failing.clear()

    def disk_sizes(self, machine_id: str) -> dict[str, int]:
        """How large QEMU has disks by now, by their target, as far as it was told."""
        return dict(self._domains[machine_id].sizes)

    # What its connections use.

    def _enter(self, method: str) -> None:
        gate = self._gates.get(method)
        if gate is not None:
            gate.wait()
        with self._lock:
            if self._failures[method]:
                raise self._failures[method].popleft()

    def _alive(self, life: int) -> bool:
        return self._reachable and self._life == life

    @contextmanager
    def _change(self) -> Iterator[list[DomainEvent]]:
        """Change domains under the lock, keep them in the file, then tell the listeners what was put into the list."""
        events: list[DomainEvent] = []
        with self._lock:
            yield events
            self._save()
            listeners = list(self._listeners) if self._reachable else []
        for event in events:
            for listener in listeners:
                listener.on_event(event)

    def _pause(self, machine_id: str, reason: str, events: list[DomainEvent]) -> None:
        domain = self._domains[machine_id]
        domain.state, domain.reason = DomainState.PAUSED, reason
        events.append(DomainEvent(machine_id, EventKind.SUSPENDED))

    def _fail_disks(self, machine_id: str, events: list[DomainEvent]) -> None:
        domain = self._domains[machine_id]
        for target, error in domain.failing.items():
            if (disk := _disk(domain.live, target)) is not None:
                domain.failed.setdefault(target, error)
                alias = next((each.get("name", "") for each in disk.findall("alias")), "")
                kind = EventKind.NO_SPACE if error == DiskError.NO_SPACE else EventKind.IO_ERROR
                events.append(DomainEvent(machine_id, kind, alias))
                self._pause(machine_id, "io error", events)

    def _unplug(self, machine_id: str, domain: Domain, events: list[DomainEvent]) -> None:
        for alias in domain.unplugging:
            root = etree.fromstring(domain.live)
            for device in _devices(root, alias):
                root.findall("devices")[0].remove(device)
                domain.live = etree.tostring(root, encoding="unicode")
                events.append(DomainEvent(machine_id, EventKind.DEVICE_REMOVED, alias))
        domain.unplugging = []

    def _save(self) -> None:
        if self._file is None:
            return
        domains = {key: asdict(domain) for key, domain in self._domains.items()}
        new = self._file.with_suffix(".new")
        secrets = [asdict(each) for each in self.secrets.values()]
        networks = {name: asdict(each) for name, each in self.networks.items()}
        kept = {"networks": networks, "filters": sorted(self.filters), "domains": domains, "secrets": secrets}
        new.write_text(json.dumps(kept))
        new.replace(self._file)

    def _open_disks(self, xml: str, doing: str) -> None:
        """Refuse XML with a disk whose secret is not set, or is for something else."""
        if "<secret" not in xml:
            return
        found = {each.get("uuid", ""): each for each in etree.fromstring(f"<_>{xml}</_>").iterfind(".//disk//secret")}
        for uuid, asking in found.items():
            secret, wanted = self.secrets.get(uuid), asking.get("type", "")
            if secret is None:
                problem = f"Secret not found: no secret with matching uuid '{uuid}'"
                raise HypervisorError(f"libvirt could not {doing}: {problem}", 66)
            if secret.usage != ("volume" if wanted == "passphrase" else wanted):
                raise HypervisorError(
                    f"libvirt could not {doing}: secret with uuid {uuid} is of type '{secret.usage}'", 8
                )
        self.opened_with |= {uuid: self.values[uuid] for uuid in found if uuid in self.values}

    def _filter_nics(self, xml: str, doing: str) -> None:
        """Refuse XML with a NIC whose filter is not there."""
        for name in sorted(set(re.findall(r"<filterref filter=['\"]([^'\"]*)", xml)) - self.filters):
            problem = f"internal error: referenced filter '{name}' is missing"
            raise HypervisorError(f"libvirt could not {doing}: {problem}", 1)

    def _ends(self, machine_id: str, shutdown: str, stopped: str, said: str, terminated_by: str) -> None:
        """The QEMU of a domain ends. While the daemon is away it finds out when it is back, and sees no SHUTDOWN."""
        with self._lock:
            if not self._reachable:
                self._after_return.append(lambda: self._ends(machine_id, "", stopped, said, terminated_by))
                return
        with self._change() as events:
            domain = self._domains[machine_id]
            domain.live, domain.state, domain.reason, domain.unplugging = "", DomainState.OFF, said, []
            domain.failed, domain.failing, domain.sizes = {}, {}, {}
            domain.said, domain.terminated_by = said, terminated_by
            if (console := self.consoles.get(machine_id)) is not None:
                console.end()
            if shutdown:
                events.append(DomainEvent(machine_id, EventKind.SHUTDOWN, shutdown))
            events.append(DomainEvent(machine_id, EventKind.STOPPED, stopped))
            if not domain.persistent:
                del self._domains[machine_id]


class FakeConnection:
    """See `base.Connection`."""

    def __init__(self, hypervisor: FakeHypervisor, life: int) -> None:
        self._hypervisor = hypervisor
        self._life = life
        self._closed = False

    def close(self) -> None:
        self._closed = True

    def snapshot(self, machine_id: str) -> DomainSnapshot | None:
        with self._call("snapshot"):
            domain = self._domains.get(machine_id)
            if domain is None:
                return None
            return DomainSnapshot(
                machine_id, domain.state, domain.reason, domain.live, domain.persistent, domain.managed_save
            )

    def last_words(self, machine_id: str) -> LastWords:
        domain = self._domains.get(machine_id)
        return LastWords(domain.said, domain.terminated_by, aborted=domain.aborted) if domain else LastWords()

    def define(self, xml: str) -> str:
        with self._call("define") as events:
            found = _UUID.search(xml)
            if found is None:
                raise HypervisorError("libvirt could not define the domain: XML error: no uuid")
            self._domains.setdefault(found[1], self._hypervisor.domain_type()).persistent = xml
            events.append(DomainEvent(found[1], EventKind.DEFINED))
            return xml

    def start(self, machine_id: str, *, force_boot: bool = False) -> bool:
        with self._call("start") as events:
            domain = self._existing(machine_id)
            if domain.state in _LIVE:
                return domain.reason == "restored"
            restored = domain.managed_save and not force_boot
            xml = domain.saved if restored else domain.persistent
            self._hypervisor._open_disks(xml, "start the domain")
            self._hypervisor._filter_nics(xml, "start the domain")
            domain.state, domain.reason = DomainState.RUNNING, "restored" if restored else "booted"
            domain.live, domain.managed_save = xml, False
            domain.said = domain.terminated_by = domain.aborted = ""
            domain.hangs_at_end = False
            events.append(DomainEvent(machine_id, EventKind.STARTED))
            return restored

    def press_power_button(self, machine_id: str) -> None:
        with self._call("press_power_button"):
            domain = self._domains.get(machine_id)
            heard = domain is not None and domain.state is DomainState.RUNNING and not domain.deaf
        if heard:
            self._hypervisor.guest_powers_off(machine_id)

    def resume(self, machine_id: str) -> None:
        with self._call("resume") as events:
            domain = self._existing(machine_id)
            if domain.state not in _LIVE:
                raise HypervisorError("libvirt could not resume the domain: domain is not running", 55)
            domain.state, domain.reason = DomainState.RUNNING, "unpaused"
            events.append(DomainEvent(machine_id, EventKind.RESUMED))
            domain.resumes_in_vain -= 1
            if domain.resumes_in_vain < 0:
                domain.failing.clear()
            self._hypervisor._fail_disks(machine_id, events)

    def wake_up(self, machine_id: str) -> None:
        with self._call("wake_up") as events:
            domain = self._domains.get(machine_id)
            if domain is not None and domain.state is DomainState.SUSPENDED:
                domain.state, domain.reason = DomainState.RUNNING, "wakeup"
                events.append(DomainEvent(machine_id, EventKind.STARTED))

    def set_time(self, machine_id: str) -> bool:
        with self._call("set_time"):
            domain = self._existing(machine_id)
            domain.clock_set = domain.agent
            return domain.agent

    def attach_device(self, machine_id: str, xml: str) -> None:
        with self._call("attach_device") as events:
            domain = self._existing(machine_id)
            if domain.state not in _LIVE:
                raise HypervisorError("libvirt could not plug the device: domain is not running", 55)
            self._hypervisor._open_disks(xml, "plug the device")
            self._hypervisor._filter_nics(xml, "plug the device")
            root, device = etree.fromstring(domain.live), etree.fromstring(xml)
            alias = device.findall("alias")[0].get("name", "")
            if _devices(root, alias):
                raise HypervisorError(f"libvirt could not plug the device: non unique alias detected: {alias}", 67)
            (root.findall("devices") or [etree.SubElement(root, "devices")])[0].append(device)
            domain.live = etree.tostring(root, encoding="unicode")
            events.append(DomainEvent(machine_id, EventKind.DEVICE_ADDED, alias))

    def detach_device(self, machine_id: str, alias: str) -> None:
        with self._call("detach_device") as events:
            domain = self._domains.get(machine_id)
            if domain is None or domain.state not in _LIVE or not _devices(etree.fromstring(domain.live), alias):
                return
            if alias not in domain.unplugging:
                domain.unplugging.append(alias)
            if domain.state is DomainState.RUNNING and not domain.deaf_to_unplug:
                self._hypervisor._unplug(machine_id, domain, events)

    def disk_errors(self, machine_id: str) -> dict[str, DiskError]:
        with self._call("disk_errors"):
            domain = self._domains.get(machine_id)
            return {target: DiskError(error) for target, error in domain.failed.items()} if domain else {}

    def resize_disk(self, machine_id: str, target: str, size: int) -> None:
        with self._call("resize_disk"):
            domain = self._domains.get(machine_id)
            if domain is None or domain.state not in _LIVE:
                return
            if _disk(domain.live, target) is None:
                problem = f"invalid argument: invalid path {target} not assigned to domain"
                raise HypervisorError(f"libvirt could not grow the disk {target}: {problem}", 8)
            domain.sizes[target] = max(size, domain.sizes.get(target, 0))

    def destroy(self, machine_id: str) -> None:
        with self._call("destroy"):
            domain = self._domains.get(machine_id)
            active = domain is not None and domain.state in _LIVE
        if active:
            self._hypervisor.destroy_from_outside(machine_id)

    def undefine(self, machine_id: str) -> None:
        with self._call("undefine") as events:
            domain = self._domains.get(machine_id)
            if domain is None or not domain.persistent:
                return
            domain.persistent, domain.managed_save = "", False
            if domain.state not in _LIVE:
                del self._domains[machine_id]
            events.append(DomainEvent(machine_id, EventKind.UNDEFINED))

    def set_secret(self, secret: Secret, value: bytes) -> None:
        with self._call("set_secret"):
            there = self._hypervisor.secrets.get(secret.uuid, secret)
            if there.instance != secret.instance:
                raise HypervisorError(f"libvirt could not take a disk's secret: {secret.uuid} is of another use", 1)
            if not value:
                raise HypervisorError("libvirt could not take a disk's secret: value must not be NULL", 8)
            self._hypervisor.secrets[secret.uuid] = secret
            self._hypervisor.values[secret.uuid] = value

    def drop_secret(self, uuid: str, instance: str) -> None:
        with self._call("drop_secret"):
            there = self._hypervisor.secrets.get(uuid)
            if there is not None and there.instance == instance:
                del self._hypervisor.secrets[uuid]
                self._hypervisor.values.pop(uuid, None)

    def secret_ids(self) -> dict[str, str]:
        with self._call("secret_ids"):
            return {each.uuid: each.instance for each in self._hypervisor.secrets.values()}

    def network(self, name: str) -> Network | None:
        with self._call("network"):
            found = self._hypervisor.networks.get(name)
            return found.seen(name) if found else None

    def leases(self, name: str) -> frozenset[Lease]:
        with self._call("leases"):
            found = self._hypervisor.networks.get(name)
            return found.leases() if found else frozenset()

    def reserve(self, name: str, client: str, address: Address) -> None:
        with self._call("reserve"):
            if (found := self._hypervisor.networks.get(name)) is None:
                raise HypervisorError(f"libvirt could not reserve {address}: network not found: {name}", 43)
            found.reserve(client, str(address))

    def unreserve(self, name: str, client: str, address: Address) -> None:
        with self._call("unreserve"):
            if (found := self._hypervisor.networks.get(name)) is not None:
                found.unreserve(client, str(address))

    def end_leases(self, name: str, mac: str) -> None:
        with self._call("end_leases"):
            if (found := self._hypervisor.networks.get(name)) is not None:
                found.leased = [each for each in found.leased if each[0] != mac]

    def have_filter(self, name: str) -> None:
        with self._call("have_filter"):
            filter_rules.xml(name)  # KeyError for one that is none of ours
            self._hypervisor.filters.add(name)

    def filter_bindings(self) -> dict[str, str]:
        with self._call("filter_bindings"):
            found = dict(self._hypervisor.bindings)
            for uuid, domain in self._domains.items():
                if domain.live and domain.state in _LIVE:
                    nics = etree.fromstring(domain.live).iterfind(".//interface[filterref]/alias")
                    found |= {f"tap of {nic.get('name')}": uuid for nic in nics}
            return found

    def drop_filter_binding(self, device: str) -> None:
        with self._call("drop_filter_binding"):
            self._hypervisor.bindings.pop(device, None)

    def domain_ids(self) -> list[str]:
        with self._call("domain_ids"):
            return list(self._domains)

    def states(self) -> dict[str, DomainState]:
        with self._call("states"):
            return {machine_id: domain.state for machine_id, domain in self._domains.items()}

    def offer(self) -> Offer:
        with self._call("offer"):
            return self._hypervisor.offered

    @property
    def _domains(self) -> dict[str, Domain]:
        return self._hypervisor._domains

    def _existing(self, machine_id: str) -> Domain:
        try:
            return self._domains[machine_id]
        except KeyError:
            raise HypervisorError(f"Domain not found: no domain with matching uuid '{machine_id}'", 42) from None

    @contextmanager
    def _call(self, method: str) -> Iterator[list[DomainEvent]]:
        self._check()
        self._hypervisor._enter(method)
        with self._hypervisor._change() as events:
            self._check()
            yield events

    def _check(self) -> None:
        if self._closed or not self._hypervisor._alive(self._life):
            raise Unreachable("libvirt cannot be asked: the connection is dead")


def _disk(xml: str, target: str) -> etree._Element | None:
    """The disk of this target in a domain's XML."""
    disks = etree.fromstring(xml).findall("devices/disk")
    return next((disk for disk in disks if any(each.get("dev") == target for each in disk.findall("target"))), None)


def _devices(root: etree._Element, alias: str) -> list[etree._Element]:
    """The devices of a domain's XML that carry this alias: one or none."""
    found = root.findall("devices/*")
    return [device for device in found if any(each.get("name") == alias for each in device.findall("alias"))]
