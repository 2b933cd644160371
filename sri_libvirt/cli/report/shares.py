"""Who has what of the host, for people, of the same plain data that scripts get (`views/shares.py`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sri_libvirt.resources import CPU, DISK, MACHINES, MEMORY, words

HEADINGS = ("ID", "NAME", "FOR", "CPU", "MEMORY", "DISK", "DEVICES")
COLUMNS = (CPU, MEMORY, DISK)


def rows(found: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """The cells below HEADINGS."""
    return [
        (
            each["id"] or "-",
            each["name"] or "-",
            each["for"],
            *(amount(resource, each["claims"]) for resource in COLUMNS),
            ", ".join(_others(each["claims"])) or "-",
        )
        for each in found
    ]


def amount(resource: str, claims: Mapping[str, int]) -> str:
    """A cell."""
    return words(resource, claims[resource]) if resource in claims else "-"


def _others(claims: Mapping[str, int]) -> list[str]:
    return [f"{name} {words(name, amount)}" for name, amount in claims.items() if name not in (*COLUMNS, MACHINES)]
