"""Who has what of the host: machines and what they have it for, and domains that are not ours.

How much there is, and what that is good for, does not belong here (`capacity/`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sri_libvirt import names
from sri_libvirt.reconcile.reasons import device_words
from sri_libvirt.records import META_NEIGHBOURS, Attachment, Machine, class_name
from sri_libvirt.resources import DISK, Claim, claims_of_text
from sri_libvirt.store import Reader
from sri_libvirt.views import show


@dataclass(frozen=True, slots=True)
class Share:
    """What `id`, a machine or a domain that is not ours, has for one thing: `purpose` in words, `device` its alias.

    `machine` is None of such a domain. Amounts are by resource.
    """

    id: str
    purpose: str
    amounts: Mapping[str, int]
    machine: Machine | None = None
    device: str = ""


def gather(reader: Reader) -> list[Share]:
    """All of them as of now: machines in the order of their creation, then others."""
    machines, damaged = reader.readable()
    known = {each.id: each for each in machines}
    found = []
    for machine_id, claims in reader.all_claims().items():
        found += _of_machine(machine_id, known.get(machine_id), claims)
    place = {machine_id: number for number, machine_id in enumerate((*known, *damaged))}
    found.sort(key=lambda share: place.get(share.id, len(place)))
    return found + _of_others(claims_of_text(reader.meta(META_NEIGHBOURS)))


def of(reader: Reader, machine: Machine) -> list[Share]:
    """One machine's."""
    return _of_machine(machine.id, machine, reader.claims(machine.id))


def data(shares: Iterable[Share]) -> list[dict[str, Any]]:
    """As plain data: a machine's `name` and `class` are null of a domain that is not ours."""
    return [
        {
            "id": share.id or None,
            "ours": share.machine is not None or share.purpose.startswith(_UNREADABLE),
            "name": show.name(share.machine) if share.machine else None,
            "class": class_name(share.machine.spec) if share.machine else None,
            "for": share.purpose,
            "device": share.device or None,
            "claims": dict(share.amounts),
        }
        for share in shares
    ]


_UNREADABLE = "a machine whose record cannot be read"


def _of_machine(machine_id: str, machine: Machine | None, claims: Sequence[Claim]) -> list[Share]:
    shares = []
    for holder, amounts in _by_holder(claims).items():
        purpose, device = _purpose(machine, holder, amounts)
        shares.append(Share(machine_id, purpose, amounts, machine, device))
    return sorted(shares, key=lambda share: (not share.purpose.startswith("class "), not share.device, share.purpose))


def _purpose(machine: Machine | None, holder: str, amounts: Mapping[str, int]) -> tuple[str, str]:
    """For what a machine has it, in words, and the alias of the device if that is one."""
    if machine is None:
        return _UNREADABLE, ""
    if not holder:
        return f"class {class_name(machine.spec)}", ""
    for row in machine.attachments:
        if holder in (row.alias, _kept_file(row, amounts)):
            return device_words(row) + ("" if row.wanted else " (detached)"), row.alias
    return f"a detached disk that keeps its data ({holder})", ""


def _kept_file(row: Attachment, amounts: Mapping[str, int]) -> str:
    """The file by which an empty disk's claim is called, whose data outlives its device."""
    return names.empty_disk_file(row.name, amounts.get(DISK, 0)) if row.kind == "volume" else ""


def _of_others(claims: Iterable[Claim]) -> list[Share]:
    return [Share(domain, "a domain that is not ours", amounts) for domain, amounts in _by_holder(claims).items()]


def _by_holder(claims: Iterable[Claim]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for claim in claims:
        amounts = found.setdefault(claim.holder, {})
        amounts[claim.resource] = amounts.get(claim.resource, 0) + claim.amount
    return found
