"""Secrets are there while a disk is opened, and at no other time; what is left of them goes, what is in use stays."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from sri_libvirt.devices import DiskKind, DiskSource, Protocol, SecretPurpose, SecretReference
from sri_libvirt.errors import HypervisorError, InvalidSpec, NotReady, Unreachable
from sri_libvirt.hypervisor.base import Connection, Secret, SecretUsage
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.reconcile import secrets
from sri_libvirt.reconcile.secrets import Leftovers, Lending, Loans
from sri_libvirt.records import Attachment
from tests.unit.reconcile.world import nic_row, volume_row

INSTANCE, OTHERS = "11111111-2222-4333-8444-555555555555", "99999999-2222-4333-8444-555555555555"
KEY, PASSPHRASE = b"planted-key", b"planted-passphrase"


class Spy:
    """A connection that notes its calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self._connection, name)


def row_of(protocol: Protocol, *purposes: SecretPurpose, name: str = "data") -> Attachment:
    kind: DiskKind = "network" if protocol else "file"
    references = tuple(SecretReference(purpose, f"{name}-{purpose}") for purpose in purposes)
    return volume_row(name, backing=DiskSource("h", "", "raw", 512, kind=kind, protocol=protocol, secrets=references))


CEPH = row_of("rbd", "auth", "encryption")


@dataclass
class Bench:
    """A libvirt, and who lends to it."""

    hypervisor: FakeHypervisor = field(default_factory=FakeHypervisor)
    loans: Loans = field(default_factory=Loans)
    values: Mapping[SecretPurpose, bytes] = field(default_factory=lambda: {"auth": KEY, "encryption": PASSPHRASE})
    error: Exception | None = None
    left: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.spy = Spy(self.hypervisor.connect())
        self.connection = cast(Connection, self.spy)

    def secrets_of(self, _row: Attachment) -> Mapping[SecretPurpose, bytes]:
        if self.error:
            raise self.error
        return self.values

    @property
    def lending(self) -> Lending:
        return Lending(INSTANCE, self.loans, self.secrets_of, lambda: self.left.append(1))

    @property
    def leftovers(self) -> Leftovers:
        return Leftovers(INSTANCE, self.loans)

    def lend(self, *rows: Attachment, call: Callable[[], object] = lambda: None) -> None:
        with self.lending.lend(self.connection, rows):
            call()

    def clean_up(self) -> None:
        self.leftovers.clean_up(self.hypervisor.connect)

    def leave(self, uuid: str, instance: str = INSTANCE) -> None:
        """A secret as a crash leaves it."""
        self.hypervisor.connect().set_secret(Secret(uuid, SecretUsage.CEPH, instance), KEY)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_they_are_there_within_and_gone_after(bench: Bench) -> None:
    with bench.lending.lend(bench.connection, [CEPH]):
        assert bench.hypervisor.values == {"data-auth": KEY, "data-encryption": PASSPHRASE}
        assert bench.hypervisor.connect().secret_ids() == {"data-auth": INSTANCE, "data-encryption": INSTANCE}
        assert bench.leftovers.find(bench.hypervisor.connect()) == []
    assert bench.hypervisor.secrets == {}
    assert bench.left == []


def test_rows_without_secrets_cost_no_call_and_no_driver_is_asked(bench: Bench) -> None:
    bench.error = NotReady("nobody should ask")
    bench.lend(row_of("nbd"), volume_row(), nic_row(), row_of(""))
    assert bench.spy.calls == []


@pytest.mark.parametrize(
    ("row", "usages"),
    [
        (row_of("rbd", "auth"), {"ceph"}),
        (row_of("iscsi", "auth"), {"iscsi"}),
        (row_of("rbd", "encryption"), {"volume"}),
        (row_of("nbd", "encryption"), {"volume"}),
        (row_of("", "encryption"), {"volume"}),
    ],
)
def test_libvirt_is_told_what_they_open(bench: Bench, row: Attachment, usages: set[str]) -> None:
    with bench.lending.lend(bench.connection, [row]):
        assert {each.usage for each in bench.hypervisor.secrets.values()} == usages


def test_they_are_gone_too_when_the_call_fails_and_its_error_stands(bench: Bench) -> None:
    def fail() -> None:
        raise HypervisorError("the call's own", 1)

    with pytest.raises(HypervisorError, match="the call's own"):
        bench.lend(CEPH, call=fail)
    assert bench.hypervisor.secrets == {}
    bench.hypervisor.fail_next("drop_secret", Unreachable("away"), Unreachable("away"))
    with pytest.raises(HypervisorError, match="the call's own"):
        bench.lend(CEPH, call=fail)
    assert len(bench.left) == 2


def test_a_drop_that_fails_is_told_of_and_left_to_the_clean_up(bench: Bench) -> None:
    bench.hypervisor.fail_next("drop_secret", HypervisorError("busy"))
    bench.lend(CEPH)
    assert (len(bench.hypervisor.secrets), len(bench.left)) == (1, 1)
    bench.clean_up()
    assert bench.hypervisor.secrets == {}


def test_of_two_the_first_is_dropped_when_the_second_cannot_be_set(bench: Bench) -> None:
    set_secret = bench.hypervisor.connect().set_secret

    def refusing(secret: Secret, value: bytes) -> None:
        set_secret(secret, value)
        if secret.uuid == "data-encryption":
            raise HypervisorError("it may be there or not")

    bench.spy.set_secret = refusing  # type: ignore[attr-defined]
    with pytest.raises(HypervisorError, match="may be there"):
        bench.lend(CEPH, call=lambda: pytest.fail("the disk is opened all the same"))
    assert bench.hypervisor.secrets == {}


