"""One connection to libvirtd, for one thread.

libvirt's objects are looked up by UUID at every call (0.1 ms) and never kept. A connection that was lost once is dead:
every further call says so at once, and its owner opens another. The XML is never read with the flag that shows secrets.
Where libvirt's versions differ, `undefine_flags` and `words.py` say so. Retries and deadlines do not belong here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import libvirt

from sri_libvirt.errors import HypervisorError, Unreachable
from sri_libvirt.hypervisor import capabilities, dhcp, disks, faults, filters, firmware, qemulog, secrets, words
from sri_libvirt.hypervisor.base import DiskError, DomainSnapshot, DomainState, LastWords, Offer, Secret
from sri_libvirt.hypervisor.networks import Address, Lease, Network

TPM_SINCE = 8_009_000
"""The first libvirt that knows VIR_DOMAIN_UNDEFINE_TPM; older ones refuse the flag."""

DOMAIN_TYPES = frozenset({"kvm", "qemu"})

AGENT_SECONDS = 3
"""How long a guest's agent may take for each answer; by itself libvirt would wait for ever."""

SNAPSHOT_TRIES = 5
"""How often state and XML are read until they tell of one moment."""

_ON_OR_OFF = frozenset({DomainState.CRASHED, DomainState.UNKNOWN})
"""States that say nothing of whether there is a QEMU."""

_LIVE = re.compile(r"\s*<domain\b[^>]*\sid='\d+'")
"""Only the XML of an active domain has a number; libvirt answers with the persistent XML once it has stopped."""


def undefine_flags(libvirt_version: int) -> int:
    """All that a domain can leave behind; each is accepted of domains that have none of it."""
    flags: int = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    )
    # The client's and the daemon's version both count; the binding lacks the name where the client is older.
    tpm: int = getattr(libvirt, "VIR_DOMAIN_UNDEFINE_TPM", 0)
    return flags | tpm if libvirt_version >= TPM_SINCE else flags


def _press_power_button(domain: libvirt.virDomain) -> None:
    # libvirt refuses it to a guest that is paused.
    if domain.state()[0] == libvirt.VIR_DOMAIN_RUNNING:
        domain.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)


def _was_restored(domain: libvirt.virDomain) -> bool:
    # A guest that was paused when it was saved is paused again.
    return words.state(*domain.state()) != (DomainState.RUNNING, "booted")


def _wake_up(domain: libvirt.virDomain) -> None:
    if domain.state()[0] == libvirt.VIR_DOMAIN_PMSUSPENDED:
        domain.pMWakeup(0)


