"""Whatever tenants, guests and hosts call things: no command prints it as it is, in no form.

Documents lose nothing by it. What the one list holds is tested with it (`test_printable.py`).
"""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from sri_libvirt import config, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import main
from sri_libvirt.cli.report import facts, prometheus
from sri_libvirt.cli.report.document import document
from sri_libvirt.cli.report.facts import Stored, Verdict
from sri_libvirt.cli.report.picture import picture
from sri_libvirt.devices import DiskSource, NicBackend
from sri_libvirt.host import inventory
from sri_libvirt.hypervisor.fake import OFFER
from sri_libvirt.records import (
    GIB,
    LABEL_NAME,
    LABEL_NAMESPACE,
    Attachment,
    Event,
    Machine,
    MachineClass,
    Profile,
    Reason,
    Run,
    set_class_name,
)
from sri_libvirt.resources import CPU, Claim, Usage
from sri_libvirt.store import Store
from sri_libvirt.views import live
from tests.unit.cli import reports
from tests.unit.cli.conftest import DB, NOW, WEB, Cli, machine

BAD = "".join(chr(first) for first, _ in printable.RANGES if not 0xD800 <= first <= 0xDFFF).replace("\0", "\x1b")
NAME = f"--->{BAD}\x9b2J\u202e-"
ONE_LINE = "--->\x7f\x9b2J\u202e\u2066\ufeff\U000e0041-"
"""What validate lets into a name that is part of the domain's title."""


def unfit(text: str) -> set[str]:
    return {hex(ord(each)) for each in printable.UNFIT.findall(text)} - {"0xa"}


def hostile(machine_id: str) -> Machine:
    """A machine with such a name wherever a tenant can put one."""
    volume = pb.Volume(name=ONE_LINE, empty_disk=pb.EmptyDisk(size_bytes=GIB))
    nic = pb.NetworkInterface(name=ONE_LINE, network_id=ONE_LINE)
    spec = pb.MachineSpec(volumes=[volume], network_interfaces=[nic])
    spec.image.image = f"/{NAME}"
    set_class_name(spec, ONE_LINE)
    rows = (
        Attachment(machine_id, "volume", ONE_LINE, 1, volume.SerializeToString(), True, NOW, "vda", "", "s", 1,
                   backing=DiskSource(NAME, "/disk.qcow2", "qcow2", GIB, note=NAME), problem=NAME),
        Attachment(machine_id, "nic", ONE_LINE, 1, nic.SerializeToString(), True, NOW, mac="02:00:00:00:00:01", port=2,
                   backing=NicBackend(NAME, "network", "blue"), problem=NAME),
        Attachment(machine_id, "nic", f"{ONE_LINE}2", 1, nic.SerializeToString(), True, NOW, mac="02:00:00:00:00:02"),
    )  # fmt: skip
    profile = Profile(1, "qemu", "q35", "maximum", "", 1, 1000, GIB, "bios", "", "raw", "", 8, "/usr/bin/qemu")
    return replace(
        machine(machine_id, "web", NOW),
        labels={LABEL_NAMESPACE: ONE_LINE, LABEL_NAME: ONE_LINE, NAME: NAME},
        annotations={NAME: NAME},
        spec=spec,
        machine_class=MachineClass(ONE_LINE, 1000, GIB),
        profile=profile,
        attachments=rows,
    )


