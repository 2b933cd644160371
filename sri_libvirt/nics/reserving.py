"""Addresses that the DHCP servers of libvirt's networks keep for our NICs: reserved before a NIC is plugged, given up
when it is gone.

What is reserved is never remembered: the network says so. Where libvirt takes long for a change, because it puts up the
network's firewall rules anew, it is a job, one at a time per network. Whether an address may be reserved does not
belong here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Address
from typing import Protocol

from sri_libvirt.errors import HypervisorError, NotReady
from sri_libvirt.hypervisor.networks import SLOW_TO_CHANGE, Network, Networks
from sri_libvirt.jobs import UNDER_WAY, Jobs
from sri_libvirt.records import SECOND

BACKSTOP = 60 * SECOND
"""Who waits for a job looks for itself after that: a wake may be lost."""


class Asking(Networks, Protocol):
    """A connection of a job's own."""

    def close(self) -> None: ...


Change = Callable[[Networks], None]


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

    def hold(self, waiter: str, network: Network, mac: str, address: IPv4Address, networks: Networks) -> None:
        """Have an address kept for a MAC, and no other one. Raises NotReady while that takes, HypervisorError."""
        others = [each.address for each in network.all_reservations if each.mac == mac and each.address != address]
        if network.has(mac, address) and not others:
            self._found(mac)
            return

        def change(asked: Networks) -> None:
            for other in others:
                asked.unreserve(network.name, mac, other)
            asked.reserve(network.name, mac, address)

        self._do(waiter, network, mac, change, networks, f"{address} is being reserved for it")
        self._found(mac)

    def give_up(self, waiter: str, network: Network, mac: str, address: IPv4Address, networks: Networks) -> None:
        """Have it kept no more, also while it is still being reserved. Raises as `hold`."""
        held = any((each.mac, each.address) == (mac, address) for each in network.all_reservations)
        if held or self._is_under_way(mac):
            doing = f"the reservation of {address} is being given up"
            self._do(waiter, network, mac, lambda asked: asked.unreserve(network.name, mac, address), networks, doing)

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


def _key(mac: str) -> tuple[str, str]:
    return ("reservation", mac)
