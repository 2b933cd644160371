"""How large the reply to ListMachines may become: new machines stop first, then new devices, annotations last.

A client takes 4 MiB; one byte more, and it receives nothing of any machine any more, its whole pool stands still
(contract 0, "Size"). What is counted is what the listed machines can become with the specs that they have
(`Frame.most`), so no write of the loop and no power, detach or delete can pass a bound, and none of them is refused.
What one machine may take does not belong here (that is `validate.size`).
"""

from __future__ import annotations

from sri_libvirt.errors import Exhausted, FailedPrecondition
from sri_libvirt.store import Transaction

MIB = 1 << 20

CREATE = 3 * MIB
"""No machine is created that could make the reply larger (contract G.3)."""

ATTACH = 3 * MIB + MIB // 2
"""No device is attached that could: so high that machines which exist can grow when no new one fits."""

ANNOTATE = 4 * MIB
"""No annotations are written that could: what every client receives."""


def check_create(tx: Transaction) -> None:
    """Raise Exhausted when the machine that this work has made is one too many."""
    if (size := tx.listing_most()) > CREATE:
        raise Exhausted(_words(size, CREATE) + ": delete machines, or use shorter labels, annotations and volume data")


def check_growth(tx: Transaction, before: int, most: int) -> None:
    """Raise FailedPrecondition when this work makes the reply larger than it was `before` and than `most`.

    Not RESOURCE_EXHAUSTED, which comes from CreateMachine only (contract G.8): that says that this host has no room,
    this that the call cannot succeed until something else was taken away. What does not grow is never refused.
    """
    if (size := tx.listing_most()) > max(before, most):
        raise FailedPrecondition(
            _words(size, most) + ": use shorter attributes, secrets and annotations, or delete other machines"
        )


def _words(size: int, most: int) -> str:
    return (
        f"the list of all machines could take {size} bytes, more than {most}; clients receive no more than {ANNOTATE}"
    )
