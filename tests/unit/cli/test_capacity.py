"""`sri-libvirt capacity` on hosts that nobody here has: every form of the report, and what it does without."""

from __future__ import annotations

import errno
import io
import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from sri_libvirt import config
from sri_libvirt.cli import capacity
from sri_libvirt.cli.report import facts, prometheus
from sri_libvirt.cli.report.document import document
from sri_libvirt.cli.report.facts import Report, Stored, Verdict
from sri_libvirt.cli.report.picture import bar, picture, ranges
from sri_libvirt.host import inventory
from sri_libvirt.host.inventory import Inventory
from sri_libvirt.host.kvm import KvmVerdict
from sri_libvirt.host.space import Space
from sri_libvirt.hypervisor import offers
from sri_libvirt.hypervisor.fake import OFFER
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import GIB, MachineClass
from sri_libvirt.resources import Claim, Usage
from sri_libvirt.store import Store
from tests.unit.cli import reports
from tests.unit.cli.conftest import Cli
from tests.unit.host import devices, trees
from tests.unit.host.trees import Tree

GOLDEN = Path(__file__).parent / "golden"
SPACE = Space(total_bytes=1000 * GIB, others_bytes=100 * GIB)
SHOWN = ("server", "ppc64_sparse", "no_numa")


def build(name: str, root: Path) -> Tree:
    return reports.server(root) if name == "server" else trees.build(name, root)


def roots(tree: Tree) -> tuple[str, ...]:
    return ("--sysfs", str(tree.sysfs), "--procfs", str(tree.procfs))


@pytest.fixture
def wishes(tmp_path: Path) -> config.Settings:
    return config.load({"state_dir": tmp_path / "state"}, environ={}, default_file=tmp_path / "none.toml")


@pytest.fixture
def server(tmp_path: Path) -> Inventory:
    tree = reports.server(tmp_path / "host")
    return inventory.read(tree.sysfs, tree.procfs)


def drawn(report: Report, width: int = 120, **how: Any) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, markup=False, emoji=False, **how)
    console.print(picture(report))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- the JSON ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHOWN)
def test_golden(name: str, tmp_path: Path, cli: Cli, request: pytest.FixtureRequest) -> None:
    result = cli("capacity", *roots(build(name, tmp_path / "host")), "-o", "json")
    assert (result.status, result.err) == (0, "")
    path = GOLDEN / f"capacity-{name}.json"
    if request.config.getoption("--regenerate-golden"):
        path.write_text(result.out)
    assert result.out == path.read_text(), f"differs from {path.name}; pytest --regenerate-golden writes it anew"


@pytest.mark.parametrize("name", ["server", *sorted(trees.TREES)])
def test_the_promised_keys_are_there_for_every_host(name: str, tmp_path: Path, cli: Cli, state_dir: Path) -> None:
    tree = build(name, tmp_path / "host")
    before = sorted(tmp_path.rglob("*"))
    found = json.loads(cli("capacity", *roots(tree), "-o", "json").out)
    assert reports.faults(found, reports.SHAPE) == []
    assert found["host"]["cpu"]["threads"] == len(found["host"]["cpu"]["online"])
    assert found["classes"], "a host without an operator's classes has at least one step of the ladder"
    assert all(each["quantity"] == each["used"] + each["free"] for each in found["classes"])
    assert sorted(tmp_path.rglob("*")) == before, "a report writes nothing"
    assert not state_dir.exists()


def test_a_fault_of_the_shape_is_found() -> None:
    assert reports.faults({"a": True, "b": [1]}, {"a": int, "b": [str], "c": str}) == [
        ".c: is missing",
        ".a: True is no int",
        ".b[0]: 1 is no str",
    ]


