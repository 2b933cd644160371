"""KVM or TCG: what was asked for, what the host once could and what it can now, and what follows for machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import config
from sri_libvirt.errors import HypervisorError, NotReady, Unavailable, Unreachable
from sri_libvirt.host.kvm import KvmVerdict
from sri_libvirt.hypervisor import offers
from sri_libvirt.hypervisor.base import Connection, Offer
from sri_libvirt.hypervisor.fake import OFFER, FakeHypervisor
from sri_libvirt.reconcile.virtualisation import KVM_FALLBACK_MODEL, OFFER_HOLDS, Virtualisation
from sri_libvirt.records import GIB, META_KVM, MachineClass, Reason
from sri_libvirt.store import Store
from tests.unit.reconcile.parts import Clock
from tests.unit.reconcile.world import PROFILE, machine

WORKS = KvmVerdict(works=True, host_passthrough=True, detail="it runs")
PLAIN = KvmVerdict(works=True, host_passthrough=False, detail="only plain models")
BROKEN = KvmVerdict(works=False, host_passthrough=False, detail="/dev/kvm: No such file")
CLASS = MachineClass("c1-m1", 1000, GIB)
KVM_MACHINE = machine(profile=replace(PROFILE, domain_type="kvm"))
TCG_MACHINE = machine(profile=PROFILE)
NEW_MACHINE = machine()

Make = Callable[..., Virtualisation]


@pytest.fixture
def make(store: Store, clock: Clock, tmp_path: Path) -> Make:
    def make(
        setting: str = "auto", stored: KvmVerdict | None = None, probe: KvmVerdict | None = WORKS
    ) -> Virtualisation:
        """`stored` is the verdict of an earlier life; a probe of None must not be asked for."""
        wishes = config.load(
            {"domain_type": setting, "firmware": "bios"}, environ={}, default_file=tmp_path / "none.toml"
        )
        if stored is not None:
            store.write(lambda tx: tx.set_meta(META_KVM, json.dumps(asdict(stored))))

        def asked() -> KvmVerdict:
            assert probe is not None, "probed although nobody needs to know"
            return probe

        made = Virtualisation(wishes, store, asked, clock)
        made.probe()
        return made

    return make


def refuses(made: Virtualisation) -> bool:
    try:
        made.gate()
    except Unavailable:
        return True
    return False


def blocked(made: Virtualisation) -> list[bool]:
    """Whether a machine of KVM, one of TCG and one without a profile may not start."""
    return [made.start_blocked(each) is not None for each in (KVM_MACHINE, TCG_MACHINE, NEW_MACHINE)]


@pytest.mark.parametrize(
    ("setting", "stored", "probe", "domain_type", "refused", "may_not_start"),
    [
        ("auto", None, WORKS, "kvm", False, [False, False, False]),
        ("auto", None, BROKEN, "qemu", False, [True, False, False]),
        ("auto", BROKEN, WORKS, "kvm", False, [False, False, False]),
        ("auto", BROKEN, BROKEN, "qemu", False, [True, False, False]),
        ("auto", WORKS, WORKS, "kvm", False, [False, False, False]),
        ("auto", WORKS, BROKEN, "kvm", True, [True, False, True]),
        ("kvm", None, WORKS, "kvm", False, [False, False, False]),
        ("kvm", None, BROKEN, "kvm", True, [True, False, True]),
        ("kvm", WORKS, BROKEN, "kvm", True, [True, False, True]),
        ("qemu", None, None, "qemu", False, [False, False, False]),
        ("qemu", BROKEN, None, "qemu", False, [False, False, False]),
        ("qemu", WORKS, WORKS, "qemu", False, [False, False, False]),
        ("qemu", WORKS, BROKEN, "qemu", False, [True, False, False]),
    ],
)
def test_what_follows(
    make: Make,
    setting: str,
    stored: KvmVerdict | None,
    probe: KvmVerdict | None,
    domain_type: str,
    refused: bool,
    may_not_start: list[bool],
) -> None:
    made = make(setting, stored, probe)
    assert (made.domain_type, refuses(made), blocked(made)) == (domain_type, refused, may_not_start)


@pytest.mark.parametrize(
    ("stored", "probe", "kept"),
    [
        (None, WORKS, WORKS),
        (None, BROKEN, BROKEN),
        (BROKEN, WORKS, WORKS),
        (WORKS, PLAIN, PLAIN),
        (WORKS, BROKEN, WORKS),
    ],
)
def test_a_host_that_once_could_is_remembered(
    make: Make, store: Store, stored: KvmVerdict | None, probe: KvmVerdict, kept: KvmVerdict
) -> None:
    make("auto", stored, probe)
    assert json.loads(store.meta(META_KVM) or "{}") == asdict(kept)


def test_before_the_probe_nothing_is_refused(store: Store, clock: Clock) -> None:
    wishes = config.load({}, environ={}, default_file=Path("/nonexistent"))
    made = Virtualisation(wishes, store, lambda: BROKEN, clock)
    assert not refuses(made)
    assert blocked(made) == [False, False, False]


@pytest.mark.parametrize(
    ("setting", "probe", "cpu"),
    [
        ("auto", WORKS, ("kvm", "host-passthrough", "")),
        ("auto", PLAIN, ("kvm", "custom", KVM_FALLBACK_MODEL)),
        ("auto", BROKEN, ("qemu", "maximum", "")),
        ("qemu", None, ("qemu", "maximum", "")),
    ],
)
def test_a_new_machine_gets_what_the_host_can(
    make: Make, setting: str, probe: KvmVerdict | None, cpu: tuple[str, str, str]
) -> None:
    profile = make(setting, None, probe).choose_profile(offering(OFFER), CLASS)
    assert (profile.domain_type, profile.cpu_mode, profile.cpu_model) == cpu
    assert (profile.firmware, profile.ports) == ("bios", 24)


def test_another_architecture_is_not_supported(make: Make) -> None:
    with pytest.raises(NotReady, match="aarch64"):
        make().choose_profile(offering(replace(OFFER, architecture="aarch64")), CLASS)


class Device:
    """/dev/kvm, as it comes late in a boot: none, then closed to QEMU's user, then as it shall be."""

    def __init__(self) -> None:
        self.mode = 0
        self.probes = 0
        self.woken = 0

    def appearance(self) -> int | None:
        return self.mode or None

    def probe(self) -> KvmVerdict:
        self.probes += 1
        return WORKS if self.mode == 0o660 else BROKEN

    def wake(self) -> None:
        self.woken += 1


