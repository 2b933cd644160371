"""`sri-libvirt render`: a machine's domain XML, of a file or of a machine in the store. Touches nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TextIO

import click

from sri_libvirt import printable
from sri_libvirt.capacity import classes, ladder
from sri_libvirt.cli import manifest, planned
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.reading import open_store
from sri_libvirt.config import Settings
from sri_libvirt.domain import ports
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.errors import FailedPrecondition
from sri_libvirt.hypervisor.base import Offer
from sri_libvirt.images.registry import ImageAccess
from sri_libvirt.nics.registry import LinkAccess
from sri_libvirt.paths import StatePaths
from sri_libvirt.reconcile.plugins import PluginTables
from sri_libvirt.records import Attachment
from sri_libvirt.views.find import find
from sri_libvirt.volumes.registry import HostAccess

NO_INSTANCE = "00000000-0000-0000-0000-000000000000"


@click.command()
@click.argument("machine", required=False)
@click.option("-f", "--file", "file", type=click.File(encoding="utf-8"), help="Machine in srictl's form; - is stdin.")
@click.option("--libvirt-uri", default=None, metavar="URI", help="Ask this libvirt what it can give; else offline.")
@settings_options(
    *("state_dir", "template_dir", "schema_dir", "machine_classes", "network_map", "image_dir", "firmware"),
    *("domain_type", "pcie_ports"),
)
def render(machine: str | None, file: TextIO | None, libvirt_uri: str | None, settings: Settings) -> None:
    """Print the domain XML of a machine; touches nothing.

    Either of a file (-f), as it would be created, or of a MACHINE in the store, as it would be defined now.
    """
    if (machine is None) == (file is None):
        raise click.UsageError("give either -f FILE or a MACHINE")
    notes: list[str] = []
    if file is not None:
        xml = _of_file(file, libvirt_uri, settings, notes)
    else:
        assert machine is not None
        xml = _of_store(machine, settings, notes)
    out.document(printable.xml_comment(*notes))
    out.document(printable.xml_text(xml))


def _of_file(file: TextIO, libvirt_uri: str | None, settings: Settings, notes: list[str]) -> str:
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise click.ClickException(f"{file.name}: not UTF-8 text") from None
    message = manifest.machine(text, file.name, out.warn)
    known = classes.load(settings.machine_classes) if settings.machine_classes else ladder.steps()
    offer = _offer(libvirt_uri, notes) if libvirt_uri else planned.OFFLINE
    access = HostAccess.of(settings, NO_INSTANCE, lambda: offer.libvirt_version)
    plugins = PluginTables(ImageAccess(settings.image_dirs), access, LinkAccess(map=settings.network_map))
    machine = planned.machine_of(message, known, plugins)
    profile = planned.profile_of(machine.machine_class, offer, settings)
    asked = (
        f"as {libvirt_uri} offers"
        if libvirt_uri
        else "offline, so these are assumed (give a libvirt URI to ask a host)"
    )
    notes.append(f"machine type {profile.machine_type}, {profile.domain_type}, {profile.firmware}: {asked}")
    machine = replace(machine, profile=profile)
    paths = StatePaths(settings.state_dir).machine(machine.id)
    rows = planned.devices_of(machine, profile.ports, paths, plugins, notes.append)
    return DomainCompiler(NO_INSTANCE, settings.template_dir, settings.schema_dir).domain_xml(machine, rows, paths, "")


def _of_store(word: str, settings: Settings, notes: list[str]) -> str:
    with open_store(settings) as reader:
        machine, instance = find(reader, word), reader.instance
    if machine.profile is None:
        raise FailedPrecondition(
            f"the hardware of machine {machine.id} is not chosen yet (that is done at its first start); "
            f"see: sri-libvirt machine why {machine.id}"
        )
    rows = ports.in_domain(machine.attachments)
    notes.append(f"machine {machine.id} with its stored hardware and devices, run {machine.run.uuid or 'none yet'}")
    notes.extend(_left_out(machine.attachments, machine.profile.ports))
    paths = StatePaths(settings.state_dir).machine(machine.id)
    compiler = DomainCompiler(instance, settings.template_dir, settings.schema_dir)
    return compiler.domain_xml(machine, rows, paths, machine.run.uuid)


def _left_out(rows: Sequence[Attachment], most_ports: int) -> list[str]:
    there = {row.key for row in ports.in_domain(rows)}
    return [
        f"{row.kind} {row.name} is left out: {planned.no_port(row) or row.problem or 'not prepared yet'}"
        for row in ports.placed(rows, most_ports)
        if row.wanted and row.key not in there
    ]


def _offer(uri: str, notes: list[str]) -> Offer:
    from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor  # only when a libvirt is asked

    connection = LibvirtHypervisor(uri).connect()
    try:
        offer = connection.offer()
    finally:
        connection.close()
    if "kvm" in offer.domain_types:
        notes.append("KVM is taken as libvirt advertises it; only the provider proves that it works")
    return offer