@pytest.mark.parametrize("values", [{}, {"auth": KEY}, {"auth": KEY, "encryption": b""}])
def test_one_that_is_missing_is_told_before_anything_is_set(
    bench: Bench, values: Mapping[SecretPurpose, bytes]
) -> None:
    bench.values = values
    with pytest.raises(NotReady, match=r'volume "data" has no secret for (auth|encryption)') as refused:
        bench.lend(CEPH)
    assert refused.value.advice
    assert bench.spy.calls == []


def test_credentials_where_there_can_be_none_are_told_of(bench: Bench) -> None:
    with pytest.raises(NotReady, match="without credentials"):
        bench.lend(row_of("nbd", "auth"))
    assert bench.hypervisor.secrets == {}


@pytest.mark.parametrize("error", [NotReady("not yet"), InvalidSpec("connection", "no driver")])
def test_what_a_driver_says_in_our_words_is_passed_on(bench: Bench, error: Exception) -> None:
    bench.error = error
    with pytest.raises(type(error)):
        bench.lend(CEPH)


def test_what_a_driver_says_in_its_own_words_may_hold_the_value(bench: Bench) -> None:
    bench.error = ValueError(f"{KEY!r} is no base64")
    with pytest.raises(NotReady, match="ValueError") as refused:
        bench.lend(CEPH)
    assert "planted" not in "".join(traceback.format_exception(refused.value))


def test_no_error_and_no_form_of_a_loan_holds_a_value(bench: Bench) -> None:
    bench.hypervisor.fail_next("set_secret", HypervisorError("refused"))
    with pytest.raises(HypervisorError) as refused:
        bench.lend(CEPH)
    texts = ["".join(traceback.format_exception(refused.value)), repr(bench.lending), repr(bench.loans), repr(CEPH)]
    with bench.lending.lend(bench.connection, [CEPH]):
        texts += [repr(bench.loans), repr(bench.hypervisor.secrets)]
    assert [text for text in texts if "planted" in text] == []


def test_two_who_lend_the_same_do_not_take_it_from_each_other(bench: Bench) -> None:
    with bench.lending.lend(bench.connection, [CEPH]):
        bench.lend(CEPH)
        assert bench.hypervisor.values == {"data-auth": KEY, "data-encryption": PASSPHRASE}
    assert bench.hypervisor.secrets == {}


def test_the_clean_up_takes_what_is_ours_and_lent_by_nobody(bench: Bench) -> None:
    bench.leave("left")
    bench.leave("theirs", OTHERS)
    with bench.lending.lend(bench.connection, [CEPH]):
        assert bench.leftovers.find(bench.hypervisor.connect()) == ["left"]
        bench.clean_up()
        assert set(bench.hypervisor.secrets) == {"theirs", "data-auth", "data-encryption"}
        assert bench.leftovers.drop(bench.hypervisor.connect(), "data-auth") is False
        assert "data-auth" in bench.hypervisor.secrets
    bench.clean_up()
    assert set(bench.hypervisor.secrets) == {"theirs"}


def test_one_that_was_lent_during_the_look_is_not_left(bench: Bench) -> None:
    connection = bench.hypervisor.connect()
    secret_ids = connection.secret_ids

    def meanwhile() -> dict[str, str]:
        found: dict[str, str] = {}
        bench.lend(CEPH, call=lambda: found.update(secret_ids()))
        return found if first.pop() else secret_ids()

    first = [False, True]
    connection.secret_ids = meanwhile  # type: ignore[method-assign]
    assert bench.leftovers.find(connection) == []
    assert first == []


def test_unreachable_is_not_nothing_and_closes_the_connection(bench: Bench) -> None:
    bench.leave("left")
    closed: list[bool] = []

    def connect() -> Connection:
        connection = bench.hypervisor.connect()
        connection.close = lambda: closed.append(True)  # type: ignore[method-assign]
        return connection

    bench.hypervisor.fail_next("secret_ids", Unreachable("away"))
    with pytest.raises(Unreachable):
        bench.leftovers.clean_up(connect)
    assert closed == [True]
    assert "left" in bench.hypervisor.secrets


def test_who_lends_waits_for_a_clean_up_of_the_same_secret(bench: Bench) -> None:
    """Else the clean-up would drop what was set a moment ago."""
    bench.leave("data-auth")
    release = bench.hypervisor.hang("drop_secret")
    cleaning = threading.Thread(target=bench.clean_up)
    cleaning.start()
    while not bench.loans._dropping:
        assert cleaning.is_alive()
        time.sleep(0.001)
    found: list[bytes] = []

    def open_disk() -> None:
        found.append(bench.hypervisor.values["data-auth"])

    lending = threading.Thread(target=lambda: bench.lend(row_of("rbd", "auth"), call=open_disk))
    lending.start()
    lending.join(0.1)
    assert (found, bench.spy.calls) == ([], [])
    release()
    for thread in (cleaning, lending):
        thread.join(20)
        assert not thread.is_alive()
    assert found == [KEY]
    assert bench.hypervisor.secrets == {}


def test_but_not_for_ever(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "DROP_SECONDS", 0.01)
    with bench.loans.dropping("data-auth"), pytest.raises(HypervisorError, match="does not answer"):
        bench.lend(row_of("rbd", "auth"))
    bench.lend(row_of("rbd", "auth"))
    assert bench.hypervisor.secrets == {}
