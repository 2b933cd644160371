"""The end of a store: all its machines, ended and removed with their disks, before the state directory goes.

What belongs to it is decided as for orphans (`orphans.py`): by marks, never by names. Nothing is removed unless all can
be told apart, for what is left goes with the directory. An empty directory may be a file system that is not mounted, so
libvirt is asked of that one, too. The directory itself does not belong here (uninstall.sh).
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Protocol

from sri_libvirt.devices import NicBackend
from sri_libvirt.domain import observed as domain_view
from sri_libvirt.errors import FailedPrecondition, SRIError
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.orphans import Known, Orphan, Orphans, Swept
from sri_libvirt.reconcile.reservations import reserved
from sri_libvirt.records import Attachment, Machine


@dataclass(frozen=True, slots=True)
class _NobodyStays:
    """A store as it will be: nothing that carries its marks has a machine."""

    instance: str

    def machine_ids(self) -> list[str]:
        return []

    def gone(self) -> set[str]:
        return set()

    def meta(self, _: str) -> str | None:
        return None


class Holder(Known, Protocol):
    """What is asked of a store that still has its machines."""

    def machine(self, machine_id: str) -> Machine | None: ...


@dataclass(frozen=True, slots=True)
class Purge:
    """All machines of a store, and all that carries its marks besides.

    The addresses that libvirt's networks keep for them, which are the operator's, are given up, too.
    """

    store: Holder
    paths: StatePaths
    connect: Callable[[], Connection]

    def find(self) -> list[dict[str, Any]]:
        """What would go, as plain data. Raises Unreachable; FailedPrecondition when something there is not ours."""
        found = self._find()
        return [_data(each) for each in found] + [_data(each) for each in self._unmade(found)]

    def remove(self, forget: Callable[[str], None]) -> list[dict[str, Any]]:
        """End and remove all of it, and `forget` what is gone; each with its outcome. Raises as `find`.

        The caller keeps the daemon away, which would make its machines again.
        """
        unmade = self._unmade(self._find())
        done = []
        for each in [*self._orphans.remove((), running=True), *(Swept(orphan) for orphan in unmade)]:
            outcome = f"stays: {each.problem}" if each.problem else "removed"
            if not each.problem and not each.orphan.secret:
                outcome = "; ".join((outcome, *self._give_up_addresses(each.orphan.id)))
                forget(each.orphan.id)
            done.append(_data(each.orphan, outcome))
        return done

    def _give_up_addresses(self, machine_id: str) -> list[str]:
        """Have no network keep an address for a machine that is gone; what is kept all the same, and what to do."""
        machine = self.store.machine(machine_id)
        held = list(_held(machine.attachments)) if machine else []
        if not held:
            return []
        kept = []
        connection = self.connect()
        try:
            for network, client, address in held:
                try:
                    connection.unreserve(network, client, ip_address(address))
                except SRIError as error:
                    edit = f"virsh net-edit {shlex.quote(network)}"
                    kept.append(f"{address} stays reserved for {client} ({edit} takes it away): {error}")
        finally:
            connection.close()
        return kept

    def _unmade(self, found: list[Orphan]) -> list[Orphan]:
        """Machines of which there is nothing yet."""
        made = {each.id for each in found}
        return [Orphan(each, "none", False, False) for each in sorted(self.store.machine_ids()) if each not in made]

    @property
    def _orphans(self) -> Orphans:
        return Orphans(_NobodyStays(self.store.instance), self.paths, self.connect)

    def _find(self) -> list[Orphan]:
        found = self._orphans.find()
        ours = {each.id for each in found}
        problems = [f"{each.id}: {each.held}" for each in found if each.held]
        problems += [
            f"{path} does not carry this store's mark"
            for path in sorted(self.paths.machines.iterdir())
            if path.name not in ours
        ]
        others = _users(self.paths, self.connect, ours)
        problems += [f"the domain {each}, which is not ours, uses files of it" for each in others]
        if problems:
            raise FailedPrecondition(
                f"not all that is in {self.paths.root} is this store's, nothing was removed: {'; '.join(problems)}"
            )
        return found


def refuse_without_store(paths: StatePaths, connect: Callable[[], Connection]) -> None:
    """Of a state directory without a database: raise FailedPrecondition unless nobody has anything there, and
    Unreachable while libvirt does not say so."""
    with suppress(FileNotFoundError):
        if next(paths.machines.iterdir(), None) is not None:
            raise FailedPrecondition(
                f"there is no state database in {paths.root}, so nothing tells whose the directories in "
                f"{paths.machines} are: restore the database (`sri-libvirt store restore`), or remove them yourself"
            )
    if users := _users(paths, connect, set()):
        raise FailedPrecondition(
            f"there is no state database in {paths.root}, but domains have files there ({', '.join(users)}): probably "
            "its file system is not mounted. Mount it, or end them, and try again"
        )


def _users(paths: StatePaths, connect: Callable[[], Connection], ours: set[str]) -> list[str]:
    """Domains, but for ours, with files below the state directory."""
    connection = connect()
    try:
        looked = {each: connection.snapshot(each) for each in sorted(connection.domain_ids()) if each not in ours}
    finally:
        connection.close()
    return [
        each
        for each, domain in looked.items()
        if domain and domain_view.names_files_below(paths.root, domain.live_xml, domain.persistent_xml)
    ]


def _held(rows: Iterable[Attachment]) -> Iterator[tuple[str, str, str]]:
    """Network, client and address of each reservation of these devices."""
    for row in rows:
        if isinstance(made := row.backing, NicBackend):
            yield from ((made.network, client, address) for client, address in sorted(reserved(row)))


def _data(orphan: Orphan, outcome: str = "") -> dict[str, Any]:
    return {
        "id": orphan.id,
        "domain": orphan.domain,
        "directory": orphan.directory,
        "secret": orphan.secret,
        "outcome": outcome,
    }