class LibvirtConnection:
    """See `base.Connection`, whose promises these methods keep."""

    def __init__(
        self,
        connection: libvirt.virConnect,
        *,
        qemu_log_dir: Path,
        firmware_dirs: Sequence[Path] = firmware.DIRECTORIES,
    ) -> None:
        self._connection = connection
        self._qemu_log_dir = qemu_log_dir
        self._firmware_dirs = firmware_dirs
        self._lost = ""

    def close(self) -> None:
        self._lost = self._lost or "the connection was closed"
        try:
            self._connection.close()
        except libvirt.libvirtError:
            return  # a connection that broke is as closed as it can be

    def snapshot(self, machine_id: str) -> DomainSnapshot | None:
        with self._asking("read the domain"):
            try:
                domain = self._find(machine_id)
                return self._snapshot(machine_id, domain) if domain else None
            except libvirt.libvirtError as error:
                if faults.is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    return None  # it vanished between two calls
                raise

    def last_words(self, machine_id: str) -> LastWords:
        return qemulog.read(self._qemu_log_dir / f"{machine_id}.log")

    def define(self, xml: str) -> str:
        with self._asking("define the domain"):
            kept: str = self._connection.defineXMLFlags(xml, 0).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            return kept

    def start(self, machine_id: str, *, force_boot: bool = False) -> bool:
        with self._asking("start the domain"):
            domain = self._connection.lookupByUUIDString(machine_id)
            if domain.isActive():
                return _was_restored(domain)
            saved = not force_boot and bool(domain.hasManagedSaveImage(0))
            try:
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_FORCE_BOOT if force_boot else 0)
            except libvirt.libvirtError as error:
                if faults.is_code(error, libvirt.VIR_ERR_OPERATION_INVALID) and domain.isActive():
                    return _was_restored(domain)
                if saved and (unusable := faults.unusable_save(error)):
                    raise unusable from error
                raise
            return saved and _was_restored(domain)

    def press_power_button(self, machine_id: str) -> None:
        with self._asking("press the domain's power button"):
            self._on_active(machine_id, _press_power_button)

    def resume(self, machine_id: str) -> None:
        with self._asking("resume the domain"):
            self._connection.lookupByUUIDString(machine_id).resume()

    def wake_up(self, machine_id: str) -> None:
        with self._asking("wake the domain"):
            self._on_active(machine_id, _wake_up)

    def set_time(self, machine_id: str) -> bool:
        with self._asking("set the guest's clock"):
            domain = self._connection.lookupByUUIDString(machine_id)
            domain.agentSetResponseTimeout(AGENT_SECONDS, 0)
            try:
                seconds, rest = divmod(time.time_ns(), 1_000_000_000)
                domain.setTime({"seconds": seconds, "nseconds": rest})
            except libvirt.libvirtError as error:
                if faults.is_lost(error, faults.is_alive(self._connection)):
                    raise
                return False
            finally:
                with suppress(libvirt.libvirtError):
                    domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK, 0)
            return True

    def attach_device(self, machine_id: str, xml: str) -> None:
        with self._asking("plug the device"):
            domain = self._connection.lookupByUUIDString(machine_id)
            try:
                domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError as error:
                if refused := faults.descriptor_refused(error):
                    raise refused from error
                raise

    def detach_device(self, machine_id: str, alias: str) -> None:
        # By alias: detachDeviceFlags would wait 5 s for the guest, holding the domain's job.
        with self._asking("unplug the device"):
            domain = self._find(machine_id)
            if domain is None or not domain.isActive():
                return
            try:
                domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
            except libvirt.libvirtError:
                # libvirt 9 says "internal error" of a device that is not there, 11 DEVICE_MISSING: the XML decides.
                again = self._find(machine_id)
                if again is not None and again.isActive() and f"'{alias}'" in again.XMLDesc(0):
                    raise

    def disk_errors(self, machine_id: str) -> dict[str, DiskError]:
        found: dict[str, DiskError] = {}
        with self._asking("tell which disks have failed"):
            self._on_active(machine_id, lambda domain: found.update(disks.errors(domain)))
        return found

    def resize_disk(self, machine_id: str, target: str, size: int) -> None:
        with self._asking(f"grow the disk {target}"):
            self._on_active(machine_id, lambda domain: disks.grow(domain, target, size))

    def destroy(self, machine_id: str) -> None:
        with self._asking("destroy the domain"):
            self._on_active(machine_id, lambda d: d.destroyFlags(0))

    def undefine(self, machine_id: str) -> None:
        with self._asking("undefine the domain"):
            domain = self._find(machine_id)
            if domain is None or not domain.isPersistent():
                return
            try:
                domain.undefineFlags(undefine_flags(self._connection.getLibVersion()))
            except libvirt.libvirtError as error:
                if not faults.is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                    raise

    def set_secret(self, secret: Secret, value: bytes) -> None:
        with self._asking("take a disk's secret"):
            secrets.set_value(self._connection, secret, value)

    def drop_secret(self, uuid: str, instance: str) -> None:
        with self._asking("drop a disk's secret"):
            secrets.drop(self._connection, uuid, instance)

    def secret_ids(self) -> dict[str, str]:
        with self._asking("list the secrets"):
            return secrets.marked(self._connection)

    def network(self, name: str) -> Network | None:
        with self._asking(f"look up the network {name}"):
            return dhcp.find(self._connection, name)

    def leases(self, name: str) -> frozenset[Lease]:
        with self._asking(f"tell the leases of the network {name}"):
            return dhcp.leases(self._connection, name)

    def reserve(self, name: str, client: str, address: Address) -> None:
        with self._asking(f"reserve {address} on the network {name}"):
            dhcp.reserve(self._connection, name, client, address)

    def unreserve(self, name: str, client: str, address: Address) -> None:
        with self._asking(f"take back the reservation of {address} on the network {name}"):
            dhcp.unreserve(self._connection, name, client, address)

    def end_leases(self, name: str, mac: str) -> None:
        with self._asking(f"tell the leases of the network {name}"):
            dhcp.end_leases(self._connection, name, mac)

    def have_filter(self, name: str) -> None:
        with self._asking(f"define the network filter {name}"):
            filters.have(self._connection, name)

    def filter_bindings(self) -> dict[str, str]:
        with self._asking("list where network filters are put up"):
            return filters.bindings(self._connection)

    def drop_filter_binding(self, device: str) -> None:
        with self._asking(f"take the network filter of {device} down"):
            filters.drop_binding(self._connection, device)

    def domain_ids(self) -> list[str]:
        with self._asking("list the domains"):
            return [domain.UUIDString() for domain in self._connection.listAllDomains(0)]

    def states(self) -> dict[str, DomainState]:
        with self._asking("tell the states of all domains"):
            found = self._connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE, 0)
            return {
                domain.UUIDString(): words.state(told["state.state"], told.get("state.reason", 0))[0]
                for domain, told in found
            }

    def offer(self) -> Offer:
        with self._asking("tell what this host offers"):
            host = capabilities.parse_host(self._connection.getCapabilities())
            domains = self._domain_capabilities(host)
            return Offer(
                libvirt_version=self._connection.getLibVersion(),
                qemu_version=self._connection.getVersion(),
                architecture=host.architecture,
                emulator=next((found.emulator for found in domains.values()), ""),
                domain_types=frozenset(domains),
                machine_type=host.machine_type,
                machine_types=host.machine_types,
                cpu_modes={name: found.cpu_modes for name, found in domains.items()},
                cpu_models={name: found.cpu_models for name, found in domains.items()},
                firmware=firmware.read(self._firmware_dirs),
                qemu_user=host.qemu_user,
            )

    def _domain_capabilities(self, host: capabilities.Host) -> dict[str, capabilities.Domain]:
        """By domain type. Without a q35 there is nothing to ask for; the caller refuses such a host by its name."""
        found: dict[str, capabilities.Domain] = {}
        for domain_type in sorted(host.domain_types & DOMAIN_TYPES) if host.machine_type else ():
            try:
                xml = self._connection.getDomainCapabilities(None, host.architecture, host.machine_type, domain_type, 0)
            except libvirt.libvirtError as error:
                # KVM that was there when libvirt probed QEMU and is not any more
                if faults.is_code(error, libvirt.VIR_ERR_INVALID_ARG):
                    continue
                raise
            found[domain_type] = capabilities.parse_domain(xml)
        return found

    def _snapshot(self, machine_id: str, domain: libvirt.virDomain) -> DomainSnapshot:
        for _ in range(SNAPSHOT_TRIES):
            state, reason = words.state(*domain.state())
            off = state is DomainState.OFF or (state in _ON_OR_OFF and not domain.isActive())
            live = "" if off else domain.XMLDesc(0)
            if not live or _LIVE.match(live):
                break
        else:
            raise HypervisorError("the domain starts and stops faster than it can be read")
        persistent = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE) if domain.isPersistent() else ""
        return DomainSnapshot(
            id=machine_id,
            state=state,
            reason=reason,
            live_xml=live,
            persistent_xml=persistent,
            managed_save=not live and bool(domain.hasManagedSaveImage(0)),  # it goes with the start
        )

    def _find(self, machine_id: str) -> libvirt.virDomain | None:
        try:
            return self._connection.lookupByUUIDString(machine_id)
        except libvirt.libvirtError as error:
            if faults.is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                return None
            raise

    def _on_active(self, machine_id: str, action: Callable[[libvirt.virDomain], object]) -> None:
        """Do it to an active domain; one that is off or gone, also meanwhile, needs nothing done."""
        domain = self._find(machine_id)
        if domain is None or not domain.isActive():
            return
        try:
            action(domain)
        except libvirt.libvirtError as error:
            if faults.is_code(error, libvirt.VIR_ERR_NO_DOMAIN):
                return
            if faults.is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
                again = self._find(machine_id)
                if again is None or not again.isActive():
                    return
            raise

    @contextmanager
    def _asking(self, doing: str) -> Iterator[None]:
        if self._lost:
            raise Unreachable(f"libvirt cannot be asked to {doing}: {self._lost}")
        try:
            yield
        except libvirt.libvirtError as error:
            fault = faults.translate(error, doing, alive=faults.is_alive(self._connection))
            if isinstance(fault, Unreachable):
                self._lost = str(fault)
            raise fault from error
