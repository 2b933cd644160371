"""Hot-plug of a network interface with an address, through the provider and with the bare calls: what its reservation
and its filter cost, on a network whose reservations are quick to change and on one with firewall rules of libvirt's.

The guest is the tests' tiny one. Disks do not belong here (`plugs.py`).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

import libvirt

from bench.client import Provider, milliseconds, until
from bench.plugs import boot
from bench.table import Figure, Report, median
from bench.world import ASK_EVERY, World
from sri_libvirt import names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.base import EventKind

NETWORKS = {"open": 81, "nat": 82}
"""Forward modes, each with the number of its subnet."""


@dataclass
class Times:
    """Milliseconds of each round: through the provider, and the bare calls with the filter and without."""

    attach: list[float] = field(default_factory=list)
    filtered: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    reserve: list[float] = field(default_factory=list)


def measure(world: World, report: Report, rounds: int) -> None:
    """All of it; what was waited for in vain is told of, and the other figures stand."""
    machine_id = boot(world)
    for forward, subnet in NETWORKS.items():
        world.private.network(forward, forward, subnet, kept=True)
        try:
            _network(world, report, machine_id, forward, rounds)
        except (RuntimeError, libvirt.libvirtError) as error:
            report.missing[f"attach of a network interface ({forward})"] = str(error)
    world.served.delete(machine_id)
    until("the guest gone", lambda: world.served.find(machine_id) is None, 0.05)
    for forward in NETWORKS:
        world.private.remove_network(forward)


def _network(world: World, report: Report, machine_id: str, forward: str, rounds: int) -> None:
    times = Times()
    for number in range(rounds):
        _round(world, machine_id, forward, f"{forward}{number}", times)
    attach, filtered, plain, reserve = map(median, (times.attach, times.filtered, times.plain, times.reserve))
    report.figures.append(
        Figure(
            name=f"attach of a network interface to ATTACHED, over the bare calls ({forward})",
            unit="ms more",
            value=attach - filtered - reserve,
            alternative="ms for the reservation and the bare call with the same XML",
            alternative_value=filtered + reserve,
            on="libvirt",
            note=f"{attach:.0f} ms, of which the reservation {reserve:.0f} ms and the bare call {filtered:.0f} ms "
            f"({plain:.0f} ms without its filter); medians of {rounds}",
        )
    )


def _round(world: World, machine_id: str, forward: str, name: str, times: Times) -> None:
    """An interface in and out through the provider, then the same by the bare calls."""
    served, domain = world.served, world.connection.lookupByUUIDString(machine_id)
    address = f"10.99.{NETWORKS[forward]}.7"
    nic = pb.NetworkInterface(name=name, network_id=f"network://{forward}", ips=[address])
    begun = time.perf_counter()
    served.stub.AttachNetworkInterface(pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic))
    until("it attached", lambda: _nics(served, machine_id).get(name) == pb.NETWORK_INTERFACE_ATTACHED, ASK_EVERY)
    times.attach.append((time.perf_counter() - begun) * 1000)
    alias = names.alias("nic", name, 1)
    xml = _interface(domain, alias)
    world.watch.forget()
    served.stub.DetachNetworkInterface(pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=name))
    world.watch.wait(machine_id, EventKind.DEVICE_REMOVED, alias)
    until("it gone", lambda: name not in _nics(served, machine_id), ASK_EVERY)
    other = alias.replace("ua-nic-", "ua-bare-")
    bare = re.sub(r"<target [^>]*/>", "", xml.replace(alias, other))
    for kept, text in (
        (times.filtered, bare),
        (times.plain, re.sub(r"<filterref.*</filterref>", "", bare, flags=re.S)),
    ):
        kept.append(_plug(world, machine_id, domain, text, other))
    host = f"<host mac='{re.search(r'<mac address=.([0-9a-f:]+)', xml)[1]}' ip='{address}'/>"  # type: ignore[index]
    network = world.connection.networkLookupByName(forward)
    both = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    add, remove = libvirt.VIR_NETWORK_UPDATE_COMMAND_ADD_LAST, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
    section = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST
    times.reserve.append(milliseconds(lambda: network.update(add, section, 0, host, both)))
    network.update(remove, section, 0, host, both)


def _plug(world: World, machine_id: str, domain: libvirt.virDomain, xml: str, alias: str) -> float:
    took = milliseconds(lambda: domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE))
    world.watch.forget()
    domain.detachDeviceAlias(alias, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    world.watch.wait(machine_id, EventKind.DEVICE_REMOVED, alias)
    return took


def _nics(served: Provider, machine_id: str) -> dict[str, int]:
    machine = served.find(machine_id)
    return {nic.name: nic.state for nic in machine.status.network_interfaces} if machine else {}


def _interface(domain: libvirt.virDomain, alias: str) -> str:
    """The live XML of the interface with this alias."""
    xml: str = domain.XMLDesc(0)
    parts = [f"<interface{part.partition('</interface>')[0]}</interface>" for part in xml.split("<interface")[1:]]
    return next(part for part in parts if alias in part)
