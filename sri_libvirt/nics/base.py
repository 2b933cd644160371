"""The contract of a NIC driver: from a NetworkInterface of the spec to what the guest's NIC is joined to.

The rules are those of `volumes/base.py`: `supports`, `validate` and `handle` are pure, `prepare` and `release`
idempotent, `prepare` raises `NotReady` when the network is not there yet, or cannot give the interface what its spec
says. `mac` is the interface's, which no driver chooses; `networks` is how a driver asks the hypervisor about libvirt's
networks. What `prepare` has had reserved for the interface `release` gives up, after the guest's device is gone, and
also where `prepare` never came to its end; `made` is what it has given, if it did. `then` is the interface of the same
name that comes after it, if one does: what that one has reserved as well may stay. Either raises `NotReady` of the code
`errors.UNDER_WAY` for slow work; such a driver has `busy_until(mac)`, pure: until when it is of no use to ask again, or
None where nothing is under way. `is_lost(mac)`, pure as well, says whether what was reserved is gone by somebody
else's doing: then `prepare` is asked again, also while a guest has the interface.
What of the host is on the guest's link is part of what a backend promises:

- a libvirt network is the operator's, and so is the host's place on it (its bridge has the addresses, the DHCP server
  and the firewall that the network's XML says; libvirt switches IPv6 off on a bridge without an IPv6 address); so is a
  bridge of the host that the operator's network map names;
- of any other backend nothing of the host may be there: no address, no answer, no route learned, not even a link-local
  one, from before the guest can send until its device is gone; whoever makes the device, so that the default of another
  program or of the kernel is never relied upon. The tap that an "isolated" backend names is down for that.

A tenant's message never chooses a bridge, a VLAN or a driver: the operator's network map does. What its entries may say
for a driver are the driver's `parameters`, of which it has one at most of those in `exclusive`; `bound(values)` is the
driver for one entry, whose `supports` nobody asks.
One that only the map can choose supports nothing by itself (`mapped.py`); one that no map may choose here says why in
`barred`. The map may have changed since an interface was prepared: it is released by the driver that has prepared it,
bound or not, so by what `made` says.

`attributes` of an interface are the tenant's words. A driver heeds those alone that the entry allows (`attributes.py`):
its `allow` names them. The MAC among them is the loop's to give, and so is the number of queues.

A driver may also have `claims(nic)`, as volume drivers may: what the interface takes of the host while it is attached;
it is not prepared while that does not fit. So will do the driver of virtual functions, whose backends are of a kind
`hostdev` of their own, with a claim of one `vf/<PF>` each.
A network interface without a network_id is never given to a driver: it waits for its id (contract G.13).
Third parties register under the entry point group `sri_libvirt.nics`: a callable without arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.hypervisor.networks import Networks


@dataclass(frozen=True, slots=True)
class Parameter:
    """What an entry of the network map may say for a driver. `read` makes its value of the text, or raises ValueError
    with a sentence. `many`: it is a list of those, whose value is a tuple.

    With `parts` it is a mapping of them, and `read` is given their values by name.
    """

    read: Callable[[Any], object]
    required: bool = False
    many: bool = False
    parts: Mapping[str, Parameter] | None = None


class NicDriver(Protocol):
    """One kind of network. Drivers that the network map can give parameters have `parameters` and `bound` as well."""

    name: str

    def supports(self, nic: pb.NetworkInterface) -> bool: ...

    def validate(self, nic: pb.NetworkInterface) -> None: ...

    def handle(self, machine_id: str, nic: pb.NetworkInterface) -> str: ...

    def prepare(self, machine_id: str, nic: pb.NetworkInterface, mac: str, networks: Networks) -> NicBackend: ...

    def release(
        self,
        machine_id: str,
        nic: pb.NetworkInterface,
        mac: str,
        networks: Networks,
        made: NicBackend | None = None,
        then: pb.NetworkInterface | None = None,
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the operator's network map: whose id matches the glob `network_id` is for this `driver`, which has
    the `parameters` in it."""

    network_id: str
    driver: NicDriver
    parameters: Mapping[str, Any]