@pytest.fixture
def hostile_store(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(live, "domain", lambda *_: {"state": NAME, "reason": NAME, "managed_save": True, "problem": ""})
    monkeypatch.setattr(live, "process", lambda *_: None)
    for known in (WEB, DB):
        store.write(lambda tx, known=known: tx.forget(known))  # type: ignore[misc]
    store.write(lambda tx: tx.insert(hostile(WEB)))
    store.write(
        lambda tx: tx.record_pass(
            WEB,
            status=pb.MachineStatus(),
            run=Run(error=NAME),
            reasons=(Reason("no-port", NAME, NAME, since=NOW),),
            observed_generation=1,
            events=[Event("device", NAME, NAME, NOW)],
        )
    )
    store.write(lambda tx: tx.claim(WEB, [Claim(CPU, 1000), Claim(NAME, 1, holder=NAME)]))
    return store


FORMS = [
    *(("machine", "list", "-o", form) for form in ("table", "json", "yaml")),
    *(("machine", "get", WEB, "-o", form) for form in ("table", "json", "yaml")),
    *(("machine", "events", WEB, "-o", form) for form in ("table", "json", "yaml")),
    *(("machine", "why", WEB, "-o", form) for form in ("text", "json", "yaml")),
    *(("machine", "describe", WEB, "-o", form) for form in ("text", "json", "yaml")),
    *(("machine", "events", "-A", "-o", form) for form in ("table", "json")),
    *(("capacity", "--by", "machine", "-o", form) for form in ("picture", "json")),
    ("render", WEB),
]


@pytest.mark.usefixtures("hostile_store")
@pytest.mark.parametrize("argv", FORMS, ids=" ".join)
def test_of_a_stored_machine(cli: Cli, argv: tuple[str, ...]) -> None:
    result = cli(*argv)
    assert result.status == 0, result.err
    assert unfit(result.out + result.err) == set()
    assert "2J" in result.out, "the name was printed after all"


@pytest.mark.usefixtures("hostile_store")
@pytest.mark.parametrize("form", ["json", "yaml"])
def test_documents_lose_nothing(cli: Cli, form: str) -> None:
    load: Callable[[str], Any] = json.loads if form == "json" else yaml.safe_load
    shown = load(cli("machine", "get", WEB, "-o", form).out)
    assert shown["labels"][NAME] == NAME
    assert shown["devices"][0]["name"] == ONE_LINE
    assert shown["reasons"][0]["advice"] == NAME
    assert NAME in shown["notes"][0]
    assert load(cli("machine", "events", WEB, "-o", form).out)[-1]["message"] == NAME


def test_of_a_file(cli: Cli, tmp_path: Path) -> None:
    spec: dict[str, Any] = {"class": "c1-m1", "image": {"image": f"/{ONE_LINE}"}, NAME: 1}
    spec["network_interfaces"] = [{"name": ONE_LINE}]
    labels = {LABEL_NAMESPACE: ONE_LINE, LABEL_NAME: ONE_LINE}
    file = tmp_path / "machine.json"
    file.write_text(json.dumps({"metadata": {"labels": labels}, "spec": spec}))
    result = cli("render", "-f", str(file))
    assert result.status == 0, result.err
    assert "left out" in result.out
    assert "ignored" in result.err
    assert unfit(result.out + result.err) == set()
    assert result.out.count("-->") == 1, "a name has ended the comment"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "argv",
    [
        ("machine", "get", NAME),
        ("machine", "events", NAME, "-o", "json"),
        ("machine", NAME),
        (NAME,),
        ("machine", "list", f"--{NAME}"),
        ("machine", "list", "-o", NAME),
        ("machine", "list", NAME),
        ("machine", "list", "--state-dir", NAME),
        ("capacity", "--explain", NAME, "--sysfs", "/nowhere", "--procfs", "/nowhere"),
        ("render", "-f", f"/{NAME}"),
        ("render", NAME),
        ("classes", "--machine-classes", f"/{NAME}"),
        ("store", "check", NAME),
        ("store", "backup", NAME),
        ("drain", "--shutdown", "--wait", NAME),
        ("serve", "--config", NAME),
    ],
    ids=lambda argv: printable.line(" ".join(argv)),
)
def test_of_errors(cli: Cli, argv: tuple[str, ...]) -> None:
    result = cli(*argv)
    assert result.status in (1, 2)
    assert result.err
    assert unfit(result.out + result.err) == set()


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_of_a_class_file(cli: Cli, tmp_path: Path, form: str) -> None:
    file = tmp_path / f"{ONE_LINE}.yaml"
    file.write_text(json.dumps([{"name": NAME, NAME: NAME}]))
    result = cli("classes", "--machine-classes", str(file), "-o", form)
    assert result.status == 1
    assert unfit(result.out + result.err) == set()


def spoilt(value: Any) -> Any:
    """The same data with such a name for every string in it."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: spoilt(getattr(value, each.name)) for each in fields(value) if each.init})
    if isinstance(value, tuple):
        return tuple(spoilt(each) for each in value)
    return NAME if isinstance(value, str) else value


def test_of_a_host(tmp_path: Path) -> None:
    tree = reports.server(tmp_path / "host")
    found = inventory.read(tree.sysfs, tree.procfs, state_dir=tree.sysfs)
    wishes = config.load({"state_dir": tmp_path}, environ={}, default_file=tmp_path / "none.toml")
    classes = {"c": MachineClass(NAME, 1000, GIB)}
    stored = Stored(True, Usage(), classes, NAME, Verdict(False, NAME), replace(OFFER, emulator=NAME))
    sane = facts.assess(found, stored, wishes)
    report = replace(
        spoilt(replace(sane, budget=None, usage=None, offers=())),  # type: ignore[arg-type]  # keys, not words
        budget=sane.budget,
        usage=sane.usage,
        offers=tuple(replace(each, limited_by=NAME) for each in sane.offers),
    )
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False, emoji=False)
    console.print(picture(report))
    assert isinstance(console.file, io.StringIO)
    drawn = console.file.getvalue()
    assert drawn.count("2J") > 20
    assert unfit(drawn) == set()
    told = document(report)
    assert unfit(prometheus.text(told)) == set()
    for text, load in ((printable.json_text(told), json.loads), (printable.yaml_text(told), yaml.safe_load)):
        assert unfit(text) == set()
        assert load(text)["host"]["cpu"]["model"] == NAME


def test_the_command_line_prints_in_one_place() -> None:
    """So that nothing can be printed past the list: `main.py` prints errors, `output.py` everything else."""
    root = Path(main.__file__).parent
    allowed = {root / "main.py", root / "output.py"}
    for file in set(root.rglob("*.py")) - allowed:
        called = {
            ast.unparse(node.func) for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)
        }
        assert not called & {"click.echo", "click.secho", "print", "sys.stdout.write", "sys.stderr.write"}, file


@pytest.mark.parametrize("form", ["table", "json", "yaml"])
def test_a_terminal_that_lacks_letters_is_no_reason_to_fail(
    store: Store, state_dir: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setenv("SRI_LIBVIRT_STATE_DIR", str(state_dir))
    named = replace(machine("33333333-aaaa-4000-8000-000000000003", "web", NOW), labels={LABEL_NAME: "größe漢"})
    store.write(lambda tx: tx.insert(named))
    out = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(out, encoding="ascii"))
    with pytest.raises(SystemExit) as ended:
        main.main(["machine", "list", "-o", form])
    assert ended.value.code == 0
    sys.stdout.flush()
    if form == "table":
        assert b"gr??e?" in out.getvalue()
    else:
        assert "größe漢" in out.getvalue().decode(), "a document is UTF-8 and loses nothing"
