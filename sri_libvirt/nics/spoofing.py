"""Who a guest may say that it is: NICs with the filter that keeps it from lying, and the addresses that are its own.

What a filter stops is in `hypervisor/filter_rules.py`. Which drivers' NICs can be filtered does not belong here.
"""

from __future__ import annotations

from dataclasses import replace

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.hypervisor import filter_rules
from sri_libvirt.hypervisor.networks import Networks
from sri_libvirt.nics import addresses, map_values
from sri_libvirt.nics.base import Parameter

PARAMETER = Parameter(map_values.switch)
"""`antispoof` of the network map; what is not said is true."""


def guarded(backend: NicBackend, nic: pb.NetworkInterface, networks: Networks) -> NicBackend:
    """The same, filtered: with the addresses of `ips`, if it has any, and none else. Raises NotReady."""
    try:
        own = addresses.of(nic)
    except InvalidSpec as error:  # an earlier version has let it in
        raise NotReady(str(error), addresses.OTHER_ADVICE) from error
    name = filter_rules.name_of(each.version for each in own)
    networks.have_filter(name)
    return replace(backend, filter=name, addresses=tuple(str(each) for each in own))
