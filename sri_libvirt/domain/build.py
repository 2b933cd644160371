"""build(): from a machine, its profile and its prepared devices to the domain spec. Pure; one small file per concern.

All that a guest can see comes from the profile and the attachment rows, so that neither an upgrade of the host nor
another template changes its hardware. XML does not belong here (that is `render.py` with the templates).
"""

from __future__ import annotations

from collections.abc import Sequence

from sri_libvirt.domain import cpu, disks, firmware, identity, kernel, layout, nics
from sri_libvirt.domain.spec import DomainSpec
from sri_libvirt.paths import MachinePaths
from sri_libvirt.records import Attachment, Machine, Profile

KIB = 1024


def build(
    machine: Machine,
    profile: Profile,
    attachments: Sequence[Attachment],
    *,
    paths: MachinePaths,
    instance: str,
    run: str,
) -> DomainSpec:
    """The spec of a domain with exactly these devices, all of them prepared and with a port of their own.

    `instance` is the store's, `run` the uuid of the run that the next start begins. Raises HypervisorError for a
    profile that a newer version made, ValueError for devices without a port or two on one.
    """
    _check_ports(attachments, profile.ports)
    return DomainSpec(
        marks=identity.marks(machine, instance, run),
        title=identity.title(machine),
        domain_type=profile.domain_type,
        emulator=profile.emulator,
        machine_type=profile.machine_type,
        cpu=cpu.build(profile),
        memory_kib=-(-profile.memory_bytes // KIB),
        firmware=firmware.build(profile, paths.nvram),
        kernel=kernel.build(profile, machine.image, paths),
        ignition=str(paths.ignition) if machine.spec.ignition_data and not machine.seeded else "",
        layout=layout.of(profile.layout, profile.ports),
        disks=disks.build(attachments),
        nics=nics.build(attachments),
        console_log=str(paths.console_log),
    )


def _check_ports(attachments: Sequence[Attachment], ports: int) -> None:
    taken: dict[int, str] = {}
    for row in attachments:
        if not 1 <= row.port <= ports or row.backing is None:
            raise ValueError(f"{row.kind} {row.name!r} is not prepared: port {row.port} of {ports}")
        if (other := taken.setdefault(row.port, row.alias)) != row.alias:
            raise ValueError(f"{row.alias} and {other} are both at port {row.port}")
