"""What machines take of a host: the names of resources, claims on them, and the sums of claims.

A resource is a name with an amount: `cpu` in thousandths of a core, `memory` and `disk` in bytes, `machines` in pieces,
`hugepages-<kB>` in bytes of pages of one size, `vf/<PF name>` in virtual functions of one card, `pci/<address>` one of
one device. A driver that hands out something else names it likewise; what a host does not have, nobody can claim.
How much of each a host gives, and who may have it, does not belong here (capacity/).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CPU = "cpu"
MEMORY = "memory"
DISK = "disk"
MACHINES = "machines"

ANYWHERE = -1
"""The node of a claim that no NUMA node has to fulfil alone; and of a sum over the whole host."""


def hugepages(kilobytes: int) -> str:
    """Pages of one size, counted in bytes."""
    return f"hugepages-{kilobytes}"


def virtual_functions(physical: str) -> str:
    """Virtual functions of the card whose physical function is this interface, counted in pieces."""
    return f"vf/{physical}"


def pci_device(address: str) -> str:
    """One device, `0000:3b:00.0`."""
    return f"pci/{address}"


@dataclass(frozen=True, slots=True)
class Claim:
    """`amount` of `resource`, on one NUMA node or anywhere.

    `holder` says for what the machine has it: "" for its class; the alias of an attachment, with which it ends; or a
    name of a driver's own, whose claim stays until the machine is gone (an empty disk's data, contract G.4).
    """

    resource: str
    amount: int
    node: int = ANYWHERE
    holder: str = ""


Place = tuple[str, int]
"""A resource and a node, or a resource and ANYWHERE."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums of claims by place, the whole host (ANYWHERE) included, and the number of machines of each class."""

    claimed: Mapping[Place, int] = field(default_factory=dict)
    machines: Mapping[str, int] = field(default_factory=dict)

    def of(self, resource: str, node: int = ANYWHERE) -> int:
        """What is claimed of a resource, of one node or of the whole host."""
        return self.claimed.get((resource, node), 0)

    def plus(self, claims: Iterable[Claim], times: int = 1) -> Usage:
        """With these claims more, or with `times` = -1 less."""
        claimed = dict(self.claimed)
        for claim in claims:
            for place in places(claim):
                claimed[place] = claimed.get(place, 0) + times * claim.amount
        return Usage({place: amount for place, amount in claimed.items() if amount}, self.machines)

    def with_machine(self, machine_class: str, times: int = 1) -> Usage:
        """With one machine of a class more, or less."""
        machines = dict(self.machines)
        machines[machine_class] = machines.get(machine_class, 0) + times
        return Usage(self.claimed, {name: count for name, count in machines.items() if count})

    def beside(self, other: Usage) -> Usage:
        """Both together; the machines are this one's alone."""
        claimed = dict(self.claimed)
        for place, amount in other.claimed.items():
            claimed[place] = claimed.get(place, 0) + amount
        return Usage(claimed, self.machines)


def places(claim: Claim) -> tuple[Place, ...]:
    """Where a claim counts: on the whole host, and on its node if it has one."""
    everywhere = (claim.resource, ANYWHERE)
    return (everywhere,) if claim.node == ANYWHERE else (everywhere, (claim.resource, claim.node))


def claims_text(claims: Iterable[Claim]) -> str:
    """Claims of nobody's machine as the store keeps them: resources and amounts, and the domains that have them."""
    return json.dumps([(claim.resource, claim.amount, claim.holder) for claim in claims])


def claims_of_text(text: str | None) -> list[Claim]:
    """What `claims_text` wrote; none of a store that keeps none."""
    # An older version has not said who.
    return [Claim(resource, amount, holder="".join(who)) for resource, amount, *who in json.loads(text or "[]")]


def words(resource: str, amount: int) -> str:
    """An amount as people say it: `1.5 CPUs`, `8 GiB`, `3`."""
    if resource == CPU:
        return f"{amount / 1000:g} CPU{'' if amount == 1000 else 's'}"
    if resource in (MEMORY, DISK) or resource.startswith("hugepages-"):
        return byte_words(amount)
    return str(amount)


def byte_words(amount: int) -> str:
    """Bytes in the largest unit of which there is one, to two digits, rounded down: `1.5 GiB`, `-3 MiB`, `512 B`."""
    sign, rest = ("-", -amount) if amount < 0 else ("", amount)
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if rest >= 1 << power:
            return f"{sign}{(rest * 100 >> power) / 100:g} {unit}"
    return f"{sign}{rest} B"
