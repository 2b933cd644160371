"""What libvirt's XML says of a network."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_interface

import pytest

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor import network_xml, networks
from sri_libvirt.hypervisor.networks import Reservation, Subnet

MAC = "52:54:00:12:34:56"
NAT = """<network connections='1'>
  <name>lan</name><uuid>01c78c5e-6e5f-4a8a-8b7e-2a9c4a3b6b2d</uuid>
  <forward mode='nat'><nat><port start='1024' end='65535'/></nat></forward>
  <bridge name='virbr1' stp='on' delay='0'/>
  <ip family='ipv6' address='2001:db8::1' prefix='64'><dhcp><host id='0:1' name='x' ip='2001:db8::9'/></dhcp></ip>
  <ip address='10.0.0.1' netmask='255.255.255.0'><dhcp>
    <range start='10.0.0.100' end='10.0.0.200'/>
    <host mac='52:54:00:12:34:56' name='alpha' ip='10.0.0.7'/><host name='beta' ip='10.0.0.8'/>
    <host mac='52:54:00:AA:BB:CC' name='gamma'/>
  </dhcp></ip>
  <ip address='192.168.7.1' prefix='28'/>
</network>"""
BRIDGE = "<network><name>flat</name><forward mode='bridge'/><bridge name='br0'/></network>"
HELD = frozenset(
    {
        Reservation(MAC, IPv4Address("10.0.0.7"), "alpha"),
        Reservation("", IPv4Address("10.0.0.8"), "beta"),
        Reservation("0:1", IPv6Address("2001:db8::9"), "x"),
    }
)


def test_one_that_runs() -> None:
    found = network_xml.read(NAT, "")
    assert (found.name, found.active, found.forward, found.bridge) == ("lan", True, "nat", "virbr1")
    ranges = ((IPv4Address("10.0.0.100"), IPv4Address("10.0.0.200")),)
    assert found.subnets == (
        Subnet(ip_interface("2001:db8::1/64"), 0, serves=True),
        Subnet(ip_interface("10.0.0.1/24"), 1, serves=True, ranges=ranges),
        Subnet(ip_interface("192.168.7.1/28"), 2),
    )
    assert (found.reservations, found.kept) == (HELD, None)
    assert networks.subnet_of(found, IPv4Address("192.168.7.9")) == found.subnets[2]
    assert networks.subnet_of(found, IPv4Address("192.168.7.99")) is None


def test_one_that_does_not_run_holds_nothing_yet() -> None:
    found = network_xml.read("", NAT)
    assert (found.active, found.reservations, found.kept) == (False, frozenset(), HELD)


@pytest.mark.parametrize(("xml", "forward"), [(BRIDGE, "bridge"), ("<network><name>x</name></network>", "")])
def test_one_without_addresses(xml: str, forward: str) -> None:
    found = network_xml.read(xml, xml)
    assert (found.forward, found.subnets, found.kept) == (forward, (), frozenset())


def test_a_reservation_has_to_outlive_a_restart_of_its_network() -> None:
    without = NAT.replace("10.0.0.7", "10.0.0.6")
    address = IPv4Address("10.0.0.7")
    assert network_xml.read(NAT, "").has(MAC, address)
    assert network_xml.read(NAT, NAT).has(MAC, address)
    assert not network_xml.read(NAT, without).has(MAC, address)
    assert not network_xml.read(without, NAT).has(MAC, address)
    assert not network_xml.read(NAT, NAT).has("52:54:00:00:00:00", address)


@pytest.mark.parametrize("xml", ["", "<network", "<network><ip address='x'/></network>"])
def test_what_is_no_network(xml: str) -> None:
    with pytest.raises(HypervisorError, match="network XML from libvirt"):
        network_xml.read(xml, "")


def test_a_reservation_as_libvirt_takes_it() -> None:
    assert network_xml.host_xml(MAC, IPv4Address("10.0.0.7")) == f'<host mac="{MAC}" ip="10.0.0.7"/>'
    assert network_xml.host_xml("00:03", IPv6Address("2001:db8::7")) == '<host id="00:03" ip="2001:db8::7"/>'