def test_kvm_that_comes_late_in_a_boot_is_found(store: Store, clock: Clock, tmp_path: Path) -> None:
    store.write(lambda tx: tx.set_meta(META_KVM, json.dumps(asdict(WORKS))))
    device = Device()
    wishes = config.load({"firmware": "bios"}, environ={}, default_file=tmp_path / "none.toml")
    made = Virtualisation(wishes, store, device.probe, clock, appearance=device.appearance, changed=device.wake)
    made.look_again()
    assert device.probes == 0, "the first probe is at the start"
    made.probe()
    made.look_again()
    assert (device.probes, refuses(made), device.woken) == (1, True, 0), "nothing has changed"
    device.mode = 0o600
    made.look_again()
    made.look_again()
    assert (device.probes, refuses(made), device.woken) == (2, True, 0)
    device.mode = 0o660
    made.look_again()
    assert (device.probes, refuses(made), device.woken) == (3, False, 1)
    assert blocked(made) == [False, False, False]
    device.mode = 0o666
    made.look_again()
    assert device.probes == 3, "KVM that works is not probed again"


def test_a_host_that_shall_emulate_is_not_probed_again(store: Store, clock: Clock, tmp_path: Path) -> None:
    device = Device()
    wishes = config.load({"domain_type": "qemu"}, environ={}, default_file=tmp_path / "none.toml")
    made = Virtualisation(wishes, store, device.probe, clock, appearance=device.appearance)
    made.probe()
    device.mode = 0o660
    made.look_again()
    assert device.probes == 0


def test_a_refusal_says_what_is_wrong_and_what_to_do(make: Make) -> None:
    with pytest.raises(Unavailable, match=r"/dev/kvm: No such file\).*restart the provider"):
        make("kvm", None, BROKEN).gate()


def test_reason_start_blocked_says_what_is_wrong_and_what_to_do(make: Make) -> None:
    reason = make("auto", WORKS, BROKEN).start_blocked(KVM_MACHINE)
    assert reason is not None
    assert (reason.code, BROKEN.detail in reason.message, "/dev/kvm" in reason.advice) == ("start-blocked", True, True)


# --- what libvirt offers -------------------------------------------------------------------------