def test_hosts_without_any_fact(tmp_path: Path, cli: Cli) -> None:
    where = tmp_path / "host"
    (where / "devices").mkdir(parents=True)
    argv = ("capacity", "--sysfs", str(where), "--procfs", str(where))
    found = json.loads(cli(*argv, "-o", "json").out)
    assert reports.faults(found, reports.SHAPE) == []
    assert (found["host"]["cpu"]["architecture"], found["host"]["memory_bytes"]) == (None, None)
    assert [node["id"] for node in found["host"]["numa"]] == [0]
    assert [each["quantity"] for each in found["classes"]] == [0]
    assert "no CPU is known" in cli(*argv).out


def test_a_root_that_is_no_hosts_is_not_believed(tmp_path: Path, cli: Cli) -> None:
    given = ("capacity", *roots(reports.server(tmp_path / "host")))
    told = cli(*given, "--sysfs", str(tmp_path))
    assert (told.status, told.out) == (1, "")
    assert told.err == f"sri-libvirt: --sysfs {tmp_path}: there is no devices/ in it, so it is no host's\n"
    told = cli(*given, "--procfs", str(tmp_path / "nowhere"))
    assert (told.status, told.out) == (1, "")
    assert told.err == f"sri-libvirt: --procfs {tmp_path / 'nowhere'}: there is no such directory\n"


def test_yaml_says_the_same(tmp_path: Path, cli: Cli) -> None:
    argv = ("capacity", *roots(reports.server(tmp_path / "host")), "-o")
    assert yaml.safe_load(cli(*argv, "yaml").out) == json.loads(cli(*argv, "json").out)


def test_memory_and_threads_of_the_tree_decide(tmp_path: Path, cli: Cli) -> None:
    found = json.loads(cli("capacity", *roots(reports.server(tmp_path / "host")), "-o", "json").out)
    quantities = {each["name"]: (each["quantity"], each["limited_by"]) for each in found["classes"]}
    # 16 threads; 64 GiB less 1.28 GiB for the host and 1.19 GiB of huge pages, 61.5 GiB; 128 MiB and more beside each
    assert quantities["c1-m1"] == (16, "cpu")
    assert quantities["c1-m8"] == (7, "memory")
    assert quantities["c16-m32"] == (1, "cpu")
    assert list(quantities)[-1] == "c16-m64", "the ladder ends with the host's threads and memory"


# --- the store, and hosts that are not this one ---------------------------------------------------


@pytest.fixture
def full_store(state_dir: Path) -> Iterator[Store]:
    """One machine of a class of its own ladder, and a domain that is not ours."""
    store = Store.open(StatePaths(state_dir), lambda: 1)
    try:
        store.write(lambda tx: tx.set_meta("neighbours", '[["cpu", 4000], ["memory", 1073741824]]'))
        verdict = KvmVerdict(works=True, host_passthrough=True, detail="a guest runs")
        store.write(lambda tx: tx.set_meta("kvm", json.dumps(asdict(verdict))))
        store.write(lambda tx: tx.set_meta("offer", offers.text(OFFER)))
        yield store
    finally:
        store.close()


@pytest.mark.usefixtures("full_store")
def test_the_store_of_this_host_is_none_of_another(tmp_path: Path, cli: Cli) -> None:
    found = json.loads(cli("capacity", *roots(reports.server(tmp_path / "host")), "-o", "json").out)
    assert found["host"]["foreign"] is True
    assert found["host"]["filesystem"] is None
    assert all(each["claimed"] == 0 for each in found["resources"])
    assert found["host"]["virtualisation"]["kvm"] is None
    assert found["host"]["virtualisation"]["libvirt"] is None


@pytest.mark.parametrize("given", [("--sysfs",), ("--procfs",)])
def test_one_root_of_another_host_makes_it_another(given: tuple[str, ...], tmp_path: Path) -> None:
    tree = trees.build("no_numa", tmp_path / "host")
    sysfs = tree.sysfs if "--sysfs" in given else inventory.SYSFS
    procfs = tree.procfs if "--procfs" in given else inventory.PROCFS
    assert facts.is_foreign(sysfs, procfs)


