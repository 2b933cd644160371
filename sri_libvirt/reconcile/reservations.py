"""Who looks whether libvirt's networks still keep the addresses of our interfaces: an operator can have taken one away,
or have made a network anew.

Looked at when a network starts, and now and then. What is lost is put back by the machine's own lane, so that nothing
is reserved for an interface that is being given up; how does not belong here (`nics/reserving.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog

from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import HypervisorError, Unreachable
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.hypervisor.networks import Network
from sri_libvirt.records import Attachment
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Reservations:
    """Keeps no state. `lost` is told of the MACs whose address no network that runs keeps any more."""

    store: Store
    connect: Callable[[], Connection]
    lost: Callable[[Collection[str]], None]
    wake: Callable[[str], None]

    def look(self) -> None:
        """Look now, and wake whose address it is. Raises Unreachable."""
        rows = [row for row in self.store.prepared_nics() if reserved(row)]
        if not rows:
            self.lost(())
            return
        connection = self.connect()
        try:
            networks = {name: _read(connection, name) for name in {_of(row).network for row in rows}}
        finally:
            connection.close()
        found = [row for row in rows if _is_lost(row, networks[_of(row).network])]
        self.lost({row.mac for row in found})
        for row in found:
            log.warning("an address is not reserved any more", machine=row.machine, nic=row.name)
            self.wake(row.machine)


def _read(connection: Connection, name: str) -> Network | None:
    try:
        return connection.network(name)
    except Unreachable:
        raise
    except HypervisorError as error:
        log.info("a network cannot be read; its reservations are looked at later", network=name, error=str(error))
        return None


def _is_lost(row: Attachment, network: Network | None) -> bool:
    """What does not run reserves nothing, and says so by itself."""
    if network is None or not network.active:
        return False
    there = {(each.client, str(each.address)) for each in network.reservations}
    return not reserved(row) <= there


def _of(row: Attachment) -> NicBackend:
    assert isinstance(row.backing, NicBackend)
    return row.backing


def reserved(row: Attachment) -> set[tuple[str, str]]:
    """What is reserved for a network interface that is ready: clients, each with its address."""
    made = _of(row)
    return {(client, address) for client, address in ((row.mac, made.address), (made.duid, made.address6)) if address}
