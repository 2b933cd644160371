"""`sri-libvirt classes`: what this host sells, as a table or as MachineClass objects; whether the cluster agrees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

import click

from sri_libvirt.capacity import claims, ladder, manifests
from sri_libvirt.capacity import classes as files
from sri_libvirt.capacity.budget import of_inventory
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.config import Settings
from sri_libvirt.host import inventory
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import MachineClass
from sri_libvirt.resources import byte_words
from sri_libvirt.store.reader import Reader


@click.command()
@click.option("--manifests", "as_manifests", is_flag=True, help="Print MachineClass objects for `kubectl apply -f -`.")
@click.option(
    "--check",
    "cluster",
    type=click.File(encoding="utf-8"),
    help="Compare with the cluster's objects, `kubectl get machineclasses -o yaml`; - is stdin.",
)
@settings_options("state_dir", "machine_classes")
@out.form("table", "json", "yaml")
def classes(as_manifests: bool, cluster: TextIO | None, settings: Settings, output: str) -> None:
    """List the machine classes of this host.

    Those of --machine-classes, else the ladder that the store has kept since the first run, else the one that it would
    keep now. The poollet offers a class only if an object of the cluster has the same name, CPU and memory; --check
    ends with status 1 when one of ours has none.
    """
    ours = offered(settings)
    if cluster is not None:
        _check(ours, cluster, output)
    elif as_manifests:
        out.document(manifests.manifests(ours.values()))
    elif output == "table":
        headings = ("NAME", "CPU", "MEMORY", "OVERHEAD", "ROOT DISK", "FIRMWARE")
        out.table(headings, [_row(each) for each in ours.values()])
    else:
        out.data([_data(each) for each in ours.values()], output)


def offered(settings: Settings) -> Mapping[str, MachineClass]:
    """The classes that a daemon with these settings offers."""
    if settings.machine_classes:
        return files.load(settings.machine_classes)
    paths = StatePaths(settings.state_dir)
    if paths.database.exists():
        with Reader.open(paths) as reader:
            kept = ladder.frozen(reader.meta(ladder.META_KEY))
        if kept is not None:
            return kept
    total = of_inventory(inventory.read(settings.sysfs, settings.procfs)).total
    return ladder.steps(total.cpus, total.memory_bytes)


def _check(ours: Mapping[str, MachineClass], cluster: TextIO, output: str) -> None:
    try:
        text = cluster.read()
    except UnicodeDecodeError:
        raise click.ClickException(f"{cluster.name}: not UTF-8 text") from None
    found = manifests.compare(ours, files.parse(text, cluster.name, of_cluster=True))
    if output == "table":
        for each in found:
            out.say(f"{'DROPPED' if each.dropped else 'ok':8}{each.name} {each.words}")
    else:
        out.data([{"name": each.name, "dropped": each.dropped, "finding": each.words} for each in found], output)
    if dropped := sum(each.dropped for each in found):
        raise click.ClickException(f"the poollet drops {dropped} of {len(ours)} classes without a word")


def _row(each: MachineClass) -> tuple[str, ...]:
    overhead = claims.memory_of(each) - each.memory_bytes
    sizes = (each.memory_bytes, overhead, each.policy.root_disk_bytes)
    return (each.name, manifests.cpu_text(each.cpu_millis), *map(byte_words, sizes), each.policy.firmware)


def _data(each: MachineClass) -> dict[str, Any]:
    return {
        "name": each.name,
        "cpu_millis": each.cpu_millis,
        "memory_bytes": each.memory_bytes,
        "memory_overhead_bytes": claims.memory_of(each) - each.memory_bytes,
        "root_disk_bytes": each.policy.root_disk_bytes,
        "firmware": each.policy.firmware,
    }
