"""The contract of a NIC driver: from a NetworkInterface of the spec to what the guest's NIC is joined to.

The rules are those of `volumes/base.py`: `supports`, `validate` and `handle` are pure, `prepare` and `release`
idempotent, `prepare` raises `NotReady` when the network is not there yet. `network_active` is how a driver asks the
hypervisor whether a libvirt network runs: True, False, or None when there is none of that name.
What of the host is on the guest's link is part of what a backend promises:

- a libvirt network is the operator's, and so is the host's place on it (its bridge has the addresses, the DHCP server
  and the firewall that the network's XML says; libvirt switches IPv6 off on a bridge without an IPv6 address);
- of any other backend nothing of the host may be there: no address, no answer, no route learned, not even a link-local
  one, from before the guest can send until its device is gone; whoever makes the device, so that the default of another
  program or of the kernel is never relied upon. The tap that an "isolated" backend names is down for that.

A driver may also have `claims(nic)`, as volume drivers may: what the interface takes of the host while it is attached
(virtual functions, for one); it is not prepared while that does not fit.
A network interface without a network_id is never given to a driver: it waits for its id (contract G.13).
Third parties register under the entry point group `sri_libvirt.nics`: a callable without arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend

NetworkActive = Callable[[str], bool | None]


class NicDriver(Protocol):
    """One kind of network."""

    name: str

    def supports(self, nic: pb.NetworkInterface) -> bool: ...

    def validate(self, nic: pb.NetworkInterface) -> None: ...

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str: ...

    def prepare(self, machine_id: str, nic: pb.NetworkInterface, network_active: NetworkActive) -> NicBackend: ...

    def release(self, machine_id: str, nic: pb.NetworkInterface) -> None: ...
