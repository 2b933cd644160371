"""One look at a machine: whose domain it is, what is in it, and what is asked for only when needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sri_libvirt.devices import NicBackend, NicKind
from sri_libvirt.domain.observed import Place
from sri_libvirt.errors import UNDER_WAY, HypervisorError, NotReady, Unreachable
from sri_libvirt.hypervisor.base import Connection, DiskError, LastWords
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.reconcile.observe import Observer
from sri_libvirt.reconcile.view import FailedDisk, Heard, NotSeen, Observed
from sri_libvirt.records import Attachment, Machine, Run, StopCause
from tests.unit.reconcile.parts import HostStub, Said, domain_xml
from tests.unit.reconcile.world import ID, T0, machine, nic_row, volume_row

INSTANCE = "0d2f3c1f-0000-4000-8000-000000000001"
RUN = Run(uuid="run-1", started_at=T0)
WORDS = LastWords("shutdown", "bash")


class Bench:
    def __init__(self) -> None:
        self.hypervisor = FakeHypervisor()
        self.host = HostStub()
        self.refreshed = 0
        self.said = Said(self.hypervisor.connect(), WORDS)

    def refresh(self, connection: Connection) -> None:
        self.refreshed += 1

    def define(self, *aliases: str, instance: str = INSTANCE, machine_id: str = ID, run: str = "run-1") -> None:
        xml = domain_xml(machine_id, instance, run, list(aliases)).replace(f"<uuid>{machine_id}", f"<uuid>{ID}")
        self.hypervisor.connect().define(xml)

    def start(self) -> None:
        self.hypervisor.connect().start(ID)

    def look(self, record: Machine | None = None) -> Observed | NotSeen:
        def connect() -> Any:
            return self.said

        return Observer(INSTANCE, self.host, self.refresh).look(record or machine(), connect)

    def seen(self, record: Machine | None = None) -> Observed:
        found = self.look(record)
        assert isinstance(found, Observed)
        return found


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_no_domain(bench: Bench) -> None:
    assert bench.seen() == Observed(domain=None, boot_id="boot-1")
    assert bench.refreshed == 1


def test_who_looks_for_edits_hears_of_a_domain_that_is_gone_or_not_ours(bench: Bench) -> None:
    """So that nothing is remembered of it."""
    heard: list[str] = []

    def connect() -> Any:
        return bench.said

    def edits(_machine: Machine, persistent: str) -> tuple[str, ...]:
        heard.append(persistent)
        return ()

    observer = Observer(INSTANCE, bench.host, bench.refresh, edits=edits)
    observer.look(machine(), connect)
    bench.define(instance="somebody-else")
    observer.look(machine(), connect)
    assert heard == ["", ""]
    bench.hypervisor.connect().undefine(ID)
    bench.define()
    observer.look(machine(), connect)
    assert ID in heard[-1]


def test_what_is_plugged_now_and_at_the_next_start(bench: Bench) -> None:
    bench.define("ua-vol-a-1", "ua-vol-b-1")
    bench.start()
    bench.define("ua-vol-b-1", "ua-vol-c-1", run="run-2")
    found = bench.seen()
    assert found.active
    assert found.live == {"ua-vol-a-1", "ua-vol-b-1"}
    assert found.persistent == {"ua-vol-b-1", "ua-vol-c-1"}
    assert found.run == "run-1", "the run that runs"


def test_a_domain_that_is_off_has_its_persistent_run(bench: Bench) -> None:
    bench.define()
    found = bench.seen()
    assert (found.active, found.run, found.live, found.foreign) == (False, "run-1", frozenset(), False)


@pytest.mark.parametrize("marks", [{"instance": "another"}, {"machine_id": "another"}])
@pytest.mark.parametrize("started", [True, False])
def test_a_domain_with_other_marks_is_foreign(bench: Bench, marks: dict[str, str], started: bool) -> None:
    bench.define(**marks)
    if started:
        bench.start()
    assert bench.seen().foreign


def test_a_domain_without_marks_is_foreign(bench: Bench) -> None:
    bench.hypervisor.connect().define(f"<domain><uuid>{ID}</uuid></domain>")
    assert bench.seen().foreign


@pytest.mark.parametrize(
    ("run", "started", "asked"),
    [
        (RUN, False, 1),
        (RUN, True, 0),
        (Run(), False, 0),
        (replace(RUN, stopped=StopCause.GUEST), False, 0),
    ],
    ids=["stopped for an unknown cause", "runs", "never ran", "explained already"],
)
def test_last_words_are_read_only_to_explain_a_stop(bench: Bench, run: Run, started: bool, asked: int) -> None:
    bench.define()
    if started:
        bench.start()
    found = bench.seen(machine(run=run))
    assert bench.said.asked == asked
    assert found.last_words == (WORDS if asked else LastWords())


@pytest.mark.parametrize(("run", "asked"), [(RUN, 1), (replace(RUN, restored=True), 0)])
def test_last_words_are_read_once_to_explain_a_restore(bench: Bench, run: Run, asked: int) -> None:
    bench.define()
    bench.start()
    bench.hypervisor.save(ID)
    bench.start()
    bench.seen(machine(run=run))
    assert bench.said.asked == asked


@pytest.mark.parametrize("started", [True, False])
def test_whether_the_host_goes_down_matters_only_for_what_is_off(bench: Bench, started: bool) -> None:
    bench.define()
    if started:
        bench.start()
    bench.host.going_down = True
    assert bench.seen().host_stopping is not started
    assert bench.host.asked == (0 if started else 1)


@pytest.mark.parametrize("method", ["snapshot", "connect", "refresh"])
def test_libvirt_that_cannot_be_asked_is_not_a_domain_that_is_gone(
    bench: Bench, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.define()
    error = Unreachable("the socket is away")

    def connect() -> Any:
        if method == "connect":
            raise error
        return bench.said

    def refresh(connection: Connection) -> None:
        if method == "refresh":
            raise error

    bench.hypervisor.fail_next("snapshot", error)
    found = Observer(INSTANCE, bench.host, refresh).look(machine(), connect)
    assert found == NotSeen("the socket is away")


def test_where_devices_are_joined_to_the_host(bench: Bench) -> None:
    bench.define("ua-vol-a-1")
    nic = (
        "<interface type='network'><source network='lan' bridge='br0'/>"
        "<target dev='vnet{0}'/><alias name='ua-nic-{0}-1'/>"
    )
    bench.start()
    for number in (0, 1, 2):
        bench.hypervisor.connect().attach_device(ID, f"{nic.format(number)}</interface>")
    shown = {"vnet0": True, "vnet1": False, "vnet2": None}

    def joined(device: str, bridge: str) -> bool | None:
        assert bridge == "br0"
        return shown[device]

    observer = Observer(INSTANCE, bench.host, bench.refresh, joined=joined)
    found = observer.look(machine(), bench.hypervisor.connect)
    assert isinstance(found, Observed)
    assert found.astray == {"ua-nic-1-1"}
    assert found.places["ua-nic-1-1"] == Place("lan", tap="vnet1", bridge="br0")
    assert found.defined.keys() == {"ua-vol-a-1"}


@pytest.mark.parametrize(
    ("kind", "source", "astray"),
    [
        ("isolated", "", True),
        ("tap", "", False),
        ("direct", "<source dev='eth1' mode='bridge'/>", False),
        ("network", "<source network='lan' dev='eth1' mode='bridge'/>", False),
    ],
)
def test_only_a_link_without_peers_is_to_be_down(bench: Bench, kind: NicKind, source: str, astray: bool) -> None:
    row = nic_row("eth", backing=NicBackend("h", kind, device="tap0"))
    bench.define("ua-vol-a-1")
    bench.start()
    target = f"{source}<target dev='tap0'/><alias name='{row.alias}'/>"
    bench.hypervisor.connect().attach_device(ID, f"<interface>{target}</interface>")
    observer = Observer(INSTANCE, bench.host, bench.refresh, joined=lambda _device, _bridge: False)
    found = observer.look(machine(row), bench.hypervisor.connect)
    assert isinstance(found, Observed)
    assert found.astray == ({row.alias} if astray else set())


ROW = volume_row()
DISKS = f"<disk><target dev='vda'/><alias name='{ROW.alias}'/></disk><disk><target dev='vdz'/></disk>"


class Asked:
    """Who looks at backends: it answers, refuses, or has not ended yet."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.rows: list[str] = []

    def __call__(self, row: Attachment) -> object:
        self.rows.append(row.name)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def at_failed_disks(bench: Bench, asked: Asked, failed: dict[str, bool] | None = None) -> tuple[FailedDisk, ...]:
    observer = Observer(INSTANCE, bench.host, bench.refresh, ask=asked, failed=lambda _: failed or {})
    found = observer.look(machine(ROW), bench.hypervisor.connect)
    assert isinstance(found, Observed)
    return found.failed_disks


