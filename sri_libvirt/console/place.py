"""What an operator says of where consoles are served, and what is asked of the hypervisor for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from sri_libvirt.hypervisor.base import Console


class Consoles(Protocol):
    """What a hypervisor gives."""

    def __call__(self, machine_id: str, heard: Callable[[], None], *, take_over: bool = False) -> Console: ...


@dataclass(frozen=True, slots=True)
class Place:
    """Where sessions are served: the `address` to listen at, "" for none, and the URL that clients get, "" for this.

    `take_over`: a second session of a machine ends the first.
    """

    address: str
    base_url: str = ""
    take_over: bool = False
