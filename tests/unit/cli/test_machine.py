"""`machine list|get|events|why`: what they say, in every form, and what they never say."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click
import pytest
import yaml

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import output
from sri_libvirt.cli.machine.why import sentences
from sri_libvirt.clock import SteadyClock
from sri_libvirt.devices import NicBackend
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import LABEL_NAME, LABEL_UID, SECOND, Event, Machine, Measure, Reason, Run
from sri_libvirt.store import Store
from sri_libvirt.views import machines, show
from tests.unit.cli.conftest import DB, NOW, SECRET, WEB, Cli, machine

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def provider_runs(state_dir: Path, store: Store) -> Iterator[None]:
    """Hold the lock as a provider does."""
    with (state_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_list(cli: Cli) -> None:
    lines = cli("machine", "list").out.splitlines()
    assert lines[0].split() == ["ID", "NAME", "CLASS", "POWER", "STATE", "AGE", "WHY"]
    assert lines[1].split()[:5] == [WEB, "default/web", "c1-m1", "ON", "RUNNING"]
    assert lines[2].split()[:5] == [DB, "default/db", "c1-m1", "ON", "PENDING"]
    assert lines[2].endswith("the image is not ready: no such file")


def test_list_as_data(cli: Cli) -> None:
    listed = json.loads(cli("machine", "list", "-o", "json").out)
    assert [each["id"] for each in listed] == [WEB, DB]
    assert listed[0]["created"] == "2023-11-14T22:13:20Z"
    assert listed == yaml.safe_load(cli("machine", "list", "-o", "yaml").out)


def test_one_damaged_record_hides_no_other(cli: Cli, store: Store) -> None:
    store.write(lambda tx: tx._update(WEB, run="{}"))
    lines = cli("machine", "list").out.splitlines()
    assert lines[1].split()[:5] == [DB, "default/db", "c1-m1", "ON", "PENDING"]
    assert lines[2].split()[:2] == [WEB, "?"]
    assert f"the record of machine {WEB} is damaged" in lines[2]
    listed = json.loads(cli("machine", "list", "-o", "json").out)
    assert [(each["id"], each["state"]) for each in listed] == [(DB, "PENDING"), (WEB, None)]
    assert listed[0].keys() == listed[1].keys()
    assert "is damaged" in listed[1]["reasons"][0]["message"]
    assert DB in cli("machine", "get", "default/db").out
    for word in (WEB, WEB[:8]):
        told = cli("machine", "why", word)
        assert f"the record of machine {WEB} is damaged" in told.err
        assert "put back a backup" in told.err


def test_get(cli: Cli) -> None:
    shown = yaml.safe_load(cli("machine", "get", WEB).out)
    assert shown == json.loads(cli("machine", "get", WEB, "-o", "json").out)
    assert (shown["uid"], shown["image"], shown["memory_bytes"]) == ("uid-web", "/images/tiny.raw", 1 << 30)
    assert shown["ignition_bytes"] == len(f"#cloud-config {SECRET}")
    _, volume, nic = shown["devices"]
    assert (volume["kind"], volume["target"], volume["driver"], volume["state"]) == ("volume", "vda", "ceph", "PENDING")
    assert (nic["handle"], nic["state"], nic["ips"]) == ("network://blue/1", "ATTACHED", ["10.0.0.1"])
    assert (nic["driver"], nic["joined_to"], nic["address"]) == ("network", "blue", None)
    table = cli("machine", "get", WEB, "-o", "table").out
    assert nic["mac"] in table
    assert any(line.split()[:3] == ["lan", "network", "blue"] for line in table.replace("│", " ").splitlines())


@pytest.mark.parametrize("word", [WEB, WEB[:12], "default/web", "web"])
def test_ways_to_name_a_machine(cli: Cli, word: str) -> None:
    assert json.loads(cli("machine", "get", word, "-o", "json").out)["id"] == WEB


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nobody", "there is no machine 'nobody'"),
        ("", "there is no machine ''"),
        ("1111", f"means 2 machines ({WEB}, {DB})"),
    ],
)
def test_names_of_no_machine(cli: Cli, word: str, message: str) -> None:
    result = cli("machine", "get", word)
    assert result.status == 1
    assert message in result.err


def test_a_name_means_the_machine_that_lives(cli: Cli, store: Store) -> None:
    heir = "22222222-aaaa-4000-8000-000000000003"
    store.write(lambda tx: tx.set_deleted(WEB, NOW))
    labels = {**machine(WEB, "web", NOW).labels, LABEL_UID: "uid-heir"}
    store.write(lambda tx: tx.insert(replace(machine(heir, "web", NOW), labels=labels)))
    assert json.loads(cli("machine", "get", "default/web", "-o", "json").out)["id"] == heir


def test_events(cli: Cli) -> None:
    lines = cli("machine", "events", "db").out.splitlines()
    assert lines[0].split() == ["TIME", "REASON", "TOOK", "MESSAGE"]
    assert lines[-1].split(maxsplit=4) == [
        "2023-11-14T22:13:20Z",
        "device-not-ready",
        "2.5",
        "s",
        "waits for the image",
    ]
    (event,) = json.loads(cli("machine", "events", DB, "-o", "json").out)
    assert (event["reason"], event["took_seconds"]) == ("device-not-ready", 2.5)
    assert event["took_of"] is None, "an older version has not said"


def test_more_events_than_an_answer_holds_are_all_told_once(
    cli: Cli, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        event = Event("state", chr(97 + number), "something", NOW + number)
        store.write(lambda tx, number=number, event=event: tx.add_event((WEB, DB)[number % 2], event))  # type: ignore[misc]
    for words in (("-A",), ("-A", "--since", "100000h"), (DB,)):
        whole = cli("machine", "events", *words).out
        with monkeypatch.context() as few:
            few.setattr(machines, "MOST_LINES", 3)
            assert cli("machine", "events", *words).out == whole
        assert [line for line in whole.splitlines() if " t " in line], "the last"


def test_events_of_a_machine_that_is_gone(cli: Cli, store: Store) -> None:
    store.write(lambda tx: tx.forget(DB))
    assert "waits for the image" in cli("machine", "events", DB).out
    assert cli("machine", "get", DB).status == 1


@pytest.mark.usefixtures("provider_runs")
def test_why_of_a_machine_as_it_should_be(cli: Cli) -> None:
    assert cli("machine", "why", "web").out == (
        f"Machine default/web ({WEB}) is RUNNING and should be on.\nIt is as it should be.\n"
    )


@pytest.mark.usefixtures("provider_runs")
def test_why_tells_every_reason_with_its_advice(cli: Cli) -> None:
    lines = cli("machine", "why", "db").out.splitlines()
    assert lines[0] == f"Machine default/db ({DB}) is PENDING and should be on."
    assert lines[1].startswith("1. The image is not ready: no such file (for ")
    assert lines[2] == "   Put it there."
    assert lines[3] == '2. Volume "data" has no port [bold]x[/bold].'
    assert lines[4].startswith("Latest entry of its timeline, ")
    assert lines[4].endswith(" ago: waits for the image")


@pytest.mark.usefixtures("provider_runs")
def test_a_note_is_told_and_nothing_is_missing_by_it(cli: Cli, store: Store) -> None:
    noted = NicBackend("network://blue/1", "network", "blue", note="it may be slow")
    store.write(lambda tx: tx.set_backing(WEB, ("nic", "lan", 1), noted))
    note = 'network interface "lan": it may be slow'
    assert cli("machine", "why", "web").out.splitlines()[1:] == [
        "It is as it should be.",
        f"Note: {note}.",
    ]
    shown = json.loads(cli("machine", "why", "web", "-o", "json").out)
    assert (shown["as_it_should_be"], shown["notes"][0]) == (True, note)
    assert note in cli("machine", "get", "web", "-o", "table").out


def test_why_says_that_the_provider_does_not_run(cli: Cli) -> None:
    assert "The provider does not run" in cli("machine", "why", "web").out
    shown = json.loads(cli("machine", "why", "web", "-o", "json").out)
    assert (shown["as_it_should_be"], shown["provider_running"]) == (True, False)


def test_why_says_that_there_is_no_room_to_write_things_down(cli: Cli, state_dir: Path) -> None:
    assert "is full" not in cli("machine", "why", "web").out
    os.truncate(StatePaths(state_dir).reserve, 1 << 20)
    told = cli("machine", "why", "web").out
    assert f"The file system of {state_dir} is full, so this may be out of date" in told
    assert "was last known to be RUNNING" in told
    assert "as it should be" not in told
    shown = json.loads(cli("machine", "why", "web", "-o", "json").out)
    assert (shown["state_directory_problem"], shown["as_it_should_be"]) == ("full", None)
    listed = cli("machine", "list")
    assert " RUNNING? " in listed.out
    assert f"the file system of {state_dir} is full" in listed.err


def test_a_state_directory_that_nothing_can_be_written_to_any_more_is_told(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kernel makes it that has met an error of the disk."""
    found = os.statvfs("/")
    read_only = os.statvfs_result((*found[:8], found.f_flag | os.ST_RDONLY, *found[9:]))
    monkeypatch.setattr(os, "statvfs", lambda _path: read_only)
    assert "is read-only, so this may be out of date: look why" in cli("machine", "why", "web").out
    assert " RUNNING? " in cli("machine", "list").out


