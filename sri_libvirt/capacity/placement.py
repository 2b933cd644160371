"""How many machines of a class fit, and why not more: one computation, by which admission decides too. Pure.

What the host gives is `budget.py`'s, what a machine takes `claims.py`'s. Keeping claims does not belong here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sri_libvirt.capacity import claims, deliverable
from sri_libvirt.capacity.budget import UNLIMITED, Budget
from sri_libvirt.capacity.deliverable import Lack
from sri_libvirt.errors import Exhausted
from sri_libvirt.records import MachineClass
from sri_libvirt.resources import ANYWHERE, MACHINES, Claim, Place, Usage, places, words

CLOSED = "cordon"
"""What limits a class on a host that takes no new machines."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One resource, of the host or of a node, against what is asked of it. `free` is never negative."""

    resource: str
    node: int
    budget: int
    claimed: int
    asked: int

    @property
    def free(self) -> int:
        return max(0, self.budget - self.claimed)

    @property
    def fits(self) -> int:
        """How often what is asked fits into what is free."""
        return self.free // self.asked

    @property
    def name(self) -> str:
        return self.resource if self.node == ANYWHERE else f"{self.resource} of NUMA node {self.node}"

    def arithmetic(self) -> str:
        """`memory: 1.14 GiB asked, 512 MiB free (20 GiB, of which 19.5 GiB are claimed)`."""
        asked, free, of = (words(self.resource, each) for each in (self.asked, self.free, self.budget))
        claimed = words(self.resource, self.claimed)
        return f"{self.name}: {asked} asked, {free} free (of {of}, {claimed} claimed)"


@dataclass(frozen=True, slots=True)
class Offer:
    """A class on this host: `quantity` = `used` + `free` (contract G.7). `limited_by` is what more machines lack."""

    machine_class: MachineClass
    used: int
    free: int
    limited_by: str
    limits: tuple[Limit, ...]

    @property
    def quantity(self) -> int:
        return self.used + self.free


def limits(budget: Budget, usage: Usage, asked: Iterable[Claim]) -> tuple[Limit, ...]:
    """Each place at which the claims ask for something, in their order. What asks for nothing is not in it."""
    sums: dict[Place, int] = {}
    for claim in asked:
        for place in places(claim):
            sums[place] = sums.get(place, 0) + claim.amount
    return tuple(
        Limit(resource, node, budget.of(resource, node), usage.of(resource, node), amount)
        for (resource, node), amount in sums.items()
        if amount > 0
    )


def fits(found: Iterable[Limit]) -> int:
    """How often all of it fits."""
    return min((limit.fits for limit in found), default=UNLIMITED)


def shortage(budget: Budget, usage: Usage, asked: Iterable[Claim]) -> str:
    """What of the claims does not fit, in words with the arithmetic; "" when all fits."""
    return "; ".join(limit.arithmetic() for limit in limits(budget, usage, asked) if not limit.fits)


def admit(budget: Budget, usage: Usage, machine_class: MachineClass, lack: Lack | None = None) -> tuple[Claim, ...]:
    """The claims of one more machine. Raises Exhausted, naming each resource that lacks, the free and the asked.

    `lack` is what this host does not have for any machine of the class.
    """
    if lack := deliverable.lack(machine_class) or lack:
        raise Exhausted(f"this host can have no machine of class {machine_class.name}: {lack.words}")
    asked = claims.of_class(machine_class)
    if lacking := shortage(budget, usage, asked):
        raise Exhausted(f"the host has no room for a machine of class {machine_class.name}: {lacking}")
    return asked


def offer(
    budget: Budget, usage: Usage, machine_class: MachineClass, closed: bool = False, lack: Lack | None = None
) -> Offer:
    """How many machines of a class there are and can be. A `closed` host takes no more; `lack` as of `admit`."""
    found = limits(budget, usage, claims.of_class(machine_class))
    used = usage.machines.get(machine_class.name, 0)
    if closed:
        return Offer(machine_class, used, 0, CLOSED, found)
    if lack := deliverable.lack(machine_class) or lack:
        return Offer(machine_class, used, 0, lack.name, found)
    tightest = min(found, key=lambda limit: limit.fits)
    return Offer(machine_class, used, tightest.fits, tightest.name, found)


def explain(
    budget: Budget, usage: Usage, machine_class: MachineClass, closed: bool = False, lack: Lack | None = None
) -> list[str]:
    """The arithmetic behind an offer, a line each: what the host gives, what a machine takes, how often that fits."""
    found = offer(budget, usage, machine_class, closed, lack)
    lines = [_budget_line(budget, limit) for limit in found.limits if limit.budget != UNLIMITED]
    lines += [
        f"{limit.name}: {words(limit.resource, limit.free)} free / {words(limit.resource, limit.asked)} a machine"
        f"{_parts(machine_class, limit.resource)} = {limit.fits}"
        for limit in found.limits
        if limit.budget != UNLIMITED
    ]
    if closed:
        lines.append("the host takes no new machines: free = 0")
    elif lack := deliverable.lack(machine_class) or lack:
        lines.append(f"this host can have none: free = 0: {lack.words}")
    whole = f"{found.used} exist + {found.free} more = {found.quantity}"
    lines.append(f"{machine_class.name}: {whole}, limited by {found.limited_by}")
    return lines


def _budget_line(budget: Budget, limit: Limit) -> str:
    line = next((each for each in budget.lines if each.resource == limit.resource), None)
    name, given, claimed = limit.name, words(limit.resource, limit.budget), words(limit.resource, limit.claimed)
    free = words(limit.resource, limit.free)
    if line is None or limit.node != ANYWHERE or line.resource == MACHINES:
        return f"{name}: {given} - {claimed} claimed = {free} free"
    total = words(line.resource, line.total)
    kept = f" - {words(line.resource, line.reserved)} reserved ({line.why})" if line.reserved else ""
    if line.ratio == 1:
        return f"{name}: {total}{kept} - {claimed} claimed = {free} free"
    sold = f"({total}{kept})" if kept else total
    return f"{name}: {sold} x {float(line.ratio):g} - {claimed} claimed = {free} free"


def _parts(machine_class: MachineClass, resource: str) -> str:
    if resource != "memory":
        return ""
    beside = claims.memory_of(machine_class) - machine_class.memory_bytes
    return f" ({words(resource, machine_class.memory_bytes)} + {words(resource, beside)} overhead)"