def test_the_same_kernel_mounted_elsewhere_is_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = Tree(tmp_path / "here"), Tree(tmp_path / "there")
    monkeypatch.setattr(facts, "SYSFS", here.sysfs)
    monkeypatch.setattr(facts, "PROCFS", here.procfs)
    assert not facts.is_foreign(here.sysfs, here.procfs)
    assert facts.is_foreign(there.sysfs, there.procfs)
    there.write(f"proc/{facts.BOOT_ID}", "boot-1")
    here.write(f"proc/{facts.BOOT_ID}", "boot-2")
    assert facts.is_foreign(there.sysfs, there.procfs)
    there.write(f"proc/{facts.BOOT_ID}", "boot-2")
    assert not facts.is_foreign(there.sysfs, there.procfs)
    assert facts.is_foreign(there.sysfs, here.procfs)


def test_what_the_store_says(full_store: Store, state_dir: Path) -> None:
    full_store.write(lambda tx: tx.set_meta("cordon", '{"since": 1, "reason": "new disks", "drained": 0}'))
    stored, note = facts.read_store(StatePaths(state_dir))
    assert note == ""
    assert stored.found
    assert stored.usage == Usage({("cpu", -1): 4000, ("memory", -1): GIB})
    assert stored.verdict == Verdict(True, "a guest runs")
    assert stored.offer == OFFER
    assert "cordoned (new disks)" in stored.closed


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Flags of a host that is this one, so that the store of `state_dir` is its own."""
    tree = reports.server(tmp_path / "host")
    monkeypatch.setattr(facts, "is_foreign", lambda *_: False)
    return roots(tree)


@pytest.mark.parametrize("key", ["neighbours", "kvm", "classes", "cordon", "offer"])
def test_what_cannot_be_read_in_a_store_is_not_taken_for_nothing(
    key: str, full_store: Store, here: tuple[str, ...], cli: Cli
) -> None:
    full_store.write(lambda tx: tx.set_meta(key, '{"no": "such thing"}'))
    result = cli("capacity", *here, "-o", "json")
    assert (result.status, result.err.count("\n")) == (1, 1)
    assert json.loads(result.out)["classes"] is None


def test_no_store_is_an_empty_host(state_dir: Path) -> None:
    stored, note = facts.read_store(StatePaths(state_dir))
    assert stored == Stored()
    assert "there is no state database" in note


def damaged(state_dir: Path) -> str:
    StatePaths(state_dir).database.write_bytes(b"no database" * 1000)
    return "file is not a database"


def lost(state_dir: Path) -> str:
    (StatePaths(state_dir).machines / "11111111-aaaa-4000-8000-000000000001").mkdir()
    StatePaths(state_dir).database.unlink()
    return "there is no state database"


@pytest.mark.parametrize("harm", [damaged, lost])
def test_a_store_that_cannot_be_read_is_no_empty_host(
    harm: Callable[[Path], str], full_store: Store, state_dir: Path, here: tuple[str, ...], cli: Cli
) -> None:
    assert cli("capacity", *here, "-o", "json").status == 0
    full_store.close()
    words = harm(state_dir)
    result = cli("capacity", *here, "-o", "json")
    assert (result.status, words in result.err, result.err.count("\n")) == (1, True, 1)
    found = json.loads(result.out)
    assert reports.faults(found, reports.SHAPE) == []
    assert (found["classes"], found["closed"]) == (None, None)
    assert {(each["claimed"], each["free"]) for each in found["resources"]} == {(None, None)}
    assert found["host"]["memory_bytes"] == 64 * GIB, "the host is known"
    assert words in found["warnings"][0]

    result = cli("capacity", *here, "-o", "prometheus")
    assert (result.status, words in result.err) == (1, True)
    told = {name for name, _ in samples(result.out)}
    assert "sri_libvirt_capacity_budget_cpus" in told
    assert not [name for name in told if "class" in name or "claimed" in name or name.endswith("closed")]

    result = cli("capacity", *here)
    assert (result.status, words in result.err) == (1, True)
    assert "warning: it is unknown what this host can sell" in result.out
    assert "unknown how much is used of 16" in result.out
    assert not re.search("used, |LIMITED BY", result.out)

    result = cli("capacity", *here, "--explain", "c1-m1")
    assert (result.status, result.out, words in result.err) == (1, "", True)


def test_a_file_system_that_cannot_be_measured_is_not_taken_for_boundless(
    full_store: Store, here: tuple[str, ...], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(_: object) -> None:
        raise OSError(errno.EIO, "Input/output error", "/dead")

    monkeypatch.setattr("os.statvfs", dead)
    result = cli("capacity", *here, "-o", "json")
    assert (result.status, "/dead: Input/output error" in result.err) == (1, True)
    assert json.loads(result.out)["classes"] is None


def test_what_is_used_is_used_also_by_others(server: Inventory, wishes: config.Settings) -> None:
    ladder = {"big": MachineClass("big", 4000, 8 * GIB)}
    usage = Usage().plus([Claim("cpu", 5000), Claim("memory", 9 * GIB)]).with_machine("big")
    report = facts.assess(server, Stored(True, usage, ladder), wishes, disk=SPACE)
    (offer,) = report.offers
    assert (offer.quantity, offer.used, offer.free, offer.limited_by) == (3, 1, 2, "cpu")
    text = drawn(report)
    assert "5 used, 11 free of 16" in text
    assert "on no node of their own: 5 CPUs and 9 GiB" in text
    assert re.search(r"^big +4 +8 GiB +3 +1 +2 +cpu", text, re.M)


def test_the_reserves_are_those_of_the_settings(tmp_path: Path, cli: Cli) -> None:
    argv = ("capacity", *roots(reports.server(tmp_path / "host")), "-o", "json")
    found = json.loads(cli(*argv, "--max-machines", "3", "--reserved-cpus", "2", "--cpu-overcommit", "2").out)
    rows = {(each["resource"], each["node"]): each for each in found["resources"]}
    cpu = rows["cpu", None]
    assert (cpu["total"], cpu["reserved"], cpu["overcommit"], cpu["budget"], cpu["unit"]) == (
        *(16000, 2000, 2.0, 28000, "millis"),
    )
    assert rows["disk", None]["budget"] is None
    assert rows["hugepages-2048", 1]["budget"] == 32 * 2048 * 1024
    assert rows["vf/ens1f0", 0]["budget"] == 2
    assert found["classes"][0]["quantity"] == 3
    assert found["classes"][0]["limited_by"] == "machines"


def test_the_operators_classes(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "classes.yaml"
    file.write_text("classes:\n  - {name: half, cpu: 500m, memory: 1Gi}\n")
    argv = ("capacity", *roots(reports.server(tmp_path / "host")), "--machine-classes", str(file))
    found = json.loads(cli(*argv, "-o", "json").out)
    assert [(each["name"], each["quantity"], each["limited_by"]) for each in found["classes"]] == [("half", 32, "cpu")]
    file.write_text("classes: [{name: half}]\n")
    result = cli(*argv)
    assert (result.status, "line 1" in result.err) == (1, True)


# --- warnings -------------------------------------------------------------------------------------


def test_a_host_without_kvm_is_warned_of(server: Inventory, wishes: config.Settings) -> None:
    stored = Stored(True, verdict=Verdict(False, "nested virtualisation is off"))
    report = facts.assess(server, stored, wishes, disk=SPACE)
    assert report.warnings == (f"no KVM (nested virtualisation is off): {facts.NO_KVM}",)
    assert drawn(report).count("TCG") == 2
    assert drawn(replace(report, verdict=Verdict(True, ""), warnings=())).count("TCG") == 0


def test_what_libvirt_and_qemu_offer_is_in_every_form(server: Inventory, wishes: config.Settings) -> None:
    report = facts.assess(server, Stored(True, offer=OFFER), wishes)
    found = document(report)
    assert reports.faults(found, reports.SHAPE) == []
    virtualisation = found["host"]["virtualisation"]
    assert (virtualisation["libvirt"], virtualisation["qemu"]) == ("9.0.0", "7.2.0")
    assert (virtualisation["machine_type"], virtualisation["machine_types"]) == (
        "pc-q35-7.2",
        ["pc-q35-7.1", "pc-q35-7.2"],
    )
    assert [each["secure_boot"] for each in virtualisation["firmware"]] == [True, False]
    shown = drawn(report)
    assert re.search(r"^libvirt +9\.0\.0, QEMU 7\.2\.0 *$", shown, re.M)
    assert re.search(r"^machine +pc-q35-7\.2 and 1 other type *$", shown, re.M)
    assert re.search(r"^firmware +BIOS, UEFI \(OVMF_CODE\.fd\), Secure Boot \(OVMF_CODE\.secboot\.fd\) *$", shown, re.M)
    labels = (("libvirt", "9.0.0"), ("machine_type", "pc-q35-7.2"), ("qemu", "7.2.0"))
    assert samples(prometheus.text(found))["sri_libvirt_host_hypervisor_info", labels] == 1


def test_before_libvirt_was_asked_its_part_is_unknown(server: Inventory, wishes: config.Settings) -> None:
    report = facts.assess(server, Stored(True), wishes)
    assert document(report)["host"]["virtualisation"]["firmware"] is None
    assert "QEMU" not in drawn(report)
    assert "hypervisor_info" not in prometheus.text(document(report))


def test_emulation_that_was_asked_for_is_warned_of(server: Inventory, wishes: config.Settings) -> None:
    stored = Stored(True, verdict=Verdict(True, ""))
    report = facts.assess(server, stored, replace(wishes, domain_type="qemu"), disk=SPACE)
    assert (report.verdict.kvm, report.closed) == (False, "")
    assert "--domain-type qemu" in report.warnings[0]


def test_a_host_that_lost_kvm_sells_nothing_more(server: Inventory, wishes: config.Settings) -> None:
    gone = replace(server, virtualisation=replace(server.virtualisation, kvm=False))
    stored = Stored(True, Usage(machines={"c1-m1": 2}), verdict=Verdict(True, ""))
    report = facts.assess(gone, stored, wishes, disk=SPACE)
    assert [(offer.used, offer.free) for offer in report.offers][:2] == [(2, 0), (0, 0)]
    assert {offer.limited_by for offer in report.offers} == {"cordon"}
    assert document(report)["closed"] in report.warnings


def test_kvm_that_nobody_proved(server: Inventory, wishes: config.Settings) -> None:
    (warning,) = facts.assess(server, Stored(), wishes, disk=SPACE).warnings
    assert "not proven yet" in warning
    assert "extension" not in warning, "this CPU has vmx"


def test_a_saved_tree_has_no_file_system_that_limits_it(server: Inventory, wishes: config.Settings) -> None:
    report = facts.assess(server, Stored(), wishes, disk=None)
    assert "disk" not in {offer.limited_by for offer in report.offers}
    assert "disk" in {o.limited_by for o in facts.assess(server, Stored(), wishes, disk=Space(GIB, 0)).offers}


# --- the arithmetic, and wrong usage --------------------------------------------------------------


def test_explain(tmp_path: Path, cli: Cli) -> None:
    result = cli("capacity", *roots(reports.server(tmp_path / "host")), "--explain", "c1-m8")
    assert result.status == 0
    reserved = "2.46 GiB reserved (the host's own, max(1 GiB, 2 %) and huge pages)"
    assert result.out.splitlines() == [
        "cpu: 16 CPUs - 0 CPUs claimed = 16 CPUs free",
        f"memory: 64 GiB - {reserved} - 0 B claimed = 61.53 GiB free",
        "cpu: 16 CPUs free / 1 CPU a machine = 16",
        "memory: 61.53 GiB free / 8.14 GiB a machine (8 GiB + 152 MiB overhead) = 7",
        "c1-m8: 0 exist + 7 more = 7, limited by memory",
    ]


def test_an_unknown_class_names_the_known(tmp_path: Path, cli: Cli) -> None:
    result = cli("capacity", *roots(trees.build("no_numa", tmp_path / "host")), "--explain", "c9\x1b[1m")
    assert (result.status, result.out) == (1, "")
    assert result.err == "sri-libvirt: there is no class 'c9\\x1b[1m'; known: c1-m1\n"


@pytest.mark.parametrize(
    "argv",
    [
        ("--explain", "c1-m1", "-o", "json"),
        ("--watch", "1", "-o", "yaml"),
        ("--watch", "--explain", "c1-m1"),
        ("--watch", "0"),
        ("-o", "xml"),
        ("--sysfs", ""),
    ],
)
def test_wrong_usage(argv: tuple[str, ...], cli: Cli) -> None:
    assert cli("capacity", *argv).status == 2


# --- metrics --------------------------------------------------------------------------------------


def samples(text: str) -> Mapping[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_are_what_prometheus_reads(tmp_path: Path, cli: Cli) -> None:
    argv = ("capacity", *roots(reports.server(tmp_path / "host")), "-o")
    text, found = cli(*argv, "prometheus").out, json.loads(cli(*argv, "json").out)
    known = samples(text)
    for each in found["classes"]:
        for what in ("quantity", "used", "free"):
            assert known[f"sri_libvirt_class_{what}", (("class", each["name"]),)] == each[what]
    assert known["sri_libvirt_host_memory_bytes", ()] == found["host"]["memory_bytes"]
    assert known["sri_libvirt_nic_speed_bytes_per_second", (("name", "ens1f0"),)] == 100e9 / 8
    assert known["sri_libvirt_nic_virtual_functions", (("name", "ens1f0"), ("state", "free"))] == 1
    assert known["sri_libvirt_capacity_budget_cpus", (("node", ""), ("resource", "cpu"))] == 16
    names = re.findall(r"^(\w+)[{ ]", text, re.M)
    for name in set(names):
        assert text.count(f"# HELP {name} ") == text.count(f"# TYPE {name} gauge\n") == 1
    assert "disk" not in {dict(labels).get("resource") for name, labels in known if "budget" in name}


@pytest.mark.parametrize("word", ['a"b', "a\\", "a\nb", "\\n", "é", ""])
def test_labels_are_escaped(word: str) -> None:
    gauge = prometheus._Gauge("x", "An x.")
    gauge.add(1, name=word)
    ((_, labels),) = samples("\n".join(gauge.lines()) + "\n")
    assert labels == (("name", word),)


def test_no_byte_is_lost() -> None:
    assert prometheus.number((1 << 60) + 1) == str((1 << 60) + 1)
    assert (prometheus.number(True), prometheus.number(0.5)) == ("1", "0.5")


# --- the picture ----------------------------------------------------------------------------------


def test_a_picture_of_everything(tmp_path: Path, cli: Cli) -> None:
    result = cli("capacity", *roots(reports.server(tmp_path / "host")))
    assert result.status == 0
    assert "\x1b" not in result.out
    for words in (
        "A Xeon [bold]CPU[/bold] (x86_64)",
        "2 packages, 8 cores, 16 threads",
        "node 0",
        "node 1",
        "CPUs 0-3,8-11",
        "huge pages 64 of 2 MiB (60 free)",
        "distance to 1: 21",
        "100 Gbit/s",
        "1 free of 2 (at most 64)",
        "port of br0",
        "default route",
        "and 1 more of guests, containers and virtual functions",
        "10de:2235",
        "nvme0n1",
    ):
        assert words in result.out
    assert re.search(r"^0000:af:00\.0 +GPU +10de:2235 +vfio-pci +40 +1", result.out, re.M)
    assert re.findall(r"^0000:\S+", result.out, re.M) == ["0000:af:00.0", "0000:3b:00.0"], "GPUs come first"


def test_colours_are_for_terminals_that_want_them(
    server: Inventory, wishes: config.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = facts.assess(server, Stored(), wishes, disk=SPACE)
    assert "\x1b[" in drawn(report, force_terminal=True, color_system="standard")
    monkeypatch.setenv("NO_COLOR", "1")
    text = drawn(report, force_terminal=True, color_system="standard")
    assert not re.search(r"\x1b\[(\d+;)*3\d", text)


@pytest.mark.parametrize("name", SHOWN)
@pytest.mark.parametrize("width", [1, 40, 300])
def test_every_host_fits_every_terminal(name: str, width: int, tmp_path: Path, wishes: config.Settings) -> None:
    tree = build(name, tmp_path / "host")
    report = facts.assess(inventory.read(tree.sysfs, tree.procfs), Stored(), wishes, disk=SPACE)
    assert max(map(len, drawn(report, width).splitlines())) <= width


def test_a_terminal_without_unicode(server: Inventory, wishes: config.Settings) -> None:
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="ascii", errors="replace") as file:
        Console(file=file, width=100).print(picture(facts.assess(server, Stored(), wishes, disk=SPACE)))
        file.flush()
        assert b"node 0" in raw.getvalue()


@pytest.mark.parametrize(
    ("numbers", "text"),
    [((), ""), ((3,), "3"), ((0, 1, 2, 8), "0-2,8"), (range(0, 40, 2), "0,2,4,6,8,10,12,14,... (20 in all)")],
)
def test_ranges(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text


@pytest.mark.parametrize(
    ("used", "total", "filled"),
    [(0, 10, 0), (0, 0, 0), (1, 0, 20), (1, 1000, 1), (5, 10, 10), (10, 10, 20), (99, 10, 20)],
)
def test_bars(used: int, total: int, filled: int) -> None:
    assert bar(used, total).plain == "[" + "#" * filled + "." * (20 - filled) + "]"


@settings(max_examples=20, deadline=None)
@given(found=st.from_type(Inventory).filter(lambda each: bool(each.nodes)), width=st.integers(1, 200))
def test_whatever_an_inventory_holds_all_forms_show_it(found: Inventory, width: int) -> None:
    report = facts.assess(found, Stored(), config.load({}, environ={}, default_file=Path("/nowhere")))
    drawn(report, width)
    shown = document(report)
    assert reports.faults(json.loads(json.dumps(shown)), reports.SHAPE) == []
    samples(prometheus.text(shown))
    assert report.explain(report.offers[0].machine_class.name)


# --- watching -------------------------------------------------------------------------------------


class Looks:
    """Counts how often it was looked."""

    def __init__(self, report: Report) -> None:
        self.count = 0
        self._report = report

    def __call__(self) -> Report:
        self.count += 1
        return self._report


def until_interrupted(ticks: int) -> Iterator[None]:
    for _ in range(ticks):
        yield
    raise KeyboardInterrupt


@pytest.mark.parametrize("terminal", [True, False])
def test_watch_looks_again_and_ends_cleanly(terminal: bool, server: Inventory, wishes: config.Settings) -> None:
    looks = Looks(facts.assess(server, Stored(), wishes, disk=SPACE))
    console = Console(file=io.StringIO(), width=100, height=200, force_terminal=terminal)
    before = signal.getsignal(signal.SIGTERM)
    capacity.watch(looks, console, until_interrupted(2))
    assert looks.count == 3
    assert signal.getsignal(signal.SIGTERM) is before
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert text.count("A Xeon") >= 3
    assert ("\x1b[?25h" in text) == terminal, "the cursor is back"


def test_watch_takes_its_seconds_or_none(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    argv = ("capacity", *roots(trees.build("no_numa", tmp_path / "host")))
    assert [cli(*argv, "--watch", "7").status, cli(*argv, "--watch").status] == [0, 0]
    assert waited == [7.0, capacity.WATCH_SECONDS]


def test_what_is_of_use_is_shown_however_much_else_there_is(tmp_path: Path, cli: Cli) -> None:
    """A server's own counters and buses hide neither its cards nor its disks, and all that is left out is counted."""
    tree = reports.server(tmp_path / "host")
    for number in range(40):
        devices.pci(tree, f"0000:00:{number // 8:02x}.{number % 8}", ids="8086:3450", device_class="088000")
    devices.pci(tree, "0000:fe:00.0", ids="1344:5192", device_class="010802", links={"driver": "nvme"})
    devices.pci(tree, "0000:03:00.0", ids="102b:0536", device_class="030000", links={"driver": "mgag200"})
    devices.pci(tree, "0000:04:00.0", ids="10ee:5020", device_class="120000")
    for number in range(60):
        tree.write(f"sys/block/dm-{number}/size", 2048)
    tree.write("sys/block/sdz/size", 4096)
    tree.write("sys/block/sdz/device/model", "LAST")
    for number in range(20):
        devices.interface(tree, f"veth{number:04x}")
    told = cli("capacity", *roots(tree)).out
    shown = re.findall(r"^(0000:\S+) +(\S+)", told, re.M)
    assert shown == [
        ("0000:af:00.0", "GPU"), ("0000:3b:00.0", "network"), ("0000:fe:00.0", "storage"),
        ("0000:04:00.0", "accelerator"), ("0000:03:00.0", "display"),
    ]  # fmt: skip
    assert "and 42 more PCI devices: virtual functions, and the host's own buses and controllers" in told
    disks = re.findall(r"^(nvme0n1|sdz|dm-\d+) ", told, re.M)
    assert (disks[:2], len(disks)) == (["nvme0n1", "sdz"], 32)
    assert "and 30 more disks" in told
    assert "veth" not in told
    assert "and 21 more of guests, containers and virtual functions" in told
    whole = json.loads(cli("capacity", *roots(tree), "-o", "json").out)["host"]
    assert len(whole["pci"]) == 46 + 1