@pytest.mark.usefixtures("provider_runs")
def test_why_as_data(cli: Cli) -> None:
    shown = json.loads(cli("machine", "why", "db", "-o", "json").out)
    assert (shown["as_it_should_be"], shown["provider_running"]) == (False, True)
    assert [reason["code"] for reason in shown["reasons"]] == ["device-not-ready", "no-port"]


@pytest.mark.parametrize("command", ["get", "events", "why", "list"])
@pytest.mark.parametrize("form", ["json", "yaml", None])
def test_no_secret_is_ever_shown(cli: Cli, command: str, form: str | None) -> None:
    argv = ["machine", command, *([] if command == "list" else [WEB]), *(["-o", form] if form else [])]
    result = cli(*argv)
    assert result.status == 0
    assert SECRET not in result.out + result.err
    assert "userKey" not in result.out


def test_every_field_of_the_messages_was_decided_on() -> None:
    """A field that a later proto adds must be put into show.py, or left out, on purpose."""
    fields = {message: set(getattr(pb, message).DESCRIPTOR.fields_by_name) for message in ("MachineSpec", "Volume")}
    assert fields["MachineSpec"] == {"power", "image", "class", "ignition_data", "volumes", "network_interfaces"}
    assert fields["Volume"] == {"name", "device", "empty_disk", "connection"}