@pytest.mark.parametrize(
    ("answer", "heard"),
    [
        (None, None),
        ("found", Heard(True)),
        (NotReady("is being asked", code=UNDER_WAY), Heard(None, "is being asked")),
        (NotReady("no route", "See the net.", "backend-silent"), Heard(False, "no route", "See the net.")),
    ],
)
def test_a_pause_at_an_io_error_is_looked_into(bench: Bench, answer: object, heard: Heard | None) -> None:
    bench.hypervisor.connect().define(domain_xml(ID, INSTANCE, "run-1", [], DISKS))
    bench.start()
    asked = Asked(answer)
    bench.hypervisor.pause(ID)
    assert (at_failed_disks(bench, asked), asked.rows) == ((), []), "somebody has paused it"
    bench.hypervisor.fail_disk(ID, "vdz")
    bench.hypervisor.fail_disk(ID, "vda", DiskError.NO_SPACE)
    assert at_failed_disks(bench, asked) == (FailedDisk("vda", True, heard), FailedDisk("vdz"))
    assert asked.rows == ["data"]
    seen = {ROW.alias: False}
    assert at_failed_disks(bench, asked, seen) == (FailedDisk("vda", False, heard),), "what was seen now counts"
    assert at_failed_disks(bench, asked, {"ua-disk-theirs": True}) == (FailedDisk("ua-disk-theirs", True),)


def test_libvirt_that_names_no_disk_keeps_no_guest_from_being_resumed(bench: Bench) -> None:
    bench.hypervisor.connect().define(domain_xml(ID, INSTANCE, "run-1", [], DISKS))
    bench.start()
    bench.hypervisor.fail_disk(ID, "vda")
    bench.hypervisor.fail_next("disk_errors", HypervisorError("cannot acquire state change lock"))
    assert at_failed_disks(bench, Asked(None)) == ()
    bench.hypervisor.fail_next("disk_errors", Unreachable("gone"))
    assert bench.look(machine(ROW)) == NotSeen("gone")
