"""What libvirt's capability documents say about this host's QEMU. Pure parsers: text in, plain data out.

Which of the offered things a machine gets does not belong here (domain/profile.py chooses).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lxml import etree

from sri_libvirt.errors import HypervisorError

ALIAS = "q35"
"""The machine alias that new machines are made of."""


@dataclass(frozen=True, slots=True)
class Host:
    """`<capabilities>`: `domain_types`, `machine_types` and `machine_type` of guests of the host's own architecture.

    `machine_type` is what `q35` stands for, "" if this QEMU has no q35. `qemu_user` is the number of the user as whom
    QEMU runs, None where libvirt does not say.
    """

    architecture: str
    domain_types: frozenset[str]
    machine_type: str
    machine_types: frozenset[str]
    qemu_user: int | None = None


@dataclass(frozen=True, slots=True)
class Domain:
    """`<domainCapabilities>` of one domain type: CPU modes that are supported, named CPU models that are usable."""

    emulator: str
    cpu_modes: frozenset[str]
    cpu_models: frozenset[str]


def parse_host(xml: str) -> Host:
    """Read `virConnectGetCapabilities`. Raises HypervisorError when there is no QEMU of the host's architecture."""
    root = _parse(xml)
    architecture = root.findtext("host/cpu/arch") or ""
    hvm = [guest for guest in root.iterfind("guest") if guest.findtext("os_type") == "hvm"]
    arch = next((found for guest in hvm for found in guest.iterfind("arch") if found.get("name") == architecture), None)
    if arch is None:
        raise HypervisorError(
            f"libvirt offers no virtual machines of this host's architecture {architecture}: "
            "is QEMU installed (Debian: qemu-system-x86)?"
        )
    # A machine type can stand below the architecture or, where it differs, below a domain type.
    machines = list(arch.iterfind(".//machine"))
    aliases = {machine.text: machine.get("canonical") for machine in machines if machine.get("canonical")}
    names = frozenset(machine.text for machine in machines if machine.text and not machine.get("canonical"))
    return Host(
        architecture=architecture,
        domain_types=frozenset(domain.get("type", "") for domain in arch.iterfind("domain")),
        machine_type=aliases.get(ALIAS) or "",
        machine_types=names | frozenset(name for name in aliases.values() if name),
        qemu_user=_qemu_user(root),
    )


def parse_domain(xml: str) -> Domain:
    """Read `virConnectGetDomainCapabilities`."""
    root = _parse(xml)
    modes = [mode for mode in root.iterfind("cpu/mode") if mode.get("supported") == "yes"]
    custom = [model for mode in modes if mode.get("name") == "custom" for model in mode.iterfind("model")]
    return Domain(
        emulator=root.findtext("path") or "",
        cpu_modes=frozenset(mode.get("name", "") for mode in modes),
        cpu_models=frozenset(model.text for model in custom if model.text and model.get("usable") == "yes"),
    )


def _qemu_user(root: etree._Element) -> int | None:
    """Of the label `+64055:+64055` that a guest gets by owner and group, unless it has one of its own."""
    labels = (
        model.findtext("baselabel", "") for model in root.iterfind("host/secmodel") if model.findtext("model") == "dac"
    )
    user = re.match(r"\+(\d+):", next(labels, ""))
    return int(user[1]) if user else None


def _parse(xml: str) -> etree._Element:
    """With a parser of its own: lxml replicates its default parser for each thread, but none that we make."""
    return etree.fromstring(xml.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