def told(machine: Machine, latest: Event | None = None, now: int = NOW) -> list[str]:
    """What `why` says of a machine whose provider runs."""
    found = show.explained(machine, latest, SteadyClock.by(lambda: now))
    return list(sentences({**found, "provider_running": True, "state_directory_problem": None}, now))


def test_why_of_a_change_that_no_pass_has_seen() -> None:
    new = machine(WEB, "web", NOW)
    assert told(new)[1:] == ["No pass has looked at it yet with libvirt at hand."]
    changed = replace(new, generation=3, observed_generation=2)
    assert "generation 3) has not been looked at yet" in told(changed)[-1]
    assert not any("as it should be" in line for line in told(changed))


def test_why_of_a_machine_being_deleted() -> None:
    going = replace(machine(WEB, "web", NOW), deleted_at=NOW, observed_generation=1)
    lines = told(going, Event("request", "delete", "asked", NOW), NOW + 90 * SECOND)
    assert lines[0].endswith("should be gone.")
    assert lines[1].startswith("It is being deleted since 90s")


def test_nothing_of_a_table_is_cut_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("A", "B", "C"), [("x" * 150, "[red]y[/red]\n", "z" * 900), ("1", "漢字", "3")], shorten="C")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].split() == ["x" * 150, "[red]y[/red]\ufffd", "z" * 900]
    assert lines[2] == "1" + " " * 151 + "漢字" + " " * 11 + "3", "in columns of a terminal, not in letters"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("columns", "shown"), [(40, "why, in man…"), (60, "why, in many words"), (10, "why, in man…")])
def test_a_line_of_a_table_fits_its_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, shown: str) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("sys.stdout", screen := Terminal())
    rows = [("2" * 20, "RUNNING", "why, in many words"), ("3" * 20, "?", "")]
    output.table(("ID", "STATE", "WHY"), rows, shorten="WHY", colours={"STATE": {"RUNNING": "green"}})
    lines = screen.getvalue().splitlines()
    assert [click.unstyle(line).rstrip() for line in lines[1:]] == [f"{'2' * 20}  RUNNING  {shown}", f"{'3' * 20}  ?"]
    assert "\x1b[32mRUNNING" in lines[1]
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", plain := Terminal())
    output.table(("ID", "STATE", "WHY"), rows, shorten="WHY", colours={"STATE": {"RUNNING": "green"}})
    assert "\x1b" not in plain.getvalue()


