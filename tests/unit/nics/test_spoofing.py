"""Which network interfaces are filtered, and what their guests may say."""

from __future__ import annotations

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend, from_json, to_json
from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.hypervisor.networks import Network
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.nics.bridge import BridgeNics
from sri_libvirt.nics.network import NetworkNics

MAC = "52:54:00:00:00:01"
DRIVERS: list[NicDriver] = [NetworkNics(), BridgeNics(bridge="br0")]


def nic(*ips: str) -> pb.NetworkInterface:
    return pb.NetworkInterface(name="eth", network_id="lan", ips=ips)


def a_host(**network: object) -> FakeHypervisor:
    there = FakeHypervisor()
    there.networks["lan"] = FakeNetwork(**network)  # type: ignore[arg-type]
    return there


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda each: each.name)
@pytest.mark.parametrize(
    ("ips", "name"),
    [
        ((), "any"),
        (("10.0.0.7",), "ipv4"),
        (("10.0.0.7", "10.0.0.8"), "ipv4"),
        (("2001:db8::7",), "ipv6"),
        (("2001:db8::7", "10.0.0.7"), "ipv4-ipv6"),
        (("::ffff:10.0.0.7",), "ipv4"),
    ],
)
def test_each_is_filtered_by_its_own_addresses(driver: NicDriver, ips: tuple[str, ...], name: str) -> None:
    there = a_host()
    made = driver.prepare("id", nic(*ips), MAC, there.connect())
    assert made.filter == f"sri-libvirt-1-{name}"
    assert made.addresses == tuple(each.removeprefix("::ffff:") for each in ips)
    assert there.filters == {made.filter}
    assert from_json(to_json(made)) == made


def test_what_an_older_version_has_made_stays_as_it_is() -> None:
    old = '{"type": "NicBackend", "handle": "h", "kind": "network", "network": "lan"}'
    assert from_json(old) == NicBackend("h", "network", "lan", filter="", addresses=())


@pytest.mark.parametrize("driver", DRIVERS, ids=lambda each: each.name)
def test_the_map_alone_turns_it_off(driver: NicDriver) -> None:
    there = a_host()
    bound = driver.bound(({"network": "lan"} if driver.name == "network" else {}) | {"antispoof": False})  # type: ignore[attr-defined]
    made = bound.prepare("id", nic("10.0.0.7"), MAC, there.connect())
    assert (made.filter, made.addresses, there.filters) == ("", (), set())


def test_a_network_whose_guests_cannot_be_filtered_waits_until_the_map_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = a_host().connect()
    monkeypatch.setattr(connection, "network", lambda name: Network(name, active=True, switched=False))
    with pytest.raises(NotReady, match="cannot keep guests of the network") as caught:
        NetworkNics().prepare("id", nic(), MAC, connection)
    assert "antispoof: false" in caught.value.advice
    assert not NetworkNics().bound({"network": "lan", "antispoof": False}).prepare("id", nic(), MAC, connection).filter
