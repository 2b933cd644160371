"""Addresses that the DHCP servers of libvirt's networks keep for our NICs: reserved before a NIC is plugged, given up
when it is gone.

What is reserved is never remembered: the network says so. Where libvirt takes long for a change, because it puts up the
network's firewall rules anew, it is a job, one at a time per network. Whether an address may be reserved does not
belong here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from sri_libvirt.errors import UNDER_WAY, HypervisorError, NotReady
from sri_libvirt.hypervisor.networks import SLOW_TO_CHANGE, Address, Network, Networks
from sri_libvirt.jobs import Jobs
from sri_libvirt.records import SECOND

BACKSTOP = 60 * SECOND
"""Who waits for a job looks for itself after that: a wake may be lost."""


class Asking(Networks, Protocol):
    """A connection of a job's own."""

    def close(self) -> None: ...


Change = Callable[[Networks], None]
Wanted = Mapping[str, Address]


class Reserving:
    """All reservations of one process. Thread-safe. Without `jobs` nothing is a job: whoever asks waits.

    `connect` opens a connection for the thread that calls it.
    """

    def __init__(
        self,
        jobs: Jobs | None = None,
        connect: Callable[[], Asking] | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._jobs = jobs
        self._connect = connect
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[tuple[str, str], tuple[str, str]] = {}  # what was done, and why it failed
        self._lost: frozenset[str] = frozenset()

    def hold(self, waiter: str, network: Network, mac: str, wanted: Wanted, networks: Networks) -> None:
        """Have these addresses kept for an interface, and no others. Raises NotReady while that takes, HypervisorError.

        `wanted` are by client, its MAC or a DUID.
        """
        others = [
            each for each in network.all_reservations if each.client in wanted and each.address != wanted[each.client]
        ]
        missing = {client: address for client, address in wanted.items() if not network.has(client, address)}
        if not missing and not others:
            self._found(mac)
            return

        def change(asked: Networks) -> None:
            for other in others:
                asked.unreserve(network.name, other.client, other.address)
            for client, address in missing.items():
                asked.reserve(network.name, client, address)

        self._do(waiter, network, mac, change, networks, f"{_words(wanted)} being reserved for it")
        self._found(mac)

    def give_up(self, waiter: str, network: Network, mac: str, held: Wanted, networks: Networks) -> None:
        """Have them kept no more, also while they are still being reserved. Raises as `hold`."""
        reserved = {(each.client, each.address) for each in network.all_reservations}
        if not reserved.isdisjoint(held.items()) or self._is_under_way(mac):

            def change(asked: Networks) -> None:
                for client, address in held.items():
                    asked.unreserve(network.name, client, address)

            self._do(waiter, network, mac, change, networks, f"{_words(held)} being given up")

    def missed(self, macs: Collection[str]) -> None:
        """These, and no others, have an address no more that was held for them (`reconcile/reservations.py`)."""
        with self._lock:
            self._lost = frozenset(macs)

    def is_lost(self, mac: str) -> bool:
        """Whether a MAC has lost the address that was held for it, as far as anybody has seen."""
        return mac in self._lost

    def busy_until(self, mac: str) -> int | None:
        """Until when it is of no use to ask again; None where nothing is under way."""
        return self._clock() + BACKSTOP if self._is_under_way(mac) else None

    def _found(self, mac: str) -> None:
        with self._lock:
            self._lost -= {mac}

    def _is_under_way(self, mac: str) -> bool:
        return self._jobs is not None and self._jobs.is_under_way(_key(mac))

    def _do(self, waiter: str, network: Network, mac: str, change: Change, networks: Networks, doing: str) -> None:
        jobs, connect, key = self._jobs, self._connect, _key(mac)
        if jobs is None or connect is None or not network.active or network.forward not in SLOW_TO_CHANGE:
            change(networks)
            return
        with self._lock:
            tried, failed = self._failed.pop(key, ("", ""))
        if tried == doing:
            raise NotReady(failed)

        def work() -> None:
            try:
                asked = connect()
                try:
                    change(asked)
                finally:
                    asked.close()
            except HypervisorError as error:
                with self._lock:
                    self._failed[key] = doing, str(error)

        # Of what is under way for this MAC only the end is waited for.
        jobs.begin(key, work, waiter=waiter, group=("network", network.name))
        raise NotReady(doing, code=UNDER_WAY)


def _words(addresses: Wanted) -> str:
    return f"{' and '.join(map(str, addresses.values()))} {'is' if len(addresses) == 1 else 'are'}"


def _key(mac: str) -> tuple[str, str]:
    return ("reservation", mac)