def test_one_long_reason_takes_nothing_from_other_rows(cli: Cli, store: Store) -> None:
    long = "qemu-system-x86_64: " + "it went wrong, and here is how; " * 100
    store.write(
        lambda tx: tx.record_pass(
            DB, status=pb.MachineStatus(), run=Run(), reasons=(Reason("start-failed", long),), observed_generation=1
        )
    )
    lines = cli("machine", "list").out.splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [
        [WEB, "default/web", "c1-m1", "ON", "RUNNING"],
        [DB, "default/db", "c1-m1", "ON", "PENDING"],
    ]
    assert lines[2].endswith(long.strip())


@pytest.mark.parametrize(
    ("flags", "ids"),
    [
        ([], [WEB, DB]),
        (["--state", "running"], [WEB]),
        (["--state", "TERMINATED"], []),
        (["--class", "c1-m1"], [WEB, DB]),
        (["--class", "c1"], []),
        (["--namespace", "default"], [WEB, DB]),
        (["--namespace", "other"], []),
        (["--sort", "name"], [DB, WEB]),
        (["--sort", "age"], [DB, WEB]),
        (["--sort", "state"], [DB, WEB]),
    ],
)
def test_which_machines_are_listed_and_in_which_order(cli: Cli, flags: list[str], ids: list[str]) -> None:
    assert cli("machine", "list", *flags, "-o", "name").out.split() == ids
    assert [line.split()[0] for line in cli("machine", "list", *flags, "--no-headers").out.splitlines()] == ids
    assert [each["id"] for each in json.loads(cli("machine", "list", *flags, "-o", "json").out)] == ids


def test_a_wide_list_has_devices(cli: Cli) -> None:
    headings, web = (line.split() for line in cli("machine", "list", "-o", "wide").out.splitlines()[:2])
    assert headings == ["ID", "NAME", "CLASS", "POWER", "STATE", "AGE", "IMAGE", "VOLUMES", "NICS", "WHY"]
    assert web[6:] == ["/images/tiny.raw", "0/1", "1/1"]


def test_reasons_have_one_form_wherever_they_are_shown(cli: Cli) -> None:
    listed = json.loads(cli("machine", "list", "-o", "json").out)[1]["reasons"]
    assert [each["code"] for each in listed] == ["device-not-ready", "no-port"]
    for command in ("get", "why"):
        assert json.loads(cli("machine", command, DB, "-o", "json").out)["reasons"] == listed


def test_a_name_that_looks_like_an_id_hides_no_machine(cli: Cli, store: Store) -> None:
    named = replace(machine("33333333-aaaa-4000-8000-000000000003", "x", NOW), labels={LABEL_NAME: WEB[:11]})
    store.write(lambda tx: tx.insert(named))
    told = cli("machine", "get", WEB[:11])
    assert told.status == 1
    assert "means 2 machines" in told.err
    assert json.loads(cli("machine", "get", WEB[:13], "-o", "json").out)["id"] == WEB


def test_list_says_that_it_is_of_the_past(cli: Cli, state_dir: Path) -> None:
    assert "the provider does not run: this is as it left it" in cli("machine", "list").err
    with (state_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli("machine", "list").err == ""


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d"), (-5, "0s")]
)
def test_ages(seconds: int, text: str) -> None:
    assert show.ago(NOW, NOW + seconds * SECOND) == text


def test_times_and_spans() -> None:
    assert show.timestamp(0) is None
    assert show.timestamp(NOW + 1_500_000) == "2023-11-14T22:13:20.001500Z"
    assert [show.took(each) for each in (0, 430_000_000, 2_500_000_000)] == ["", "430 ms", "2.5 s"]
    assert show.took(0, "stop") == ""
    assert show.took(8_400_000_000, "stop") == "8.4 s after stop"
    assert all(show.took(SECOND, measure).replace("1.0 s", "") for measure in get_args(Measure)[2:])
    assert show.enum_name(pb.Power, 7, "POWER_") == "7"
