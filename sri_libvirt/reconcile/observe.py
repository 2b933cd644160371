"""Look at one machine's domain and at the host, through the lane's own connection.

What is read here is handed to plan() as plain data. What it means does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from sri_libvirt import names
from sri_libvirt.devices import NicBackend
from sri_libvirt.domain import observed as domain_view
from sri_libvirt.errors import UNDER_WAY, HypervisorError, NotReady, Unreachable
from sri_libvirt.hypervisor.base import Connection, DiskError, DomainSnapshot, DomainState, LastWords
from sri_libvirt.reconcile.view import FailedDisk, Heard, NotSeen, Observed
from sri_libvirt.records import Attachment, Machine, Stranger

PAUSED_BY_DISK = (DomainState.PAUSED, "io error")


class HostSigns(Protocol):
    """What the loop asks of the host itself."""

    def boot_id(self) -> str:
        """The kernel's boot id: another one means that the host was down in between."""

    def stopping(self) -> bool | None:
        """Whether the host is shutting down; None where nobody can tell."""


@dataclass(frozen=True, slots=True)
class Observer:
    """Shared by all lanes. `instance` is the store's uuid; `refresh` keeps what libvirt offers up to date.

    `of_wall` tells the steady time of a stamp in QEMU's log. `out_of_memory(machine id, since)` is whether the kernel
    says that it has killed the machine's QEMU since then. `joined(device, bridge)` is
    whether a NIC's tap is in its bridge, or down where there is none; None: it cannot be told.
    `ended(boot id)` is when an earlier boot ended, if known. `ask(row)` looks at a plugged volume's backend: None where
    nobody can, NotReady where it does not answer, or not yet. `failed(machine id)` has the aliases of the disks at
    which QEMU has paused its guest, and whether for want of space; none if that was not seen. `edits(machine, XML)` is
    what of its persistent XML ("" if it has none, or not of ours) somebody else has changed, in words.
    """

    instance: str
    host: HostSigns
    refresh: Callable[[Connection], None]
    of_wall: Callable[[int], int] = lambda at: at
    out_of_memory: Callable[[str, int], bool] = lambda _machine, _since: False
    joined: Callable[[str, str], bool | None] = lambda _device, _bridge: None
    ended: Callable[[str], int] = lambda _: 0
    ask: Callable[[Attachment], object | None] = lambda _row: None
    failed: Callable[[str], Mapping[str, bool]] = lambda _machine: {}
    edits: Callable[[Machine, str], tuple[str, ...]] = lambda _machine, _persistent: ()

    def look(
        self, machine: Machine, connect: Callable[[], Connection], stuck: tuple[str, ...] = ()
    ) -> Observed | NotSeen:
        """One look. NotSeen when libvirt cannot be asked; the caller must then give its connection up.

        `stuck` is late work on the machine that was still out before the look.
        """
        try:
            connection = connect()
            self.refresh(connection)
            domain = connection.snapshot(machine.id)
            halted = domain is None or not domain.active or domain.state is DomainState.SHUTTING_DOWN
            explain = halted and machine.run.started_at and machine.run.stopped is None
            restored = domain is not None and domain.reason == "restored" and not machine.run.restored
            words = connection.last_words(machine.id) if explain or restored else LastWords()
            failed = self._failed_disks(machine, domain, connection)
        except Unreachable as error:
            return NotSeen(str(error), stuck)
        live = domain_view.glance(domain.live_xml) if domain and domain.live_xml else None
        persistent = domain_view.glance(domain.persistent_xml) if domain and domain.persistent_xml else None
        marks = live or persistent
        strangers = (live.devices.keys() if live else frozenset()) - {row.alias for row in machine.attachments}
        foreign = marks is not None and (marks.instance, marks.machine_id) != (self.instance, machine.id)
        return Observed(
            domain=domain,
            boot_id=self.host.boot_id(),
            host_stopping=self.host.stopping() if halted else False,
            boot_ended_at=self.ended(machine.run.boot_id),
            foreign=foreign,
            run=marks.run if marks else "",
            live=frozenset(live.devices) if live else frozenset(),
            persistent=frozenset(persistent.devices) if persistent else frozenset(),
            places=live.devices if live else {},
            defined=persistent.devices if persistent else {},
            astray=self._astray(machine, live.devices if live else {}),
            last_words=replace(words, at=self.of_wall(words.at), saved_at=self.of_wall(words.saved_at)),
            out_of_memory=words.reason == "crashed" and self.out_of_memory(machine.id, machine.run.started_at),
            strangers=_strangers(domain.live_xml, strangers) if domain and strangers else (),
            stuck=stuck,
            failed_disks=failed,
            edits=self.edits(machine, "" if foreign or domain is None else domain.persistent_xml),
        )

    def _failed_disks(
        self, machine: Machine, domain: DomainSnapshot | None, connection: Connection
    ) -> tuple[FailedDisk, ...]:
        if domain is None or (domain.state, domain.reason) != PAUSED_BY_DISK:
            return ()
        rows = {row.alias: row for row in machine.attachments}
        seen = self.failed(machine.id)
        failed = {(rows[alias].target if alias in rows else alias): no_space for alias, no_space in seen.items()}
        by_target = {row.target: row for row in machine.attachments if row.wanted}
        return tuple(
            FailedDisk(target, no_space, self._heard(by_target.get(target)))
            for target, no_space in sorted((failed or _all_that_failed(machine.id, connection)).items())
        )

    def _heard(self, row: Attachment | None) -> Heard | None:
        try:
            found = self.ask(row) if row else None
        except NotReady as error:
            return Heard(None if error.code == UNDER_WAY else False, str(error), error.advice)
        return None if found is None else Heard(True)

    def _astray(self, machine: Machine, places: Mapping[str, domain_view.Place]) -> frozenset[str]:
        """NICs that are in another bridge than they should be, or in none; and taps that should be down and are not. Of
        others' taps and of macvtap nothing is to be expected.
        """
        down = {
            row.alias
            for row in machine.attachments
            if isinstance(row.backing, NicBackend) and row.backing.kind == "isolated"
        }
        return frozenset(
            alias
            for alias, place in places.items()
            if place.tap and (place.bridge or alias in down) and self.joined(place.tap, place.bridge) is False
        )


def _all_that_failed(machine_id: str, connection: Connection) -> dict[str, bool]:
    """The disks that have failed since the guest was started, which may not be all that it is paused for now."""
    try:
        errors = connection.disk_errors(machine_id)
    except Unreachable:
        raise
    except HypervisorError:
        return {}  # it is resumed all the same
    return {target: error is DiskError.NO_SPACE for target, error in errors.items()}


def _strangers(live_xml: str, aliases: Iterable[str]) -> tuple[Stranger, ...]:
    """What the XML says of these devices, as far as they can come and go."""
    devices = domain_view.read(live_xml).devices
    found = (devices[alias] for alias in sorted(aliases) if names.can_be_stranger(alias))
    return tuple(
        Stranger(each.alias, target=each.target, serial=each.serial, source=each.source, mac=each.mac, port=each.port)
        for each in found
    )
