"""Whether somebody else has changed a machine's persistent domain: found once for each text of it.

What a define undoes is `domain/compare.py`'s to say, and of disks that were moved `drift.py` tells; that it is a reason
does not belong here (that is `plan.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sri_libvirt.domain import ports
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.errors import HypervisorError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine

_Of = tuple[int, int]


@dataclass
class Edits:
    """Safe from any thread: a machine is with one lane at a time."""

    compiler: DomainCompiler
    paths: StatePaths
    _known: dict[str, tuple[_Of, tuple[str, ...]]] = field(default_factory=dict)

    def found(self, machine: Machine, persistent: str) -> tuple[str, ...]:
        """What the next define puts back, in words; nothing of a machine without hardware or without a domain (""), nor
        of one that is being deleted, of which nothing is remembered.
        """
        if machine.profile is None or machine.deleted_at or not persistent:
            self._known.pop(machine.id, None)
            return ()
        of = (hash(persistent), machine.generation)
        known = self._known.get(machine.id)
        if known is None or known[0] != of:
            rows = ports.in_domain(machine.attachments)
            paths = self.paths.machine(machine.id)
            try:
                known = (of, tuple(self.compiler.edited(machine, rows, paths, persistent)))
            except HypervisorError:  # an operator's template cannot be used: the next define says so
                return ()
            self._known[machine.id] = known
        return known[1]