def test_many_nodes_are_a_line_each_with_their_distances_grouped(tmp_path: Path, cli: Cli) -> None:
    tree = reports.server(tmp_path / "host")
    for node in range(32):
        distances = [10 if other == node else 12 if other // 8 == node // 8 else 32 for other in range(32)]
        tree.node(node, (node,) if node < 16 else (), 1 << 20, distances=distances)
    tree.write(f"{trees.NODES}/online", "0-31")
    told = cli("capacity", *roots(tree)).out
    lines = told[told.index("NUMA") :].splitlines()[1:34]
    assert lines[0].split() == ["NODE", "CPUS", "FREE", "MEMORY", "FREE", "HUGE", "PAGES", "OTHER", "NODES"]
    assert [line.split()[0] for line in lines[1:]] == [str(node) for node in range(32)]
    assert all("7 at 12, 24 at 32" in line for line in lines[1:]), "in all 33 lines, and not 320"


def test_cpus_that_the_scheduler_leaves_alone_are_not_sold(tmp_path: Path, cli: Cli) -> None:
    tree = reports.server(tmp_path / "host")

    def cpus() -> list[tuple[int | None, int]]:
        found = json.loads(cli("capacity", *roots(tree), "-o", "json").out)["resources"]
        return [(each["node"], each["budget"]) for each in found if each["resource"] == "cpu"]

    assert cpus() == [(None, 16000), (0, 8000), (1, 8000)]
    tree.write(f"{trees.CPUS}/isolated", "0-3,15")
    assert cpus() == [(None, 11000), (0, 4000), (1, 7000)]
