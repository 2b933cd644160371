"""NICs: from prepared attachments to virtio NICs behind their root ports.

What a network is does not belong here.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from sri_libvirt.devices import NicBackend
from sri_libvirt.domain.spec import Nic
from sri_libvirt.hypervisor import filter_rules
from sri_libvirt.records import Attachment

_PARAMETERS = {4: filter_rules.IPV4, 6: filter_rules.IPV6}


def build(rows: Sequence[Attachment]) -> tuple[Nic, ...]:
    """The NICs among these attachments, in the order of their ports."""
    nics = [one(row) for row in rows if isinstance(row.backing, NicBackend)]
    return tuple(sorted(nics, key=lambda nic: nic.port))


def one(row: Attachment) -> Nic:
    """The NIC of one prepared attachment that has a port."""
    backend = row.backing
    assert isinstance(backend, NicBackend)
    return Nic(
        alias=row.alias,
        mac=row.mac,
        kind=backend.kind,
        source=backend.source,
        port=row.port,
        vlan=backend.vlan,
        isolated_port=backend.isolated_port,
        filter=backend.filter,
        parameters=_parameters(backend) if backend.filter else (),
        mode=backend.mode,
        trunk=backend.trunk,
        interface_id=backend.interface_id,
        mtu=backend.mtu,
        queues=backend.queues,
        bandwidth=backend.bandwidth,
    )


def _parameters(backend: NicBackend) -> tuple[tuple[str, str], ...]:
    return tuple((_PARAMETERS[ip_address(each).version], each) for each in backend.addresses)