def code(made: Virtualisation) -> str:
    reason: Reason | None = made.start_blocked(TCG_MACHINE)
    return reason.code if reason else ""


OLD = replace(OFFER, machine_type="pc-q35-9.0", machine_types=frozenset({"pc-q35-9.0"}))


def test_a_machine_that_the_host_no_longer_offers_does_not_start(make: Make) -> None:
    made, hypervisor = make(), FakeHypervisor()
    hypervisor.offered = OLD
    assert code(made) == "", "nothing is known before libvirt was asked"
    assert made.libvirt_version() == 0
    made.refresh(hypervisor.connect())
    assert code(made) == "machine-type-gone"
    assert code(made) == "machine-type-gone"
    assert made.libvirt_version() == OLD.libvirt_version == 9_000_000


def test_what_is_offered_is_asked_again_after_a_while(make: Make, clock: Clock) -> None:
    made, hypervisor = make(), FakeHypervisor()
    hypervisor.offered = OLD
    made.refresh(hypervisor.connect())
    hypervisor.offered = OFFER
    clock.now += OFFER_HOLDS - 1
    made.refresh(hypervisor.connect())
    assert code(made) == "machine-type-gone"
    clock.now += 1
    made.refresh(hypervisor.connect())
    assert code(made) == ""


def test_an_offer_that_cannot_be_had_stops_nothing_else(make: Make, clock: Clock) -> None:
    made, hypervisor = make(), FakeHypervisor()
    hypervisor.offered = OLD
    made.refresh(hypervisor.connect())
    clock.now += OFFER_HOLDS
    hypervisor.fail_next("offer", HypervisorError("no capabilities"))
    made.refresh(hypervisor.connect())
    assert code(made) == "machine-type-gone", "what was known stays"


def test_an_offer_that_libvirt_is_too_far_for_is_no_answer(make: Make) -> None:
    made, hypervisor = make(), FakeHypervisor()
    hypervisor.fail_next("offer", Unreachable("gone"))
    with pytest.raises(Unreachable):
        made.refresh(hypervisor.connect())


def test_a_new_machine_is_made_of_what_was_offered_not_long_ago(make: Make, clock: Clock) -> None:
    made = make()
    assert made.choose_profile(offering(OLD), CLASS).machine_type == "pc-q35-9.0"
    assert code(made) == "machine-type-gone"
    assert made.choose_profile(offering(OFFER), CLASS).machine_type == "pc-q35-9.0"
    clock.now += OFFER_HOLDS
    assert made.choose_profile(offering(OFFER), CLASS).machine_type == OFFER.machine_type


def offering(offer: Offer) -> Connection:
    hypervisor = FakeHypervisor()
    hypervisor.offered = offer
    return hypervisor.connect()


def test_the_settings_are_read_only_for_what_is_new(make: Make, store: Store) -> None:
    stored: dict[str, Any] = json.loads(store.meta(META_KVM) or "{}")
    assert stored == {}
    make("qemu", None, None)
    assert store.meta(META_KVM) is None, "no verdict without a probe"


def test_what_is_offered_is_kept_for_the_report_also_without_machines(make: Make, store: Store, clock: Clock) -> None:
    made, hypervisor = make(), FakeHypervisor()
    made.survey(hypervisor.connect)
    assert offers.of_text(store.meta(offers.META_KEY)) == OFFER
    hypervisor.offered = OLD
    made.survey(hypervisor.connect)
    assert offers.of_text(store.meta(offers.META_KEY)) == OFFER, "not asked again so soon"
    clock.now += OFFER_HOLDS
    made.refresh(hypervisor.connect())
    made.survey(hypervisor.connect)
    assert offers.of_text(store.meta(offers.META_KEY)) == OLD


def test_an_offer_that_cannot_be_had_keeps_the_one_before(make: Make, store: Store, clock: Clock) -> None:
    made, hypervisor = make(), FakeHypervisor()
    hypervisor.fail_next("offer", HypervisorError("no capabilities"))
    made.survey(hypervisor.connect)
    assert store.meta(offers.META_KEY) is None
    made.survey(hypervisor.connect)
    clock.now += OFFER_HOLDS
    hypervisor.fail_next("offer", Unreachable("gone"))
    with pytest.raises(Unreachable):
        made.survey(hypervisor.connect)
    assert offers.of_text(store.meta(offers.META_KEY)) == OFFER
