"""KVM or TCG, and with which CPU: the host's verdict, kept in the store, and what follows from it for machines.

A host that once ran KVM never falls back to TCG by itself (contract G.6): machines would go on a hundred times slower
without anybody having asked for it. A machine keeps the domain type of its profile for life.
How KVM is probed does not belong here (that is `host/kvm.py`), nor how a profile looks (`domain/profile.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal

import structlog

from sri_libvirt.config import Settings
from sri_libvirt.devices import Boot
from sri_libvirt.domain import profile as profiles
from sri_libvirt.errors import HypervisorError, NotReady, StoreError, Unavailable, Unreachable
from sri_libvirt.host.kvm import KvmVerdict, appearance
from sri_libvirt.hypervisor import offers
from sri_libvirt.hypervisor.base import Connection, Offer
from sri_libvirt.records import META_KVM, SECOND, Machine, MachineClass, Profile, Reason
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

KVM_FALLBACK_MODEL = "qemu64"
"""A CPU model that the probe starts where host-passthrough does not."""

OFFER_HOLDS = 60 * SECOND
"""How long what libvirt offers is taken for true without asking again."""

ADVICE = (
    "Look at /dev/kvm (it must be there and QEMU's user must be able to open it, as udev's rule has it: group kvm, "
    "mode 0660), at the modules kvm_intel and kvm_amd, and at the BIOS's virtualisation setting. A device that comes, "
    "or gets another mode or owner, is tried within minutes; after any other change restart the provider. Or serve new "
    "machines by --domain-type qemu, which is many times slower."
)


class Virtualisation:
    """What this host runs guests with. Thread-safe; `probe` is called once, before the lanes start, and `look_again`
    now and then.

    `appearance` tells how the device looks, without trying it. `changed` is told of another verdict.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        probe: Callable[[], KvmVerdict],
        clock: Callable[[], int],
        *,
        appearance: Callable[[], object] = appearance,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._store = store
        self._probe = probe
        self._clock = clock
        self._appearance = appearance
        self._changed = changed
        self._seen: object = None
        self._verdict: KvmVerdict | None = None
        self._kvm_is_gone = False
        self._offer: Offer | None = None
        self._offered_at = 0
        self._lock = threading.Lock()

    def probe(self) -> None:
        """Find out whether KVM works, unless TCG is asked for and no machine needs to know. Takes up to a minute."""
        stored = self._store.meta(META_KVM)
        once = bool(stored and json.loads(stored)["works"])
        if self._settings.domain_type == "qemu" and not once:
            return
        self._seen = self._appearance()
        verdict = self._probe()
        self._verdict = verdict
        wanted = once or self._settings.domain_type == "kvm"
        self._kvm_is_gone = wanted and not verdict.works
        if verdict.works or not once:
            self._keep(json.dumps(asdict(verdict)))
        say = log.error if self._kvm_is_gone else log.info
        say("KVM", works=verdict.works, host_passthrough=verdict.host_passthrough, detail=verdict.detail)

    def _keep(self, verdict: str) -> None:
        """Remember it for the next start. A store that has no room for it keeps nobody from serving."""
        try:
            self._store.write(lambda tx: tx.set_meta(META_KVM, verdict))
        except StoreError as error:
            log.warning("whether KVM works is not stored", error=str(error))

    def look_again(self) -> None:
        """Probe anew if KVM did not work and its device looks different since.

        While a host boots the provider may be there before the kernel's module, and the device before its mode.
        """
        if self._verdict is None or self._verdict.works or self._appearance() == self._seen:
            return
        self.probe()
        if self._verdict.works:
            self._changed()

    @property
    def domain_type(self) -> Literal["kvm", "qemu"]:
        """What new machines are made of. A KVM that is gone stays the answer; `gate` then refuses them."""
        if self._settings.domain_type != "auto":
            return self._settings.domain_type
        works = self._verdict is not None and self._verdict.works
        return "kvm" if works or self._kvm_is_gone else "qemu"

    def gate(self) -> None:
        """Raise Unavailable when this host cannot run new machines at all."""
        if self._kvm_is_gone and self.domain_type == "kvm":
            detail = self._verdict.detail if self._verdict else ""
            raise Unavailable(f"this host cannot run guests: KVM does not work ({detail}). {ADVICE}")

    def choose_profile(self, connection: Connection, machine_class: MachineClass, boot: Boot = "disk") -> Profile:
        """The hardware of a new machine that boots so. Raises NotReady when the host lacks something for it."""
        offer = self._known() or self._ask(connection)
        if offer.architecture != "x86_64":
            raise NotReady(f"the host's architecture {offer.architecture} is not supported; x86_64 is")
        domain_type = self.domain_type
        mode, model = "maximum", ""
        if domain_type == "kvm":
            passthrough = self._verdict is None or self._verdict.host_passthrough
            mode, model = ("host-passthrough", "") if passthrough else ("custom", KVM_FALLBACK_MODEL)
        return profiles.choose(
            offer,
            machine_class,
            domain_type=domain_type,
            cpu=(mode, model),
            firmware=self._settings.firmware,
            ports=self._settings.pcie_ports,
            boot=boot,
        )

    def refresh(self, connection: Connection) -> None:
        """Ask what libvirt offers, unless that is known well enough: QEMU may be upgraded beside us.

        Raises Unreachable. What else goes wrong is logged; what was known stays then, for every other work goes on.
        """
        if self._known():
            return
        try:
            self._ask(connection)
        except Unreachable:
            raise
        except HypervisorError as error:
            log.warning("libvirt does not say what it offers", error=str(error))

    def survey(self, connect: Callable[[], Connection]) -> None:
        """The same on a connection of its own, and keep the offer for the report; on hosts without machines, too.

        Raises Unreachable, StoreError.
        """
        if not self._known():
            connection = connect()
            try:
                self.refresh(connection)
            finally:
                connection.close()
        with self._lock:
            text = offers.text(self._offer) if self._offer else None
        if text and text != self._store.meta(offers.META_KEY):
            self._store.write(lambda tx: tx.set_meta(offers.META_KEY, text), synced=False)

    def lacks_firmware(self, machine_class: MachineClass) -> str:
        """Why this host can have no machine of a class for want of its firmware, "" when it can or nobody has asked."""
        with self._lock:
            offer = self._offer
        return profiles.lacks_firmware(offer, machine_class, self._settings.firmware) if offer else ""

    def libvirt_version(self) -> int:
        """libvirt's number as it was told last (9.2.0 is 9_002_000), 0 before."""
        with self._lock:
            return self._offer.libvirt_version if self._offer else 0

    def qemu_user(self) -> int | None:
        """The number of the user as whom QEMU runs, None while that is not known."""
        with self._lock:
            return self._offer.qemu_user if self._offer else None

    def _known(self) -> Offer | None:
        """What libvirt offers, if it was asked not long ago."""
        with self._lock:
            return self._offer if self._clock() < self._offered_at + OFFER_HOLDS else None

    def _ask(self, connection: Connection) -> Offer:
        offer = connection.offer()
        with self._lock:
            self._offer, self._offered_at = offer, self._clock()
        return offer

    def start_blocked(self, machine: Machine) -> Reason | None:
        """Why this host cannot start the machine as its profile has it, None when it can."""
        profile = machine.profile
        needs_kvm = profile.domain_type == "kvm" if profile else self.domain_type == "kvm"
        if needs_kvm and self._verdict is not None and not self._verdict.works:
            message = f"the machine runs by KVM, which does not work on this host: {self._verdict.detail}"
            return Reason("start-blocked", message, ADVICE)
        with self._lock:
            offer = self._offer
        return profiles.still_offered(profile, offer) if profile and offer else None
