"""What carries the marks of this store and belongs to no machine of it: found, counted, and removed when asked to.

Ours is only what says so itself: a domain whose metadata names this store's instance and its own UUID, a machine
directory with our mark in it, and a secret with our mark that nobody has lent (`secrets.py`). What carries other marks,
or none, is never touched: another provider's, an operator's, a clone that somebody made of one of our guests. NVRAM and
console log lie in the machine's directory; the taps of a guest are libvirt's and go with it. So do the rules of the
filters on them, which all providers of a host share: what a crash left of those, on behalf of a domain that does not
run, is nobody's, and would keep libvirt from giving another guest a device of that name.

A store that was a backup does not know the machines that were made since. What it finds is then removed only by name,
unless it remembers that it deleted the machine itself. When to remove does not belong here.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import structlog

from sri_libvirt.domain import observed as domain_view
from sri_libvirt.errors import HypervisorError, NotFound, SRIError, Unreachable
from sri_libvirt.hypervisor.base import Connection, DomainSnapshot, DomainState
from sri_libvirt.paths import StatePaths, sync_directory
from sri_libvirt.reconcile.secrets import Leftovers, Loans
from sri_libvirt.store.backup import COPIED

log = structlog.get_logger(__name__)

_ENDED = (DomainState.OFF, DomainState.CRASHED)


class Known(Protocol):
    """What is asked of the store."""

    @property
    def instance(self) -> str: ...

    def machine_ids(self) -> list[str]: ...

    def gone(self) -> set[str]: ...

    def meta(self, key: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class Orphan:
    """One id that belongs to no machine, with all that carries it.

    `by_name`: it may be a machine that the restored backup does not know. `held` says why it is not removed at all.
    `secret`: it is the UUID of a secret, and of nothing else; `filter`: the name of a device with rules of a filter.
    """

    id: str
    domain: Literal["none", "off", "running"]
    directory: bool
    by_name: bool
    held: str = ""
    secret: bool = False
    filter: bool = False


@dataclass(frozen=True, slots=True)
class Swept:
    """What became of one orphan: `problem` is "" when it is gone, else why it is not."""

    orphan: Orphan
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Orphans:
    """Finds and removes; keeps no state. Safe from any thread: every call has a connection of its own."""

    store: Known
    paths: StatePaths
    connect: Callable[[], Connection]
    loans: Loans = field(default_factory=Loans)

    def find(self) -> list[Orphan]:
        """All orphans, by id. Reads only domains that no machine has. Raises Unreachable, HypervisorError, OSError."""
        connection = self.connect()
        try:
            return self._find(connection)
        finally:
            connection.close()

    def remove(self, names: Collection[str], *, running: bool) -> list[Swept]:
        """Remove the orphans of these ids, or, without names, all that need not be named; the rest say why they stay.

        Guests that run are ended only with `running`. Raises NotFound when a name is no orphan's, before anything is
        removed, and Unreachable.
        """
        connection = self.connect()
        try:
            found = {orphan.id: orphan for orphan in self._find(connection)}
            unknown = sorted(set(names) - found.keys())
            if unknown:
                raise NotFound(f"not an orphan of this store: {', '.join(unknown)}; nothing was removed")
            return [
                self._attempt(connection, orphan, named=orphan.id in names, running=running)
                for orphan in found.values()
                if not names or orphan.id in names
            ]
        finally:
            connection.close()

    def _find(self, connection: Connection) -> list[Orphan]:
        # What is there first, then the store: what is made in between is in the store by then. Then a second look:
        # what was deleted in between is gone by then, for the store forgets a machine last.
        filters = self._filters(connection)
        domains = set(connection.domain_ids())
        directories = set(self._directories())
        known = set(self.store.machine_ids())
        looked, unread = _read(connection, sorted(domains - known))
        ours = {each: domain for each, domain in looked.items() if domain and self._ours(domain)}
        others = {each: domain for each, domain in looked.items() if domain and each not in ours}
        left = {each for each in directories - known if self._marked(self.paths.machine(each).root)}
        remembered = self.store.gone()
        copied = self.store.meta(COPIED) is not None
        secrets = [Orphan(each, "none", False, False, secret=True) for each in self._secrets.find(connection)]
        return (
            secrets
            + filters
            + [
                Orphan(
                    id=each,
                    domain=_state(ours.get(each)),
                    directory=each in left,
                    by_name=copied and each not in remembered,
                    held=_held(each, others, unread),
                )
                for each in sorted(ours.keys() | left)
            ]
        )

    def _attempt(self, connection: Connection, orphan: Orphan, *, named: bool, running: bool) -> Swept:
        try:
            problem = self._remove(connection, orphan, named=named, running=running)
        except Unreachable:
            raise
        except (HypervisorError, OSError) as error:
            problem = str(error)
        log.info("orphan removed" if not problem else "orphan stays", machine=orphan.id, problem=problem)
        return Swept(orphan, problem)

    def _remove(self, connection: Connection, orphan: Orphan, *, named: bool, running: bool) -> str:
        if orphan.held:
            return orphan.held
        if orphan.secret:
            return "" if self._secrets.drop(connection, orphan.id) else "a disk is being opened with it"
        if orphan.filter:
            if orphan not in self._filters(connection):
                return "a guest has the device by now"
            connection.drop_filter_binding(orphan.id)
            return ""
        if orphan.by_name and not named:
            return "the store is a restored backup and may not know this machine: name it to remove it"
        domain = connection.snapshot(orphan.id)
        if domain is not None and not self._ours(domain):
            return "its domain has been replaced by one that is not ours"
        if domain is not None and domain.active:
            if not running:
                return "its guest runs: --running ends it"
            connection.destroy(orphan.id)
        if domain is not None:
            connection.undefine(orphan.id)
            if connection.snapshot(orphan.id) is not None:
                return "its guest was started meanwhile"
        if orphan.directory:
            _remove_directory(self.paths.machine(orphan.id).root, self.paths.machine(orphan.id).mark)
        return ""

    def _filters(self, connection: Connection) -> list[Orphan]:
        """Devices that have rules of ours for a domain that does not run; who starts has its domain first."""
        bound = connection.filter_bindings()
        running = {uuid for uuid, state in connection.states().items() if state not in _ENDED} if bound else set()
        left = sorted(device for device, owner in bound.items() if owner not in running)
        return [Orphan(each, "none", False, False, filter=True) for each in left]

    @property
    def _secrets(self) -> Leftovers:
        return Leftovers(self.store.instance, self.loans)

    def _ours(self, domain: DomainSnapshot) -> bool:
        """Of this store, and not a copy that somebody made with another UUID."""
        marks = domain_view.glance(domain.live_xml or domain.persistent_xml)
        return (marks.instance, marks.machine_id) == (self.store.instance, domain.id)

    def _directories(self) -> Iterable[str]:
        for path in self.paths.machines.iterdir():
            try:
                self.paths.machine(path.name)
            except ValueError:
                continue  # not of a machine: somebody else's
            yield path.name

    def _marked(self, root: Path) -> bool:
        try:
            return str(self.paths.machine(root.name).mark.readlink()) == self.store.instance
        except OSError:
            return False


def _state(domain: DomainSnapshot | None) -> Literal["none", "off", "running"]:
    if domain is None:
        return "none"
    return "running" if domain.active else "off"


def _read(connection: Connection, ids: list[str]) -> tuple[dict[str, DomainSnapshot | None], list[str]]:
    """The domains of these ids, and those that libvirt does not read: they may be anybody's and use anything."""
    looked: dict[str, DomainSnapshot | None] = {}
    unread: list[str] = []
    for each in ids:
        try:
            looked[each] = connection.snapshot(each)
        except Unreachable:
            raise
        except HypervisorError as error:
            log.warning("a domain of no machine cannot be read", domain=each, error=str(error))
            unread.append(each)
    return looked, unread


