"""Claims of devices: a machine has them from the attach if there is room then, else from when there is.

An attach is never refused for want of room (contract G.8): the device waits, PENDING, until its claims fit. What a
device claims is its driver's to say; where claims are kept does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import structlog

from sri_libvirt.capacity import claims
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.errors import SRIError
from sri_libvirt.records import Attachment, Machine
from sri_libvirt.resources import Claim, Usage

log = structlog.get_logger(__name__)


class Ledger(Protocol):
    """What is asked of a transaction of the store."""

    usage: Usage

    def holds(self, machine_id: str, holder: str) -> bool: ...

    def claim(self, machine_id: str, claims: Sequence[Claim]) -> None: ...

    def unclaim(self, machine_id: str, holder: str) -> None: ...

    def machine(self, machine_id: str) -> Machine | None: ...


class OldLedger(Ledger, Protocol):
    """The same of a store that an older version may have written."""

    def unclaimed(self) -> list[str]: ...


class DeviceClaims:
    """`claims_of` gives the claims of a device, each with its holder; without any for most."""

    def __init__(self, pool: Pool, claims_of: Callable[[Attachment], Sequence[Claim]]) -> None:
        self._pool = pool
        self._claims_of = claims_of

    def take(self, ledger: Ledger, row: Attachment) -> str:
        """Let a machine have what a device of it needs; "" when it has it, else what lacks, with the arithmetic."""
        asked = self._claims_of(row)
        if not asked:
            return ""
        missing = [claim for claim in asked if not ledger.holds(row.machine, claim.holder)]
        lacking = self._pool.shortage(missing, ledger.usage)
        if not lacking:
            ledger.claim(row.machine, missing)
        return lacking

    def give_back(self, ledger: Ledger, row: Attachment) -> None:
        """End the claims of a device that is gone and left nothing, but for those that another device asks for, too."""
        holders = {claim.holder for claim in self._claims_of(row)}
        if not holders:
            return
        machine = ledger.machine(row.machine)
        others = machine.attachments if machine else ()
        shared = {claim.holder for each in others if each.key != row.key for claim in self._claims_or_none(each)}
        for holder in holders - shared:
            ledger.unclaim(row.machine, holder)

    def adopt(self, ledger: OldLedger, kept: Callable[[str], Sequence[Claim]]) -> int:
        """Claim for machines of an older version what they have, whether it fits or not. Returns how many there were.

        `kept` gives the claims of what lies in a machine's directory though its device may be gone. Nothing that
        exists is refused or lost: what is oversold so shows as no free room until enough is gone.
        """
        old = ledger.unclaimed()
        for machine_id in old:
            try:
                machine = ledger.machine(machine_id)
            except SRIError as error:  # its record is damaged: it stays listed, and is looked at again at each start
                log.warning("a machine claims nothing", machine=machine_id, error=str(error))
                continue
            assert machine is not None
            ledger.claim(machine_id, (*claims.of_class(machine.machine_class), *kept(machine_id)))
            for row in machine.attachments:
                if row.backing is not None:
                    ledger.claim(machine_id, self._claims_or_none(row))
        return len(old)

    def _claims_or_none(self, row: Attachment) -> Sequence[Claim]:
        try:
            return self._claims_of(row)
        except SRIError as error:  # its driver is gone: the loop says so in the machine's own words
            log.warning("a device claims nothing", machine=row.machine, device=row.alias, error=str(error))
            return ()
