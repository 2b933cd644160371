"""Who else uses this host: running domains that are no machines of ours, and the disk space that others hold.

Looked at when libvirt is reached, when such a domain starts or stops, and now and then, on a thread of its own, so that
no RPC and no lane waits for it. What is found is kept in the store: after a restart it counts until it is seen anew.
What it means for new machines does not belong here (capacity/).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from sri_libvirt.capacity import claims
from sri_libvirt.domain import xml
from sri_libvirt.errors import HypervisorError, SRIError, Unreachable
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.records import META_NEIGHBOURS
from sri_libvirt.resources import Claim, claims_of_text, claims_text
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

SETTLE_SECONDS = 0.2
"""Events come in bunches; one look is enough for all."""

_UNITS = {"b": 1, "bytes": 1, "kb": 10**3, "k": 1 << 10, "kib": 1 << 10, "mb": 10**6, "m": 1 << 20, "mib": 1 << 20,
          "gb": 10**9, "g": 1 << 30, "gib": 1 << 30, "tb": 10**12, "t": 1 << 40, "tib": 1 << 40}  # fmt: skip
"""Units of memory in libvirt's XML."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Looks at domains that are not ours. `found` is told of their claims; `seen` holds those of the last look."""

    store: Store
    connect: Callable[[], Connection]
    found: Callable[[Sequence[Claim]], None]
    seen: dict[str, Sequence[Claim]] = field(default_factory=dict)

    def remembered(self) -> list[Claim]:
        """What was found last, maybe by a provider before this one."""
        return claims_of_text(self.store.meta(META_NEIGHBOURS))

    def look(self) -> None:
        """Look now, tell, and remember. Raises Unreachable, HypervisorError."""
        connection = self.connect()
        try:
            claimed = self._look(connection)
        finally:
            connection.close()
        self.found(claimed)
        text = claims_text(claimed)
        if text != (self.store.meta(META_NEIGHBOURS) or claims_text(())):
            log.info("domains that are not ours take", claims=text)
            self.store.write(lambda tx: tx.set_meta(META_NEIGHBOURS, text))

    def _look(self, connection: Connection) -> list[Claim]:
        # Domains first: a machine is in the store before its domain is there, and leaves it after that is gone.
        there = connection.domain_ids()
        ours = set(self.store.machine_ids())
        seen: dict[str, Sequence[Claim]] = {}
        for each in sorted(set(there) - ours):
            try:
                domain = connection.snapshot(each)
                if domain is not None and domain.active:
                    seen[each] = claims.of_neighbour(*size(domain.live_xml))
            except Unreachable:
                raise
            except HypervisorError as error:
                seen[each] = self.seen.get(each, ())
                log.warning("a domain that is not ours is charged as it was seen last", domain=each, error=str(error))
        self.seen.clear()
        self.seen.update(seen)
        return [replace(claim, holder=domain) for domain, claimed in seen.items() for claim in claimed]


def size(text: str) -> tuple[int, int]:
    """vCPUs and bytes of memory of a running domain's XML. Raises HypervisorError when it does not say."""
    root = xml.parse(text, "domain XML from libvirt")
    memory, vcpu = root.find("memory"), root.find("vcpu")
    try:
        if memory is None:
            raise ValueError("there is no <memory>")
        unit = _UNITS[memory.get("unit", "KiB").lower()]
        vcpus = 1 if vcpu is None else int(vcpu.get("current") or vcpu.text or "1")
        return vcpus, int(memory.text or "") * unit
    except (ValueError, KeyError) as error:
        raise HypervisorError(f"its XML does not tell its size: {error}") from None


class Survey(threading.Thread):
    """Does all the looks when poked and once a period; what fails is tried again with the next."""

    def __init__(self, looks: Sequence[Callable[[], None]], period: float) -> None:
        super().__init__(name="survey", daemon=True)
        self._looks = looks
        self._period = period
        self._poked = threading.Event()
        self._ending = threading.Event()

    def run(self) -> None:
        while not self._ending.is_set():
            self._poked.wait(self._period)
            if self._ending.wait(SETTLE_SECONDS):
                return
            self._poked.clear()
            for look in self._looks:
                try:
                    look()
                except (SRIError, OSError) as error:
                    log.info("a look at this host fails; it is tried again", error=str(error))
                except Exception:
                    log.exception("a bug: the next look comes all the same")

    def poke(self) -> None:
        """Look soon; returns at once."""
        self._poked.set()

    def stop(self) -> None:
        """End the thread soon; one that is stuck in a call of libvirt is left behind."""
        self._ending.set()
        self._poked.set()
