"""The pool of this process: its classes, its budget, who else uses the host, and whether it takes new machines.

Everything is in memory and replaced as a whole, so that any thread may ask and Status costs microseconds. Sums of
claims come from the store with each question; where the rest comes from does not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from sri_libvirt.capacity import placement
from sri_libvirt.capacity.budget import Budget
from sri_libvirt.capacity.deliverable import Lack
from sri_libvirt.capacity.placement import Offer
from sri_libvirt.records import MachineClass
from sri_libvirt.resources import Claim, Usage


@dataclass(frozen=True, slots=True)
class _Host:
    """What is known of the host besides our own claims: one value, so that a question sees no half of a change."""

    budget: Budget
    neighbours: Usage
    pulls: Usage = field(default_factory=Usage)
    lacks: Mapping[str, Lack] = field(default_factory=dict)


class Pool:
    """See the module. `closed` says why no new machine is taken, "" when they are; it must return at once."""

    def __init__(self, classes: Mapping[str, MachineClass], budget: Budget, closed: Callable[[], str] = str) -> None:
        self.classes = classes
        self._closed = closed
        self._lock = threading.Lock()
        self._host = _Host(budget, Usage())
        self._pulls: dict[str, tuple[Claim, ...]] = {}
        self._answered: tuple[_Host, Usage, bool, tuple[Offer, ...]] | None = None

    def set_budget(self, budget: Budget) -> None:
        """The host gives something else from now on; machines that exist are not touched by it."""
        with self._lock:
            self._host = replace(self._host, budget=budget)

    def set_neighbours(self, claims: Iterable[Claim]) -> None:
        """What domains that are not ours take of the host."""
        with self._lock:
            self._host = replace(self._host, neighbours=Usage().plus(claims))

    def take(self, holder: str, claims: Iterable[Claim], usage: Usage) -> str:
        """Let what is no machine (a pull of an image) have these in place of what it had; "" when it has them, else
        what lacks, and it keeps what it had."""
        asked = tuple(claims)
        with self._lock:
            host = self._without(holder)
            if lacking := placement.shortage(host.budget, self._taken(host, usage), asked):
                return lacking
            self._pulls[holder] = asked
            self._host = replace(self._host, pulls=_sum(self._pulls.values()))
        return ""

    def give_back(self, holder: str) -> None:
        """It has nothing any more. Idempotent."""
        with self._lock:
            self._pulls.pop(holder, None)
            self._host = replace(self._host, pulls=_sum(self._pulls.values()))

    def free(self, resource: str, usage: Usage, holder: str = "") -> int:
        """How much of a resource nobody has, but for what that holder took."""
        host = self._without(holder)
        return max(0, host.budget.of(resource) - self._taken(host, usage).of(resource))

    def set_lacks(self, lacks: Mapping[str, Lack]) -> None:
        """What this host does not have for any machine of these classes, by their names."""
        with self._lock:
            if lacks != self._host.lacks:
                self._host = replace(self._host, lacks=lacks)

    def admit(self, machine_class: MachineClass, usage: Usage) -> tuple[Claim, ...]:
        """The claims of one more machine beside what is claimed. Raises Exhausted."""
        host = self._host
        return placement.admit(host.budget, self._taken(host, usage), machine_class, host.lacks.get(machine_class.name))

    def shortage(self, claims: Iterable[Claim], usage: Usage) -> str:
        """What of these claims does not fit beside what is claimed, with the arithmetic; "" when all does."""
        host = self._host
        return placement.shortage(host.budget, self._taken(host, usage), claims)

    def offers(self, usage: Usage) -> tuple[Offer, ...]:
        """Every class with what exists of it and what more would fit, in the order of the classes."""
        host, closed = self._host, bool(self._closed())
        answered = self._answered
        if answered is not None and (answered[0] is host and answered[1] is usage and answered[2] == closed):
            return answered[3]
        taken = self._taken(host, usage)
        found = tuple(
            placement.offer(host.budget, taken, each, closed, host.lacks.get(each.name))
            for each in self.classes.values()
        )
        self._answered = (host, usage, closed, found)
        return found

    def _without(self, holder: str) -> _Host:
        if holder not in self._pulls:
            return self._host
        return replace(self._host, pulls=_sum(took for each, took in list(self._pulls.items()) if each != holder))

    def _taken(self, host: _Host, usage: Usage) -> Usage:
        return usage.beside(host.neighbours).beside(host.pulls)


def _sum(claims: Iterable[Iterable[Claim]]) -> Usage:
    return Usage().plus(each for some in claims for each in some)
