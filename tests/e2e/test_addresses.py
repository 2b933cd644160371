"""Addresses of the spec on real networks: a guest gets the one that it was given, and no other; nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, asked, spec, wait_for

pytestmark = pytest.mark.e2e

ADDRESS = "10.99.71.57"


@pytest.fixture(params=["open", "nat", "isolated"])
def lan(private_libvirt: PrivateLibvirt, request: pytest.FixtureRequest) -> Iterator[str]:
    private_libvirt.network("lan", request.param, kept=True)
    yield "lan"
    private_libvirt.remove_network("lan")


def wished(image: Path, *ips: str, name: str = "m") -> pb.MachineSpec:
    wish = spec(image=image)
    wish.network_interfaces.add(name="eth", network_id="lan", ips=ips)
    return wish


def seen(private: PrivateLibvirt) -> tuple[list[str], list[str]]:
    """The addresses that the network keeps, and those that it has leased."""
    connection = libvirt.open(private.uri)
    try:
        network = connection.networkLookupByName("lan")
        texts = {network.XMLDesc(0), network.XMLDesc(libvirt.VIR_NETWORK_XML_INACTIVE)}
        held = {line.strip() for text in texts for line in text.splitlines() if "<host " in line}
        return sorted(held), sorted(each["ipaddr"] for each in network.DHCPLeases())
    finally:
        connection.close()


def test_a_guest_gets_its_address_and_the_next_one_when_it_is_gone(
    provider: Provider, tiny_image: Path, lan: str
) -> None:
    provider.start("--firmware", "bios")
    wish = wished(tiny_image, "2001:db8::7", ADDRESS)
    first = provider.create(wish).metadata.id
    provider.wait_console(first, f"nic eth0 ip={ADDRESS}")
    assert len(seen(provider.libvirt)[0]) == 1
    wait_for("libvirt to be told of the lease", lambda: seen(provider.libvirt)[1] == [ADDRESS])  # after the guest is
    second = provider.create(wish).metadata.id
    wait_for("the reason", lambda: "address-taken" in provider.reasons(second))
    assert f"{ADDRESS} is that of machine {first}" in provider.why(second)
    provider.delete(first)
    provider.wait_console(second, f"nic eth0 ip={ADDRESS}")
    provider.delete(second)
    wait_for("nothing left", lambda: seen(provider.libvirt) == ([], []))


def test_an_address_that_an_operator_has_given_away_is_kept_again_under_its_guest(
    provider: Provider, tiny_image: Path, lan: str
) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(wished(tiny_image, ADDRESS)).metadata.id
    provider.wait_console(machine_id, f"nic eth0 ip={ADDRESS}")
    (before,), _ = seen(provider.libvirt)
    connection = libvirt.open(provider.libvirt.uri)
    both = libvirt.VIR_NETWORK_UPDATE_AFFECT_LIVE | libvirt.VIR_NETWORK_UPDATE_AFFECT_CONFIG
    section, delete = libvirt.VIR_NETWORK_SECTION_IP_DHCP_HOST, libvirt.VIR_NETWORK_UPDATE_COMMAND_DELETE
    connection.networkLookupByName("lan").update(delete, section, 0, before, both)
    connection.close()
    assert seen(provider.libvirt)[0] == []
    provider.libvirt.kill()
    provider.libvirt.start()
    wait_for("the reservation", lambda: seen(provider.libvirt)[0] == [before])
    wait_for("no reason left", lambda: not provider.reasons(machine_id))
    provider.delete(machine_id)
    wait_for("nothing left", lambda: seen(provider.libvirt) == ([], []))


@pytest.mark.parametrize("kept", [True, False], ids=["stopped-and-started", "made-anew"])
def test_a_network_that_comes_back_gives_its_guests_the_same_addresses(
    provider: Provider, private_libvirt: PrivateLibvirt, tiny_image: Path, kept: bool
) -> None:
    private_libvirt.network("lan", kept=kept)
    try:
        provider.start("--firmware", "bios")
        machine_id = provider.create(wished(tiny_image, ADDRESS)).metadata.id
        provider.wait_console(machine_id, f"nic eth0 ip={ADDRESS}")
        private_libvirt.stop_network("lan")
        wait_for("the reason", lambda: provider.reasons(machine_id))
        private_libvirt.start_network("lan") if kept else private_libvirt.network("lan", kept=kept)
        provider.wait_console(machine_id, f"nic eth0 ip={ADDRESS}", count=2)
        wait_for("no reason left", lambda: not provider.reasons(machine_id))
        assert len(seen(private_libvirt)[0]) == 1
        provider.delete(machine_id)
        wait_for("nothing left", lambda: seen(private_libvirt) == ([], []))
    finally:
        private_libvirt.remove_network("lan")


def test_a_dhcp_server_that_was_killed_gives_the_same_address_when_libvirt_has_started_it_again(
    provider: Provider, private_libvirt: PrivateLibvirt, tiny_image: Path
) -> None:
    private_libvirt.network("lan", kept=True)
    try:
        provider.start("--firmware", "bios")
        machine_id = provider.create(wished(tiny_image, ADDRESS)).metadata.id
        provider.wait_console(machine_id, f"nic eth0 ip={ADDRESS}")
        pid = private_libvirt.run(["cat", "/run/libvirt/network/lan.pid"]).strip()
        private_libvirt.run(["kill", "-KILL", pid])
        wait_for("end of it", lambda: not Path("/proc", pid).exists())  # while it is there, it has the port
        private_libvirt.kill()
        private_libvirt.start()
        wait_for("another", lambda: private_libvirt.run(["cat", "/run/libvirt/network/lan.pid"]).strip() != pid)
        heard = asked(provider, machine_id, "udhcpc -f -q -n -i eth0 -t 10 -T 1 2>&1", 1)
        assert f"lease of {ADDRESS} obtained" in heard
        wait_for("no reason left", lambda: not provider.reasons(machine_id))  # it connects anew
        provider.delete(machine_id)
        wait_for("nothing left", lambda: seen(private_libvirt) == ([], []))
    finally:
        private_libvirt.remove_network("lan")


SIX = """<network><name>six</name><forward mode='open'/><bridge name='br-six' stp='off' delay='0'/>
<ip family='ipv6' address='2001:db8:71::1' prefix='64'>
<dhcp><range start='2001:db8:71::100' end='2001:db8:71::1ff'/></dhcp></ip></network>"""


def test_an_ipv6_address_is_kept_for_the_guests_duid(provider: Provider, tiny_image: Path) -> None:
    private, duid, networks = provider.libvirt, "00:03:00:01:52:54:00:ab:cd:ef", provider.root / "networks.yaml"
    networks.write_text("networks: [{network_id: six, driver: network, network: six, allow: [duid]}]")
    connection = libvirt.open(private.uri)
    network = connection.networkDefineXML(SIX)
    network.create()
    try:
        provider.start("--firmware", "bios", "--network-map", str(networks))
        wish = spec(image=tiny_image)
        wish.network_interfaces.add(
            name="eth", network_id="six", ips=["2001:db8:71::7"], attributes={"duid": duid.upper()}
        )
        machine_id = provider.create(wish).metadata.id
        provider.wait_console(machine_id, "tiny: up")
        for flag in (0, libvirt.VIR_NETWORK_XML_INACTIVE):
            assert f"<host id='{duid}' ip='2001:db8:71::7'/>" in network.XMLDesc(flag)
        provider.delete(machine_id)
        wait_for("end of the machine", lambda: provider.get(machine_id) is None)
        for flag in (0, libvirt.VIR_NETWORK_XML_INACTIVE):
            assert "<host " not in network.XMLDesc(flag)
    finally:
        network.destroy()
        network.undefine()
        connection.close()