def _held(machine_id: str, others: dict[str, DomainSnapshot], unread: list[str]) -> str:
    """Whether a domain that is not ours, or may not be, has this id, or uses files below a directory of this name."""
    if unread:
        which = "its domain" if machine_id in unread else f"the domain {unread[0]}, which may use it,"
        return f"{which} cannot be read (virsh dominfo)"
    if machine_id in others:
        return "a domain of this id carries other marks or none"
    users = [each for each, domain in others.items() if machine_id in domain.live_xml + domain.persistent_xml]
    return f"the domain {users[0]}, which is not ours, names it" if users else ""


def _remove_directory(root: Path, mark: Path) -> None:
    """All of it, the mark last: what a crash leaves is still ours."""
    for path in root.iterdir():
        if path == mark:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(root)
    sync_directory(root.parent)


def sweep(orphans: Orphans, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The admin command: `ids` (all if empty), `remove`, `running`; orphans as plain data, each with its outcome.

    Raises NotFound when an id is no orphan's.
    """
    ids = [str(each) for each in arguments["ids"]]
    if arguments["remove"] is not True:
        found = {orphan.id: orphan for orphan in orphans.find()}
        if unknown := sorted(set(ids) - found.keys()):
            raise NotFound(f"not an orphan of this store: {', '.join(unknown)}")
        return [{**asdict(orphan), "outcome": ""} for orphan in found.values() if not ids or orphan.id in ids]
    swept = orphans.remove(ids, running=arguments["running"] is True)
    outcomes = [f"stays: {each.problem}" if each.problem else "removed" for each in swept]
    return [{**asdict(each.orphan), "outcome": outcome} for each, outcome in zip(swept, outcomes, strict=True)]


class Census(threading.Thread):
    """Counts the orphans now and then, on a thread of its own, so that a hung libvirt delays nobody."""

    def __init__(self, orphans: Orphans, counted: Callable[[int], None], period: float) -> None:
        super().__init__(name="orphan-census", daemon=True)
        self._orphans = orphans
        self._counted = counted
        self._period = period
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.wait(self._period):
            try:
                count = len(self._orphans.find())
            except (SRIError, OSError) as error:
                log.info("orphans are not counted now", error=str(error))
                continue
            except Exception:
                log.exception("a bug: orphans are counted again with the next period")
                continue
            self._counted(count)
            if count:
                log.warning("something belongs to no machine: see `sri-libvirt sweep`", orphans=count)

    def stop(self) -> None:
        """End the thread soon; one that is stuck in a call of libvirt is left behind."""
        self._ending.set()
