"""What an operator says of where consoles are served, what is asked of the hypervisor for one, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sri_libvirt.console.tls import Certificate
from sri_libvirt.hypervisor.base import Console


class Consoles(Protocol):
    """What a hypervisor gives."""

    def __call__(self, machine_id: str, heard: Callable[[], None], *, take_over: bool = False) -> Console: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where sessions are served: the `address` to listen at, "" for none, and the URL that clients get, "" for this.

    `console_log` says where a machine's is. `take_over`: a second session of a machine ends the first. Without a
    `certificate` there is no encryption.
    """

    address: str
    console_log: Callable[[str], Path]
    base_url: str = ""
    take_over: bool = False
    certificate: Certificate | None = None


class Counts(Protocol):
    """What becomes of sessions, for metrics."""

    def console_opened(self) -> None: ...

    def console_closed(self, outcome: str, lost: int) -> None:
        """`outcome` is "ended" (the guest), "left" (the client) or "failed"; so many bytes were never shown."""

    def console_refused(self, status: int) -> None:
        """A request for one was answered with this HTTP status."""

    def console_bytes(self, direction: str, count: int) -> None:
        """So many were "typed" or "shown"."""
