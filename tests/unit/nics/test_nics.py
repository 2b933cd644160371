"""Network references: which driver, which network, and what is wrong in itself."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import from_json
from sri_libvirt.errors import ConfigError, InvalidSpec, NotReady
from sri_libvirt.hypervisor.fake import FakeHypervisor, FakeTaps
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.hypervisor.networks import PlannedNetworks
from sri_libvirt.nics.isolated import IsolatedNics, tap_name
from sri_libvirt.nics.network import NetworkNics
from sri_libvirt.nics.registry import GROUP, NicRegistry

REGISTRY = NicRegistry.load([])
MAC = "52:54:00:00:00:01"


def nic(network_id: str, name: str = "eth") -> pb.NetworkInterface:
    return pb.NetworkInterface(name=name, network_id=network_id)


@pytest.mark.parametrize(
    ("network_id", "driver"),
    [("network://lan", "network"), ("lan", "network"), ("isolated", "isolated"), ("network://isolated", "network")],
)
def test_exactly_one_driver(network_id: str, driver: str) -> None:
    assert REGISTRY.select(nic(network_id)).name == driver


@pytest.mark.parametrize("network_id", ["ironcore-net://ns/name/id/uid", "http://x", "isolated://x"])
def test_an_id_that_nobody_takes_waits_for_the_network_map(network_id: str) -> None:
    driver = REGISTRY.select(nic(network_id))
    driver.validate(nic(network_id))
    assert driver.handle("id", nic(network_id)) == ""
    with pytest.raises(NotReady, match="nobody takes its network id .*" + network_id) as caught:
        driver.prepare("id", nic(network_id), MAC, PlannedNetworks())
    assert "--network-map" in caught.value.advice
    driver.release("id", nic(network_id), MAC, PlannedNetworks())


@pytest.mark.parametrize("network_id", ["network://", "network://a/b", "a/b", "a\nb"])
def test_what_no_network_can_be_called(network_id: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        REGISTRY.select(nic(network_id)).validate(nic(network_id))
    assert caught.value.field == "network_id"


@pytest.mark.parametrize(("active", "words"), [(None, "there is no"), (False, "is not running")])
def test_a_network_that_does_not_run(active: bool | None, words: str) -> None:
    there = FakeHypervisor()
    if active is not None:
        there.networks["lan"] = FakeNetwork(active=active)
    with pytest.raises(NotReady, match=f"{words}|libvirt network 'lan' {words}") as caught:
        NetworkNics().prepare("id", nic("network://lan"), MAC, there.connect())
    assert "virsh net-" in caught.value.advice


@pytest.mark.parametrize("network_id", ["network://lan", "lan"])
@pytest.mark.rule("R-G13-1")
def test_both_spellings_are_one_network(network_id: str) -> None:
    backend = NetworkNics().prepare("id", nic(network_id), MAC, PlannedNetworks())
    assert (backend.kind, backend.network) == ("network", "lan")
    assert backend.handle.startswith("network://lan/")


def test_a_broken_third_party_is_named() -> None:
    with pytest.raises(ConfigError, match="their-nic"):
        NicRegistry.load([EntryPoint(name="their-nic", value="no_such_module:x", group=GROUP)])


def test_a_link_without_peers_is_a_tap_that_is_made_and_removed() -> None:
    taps = FakeTaps()
    driver, asked = IsolatedNics(taps=taps), nic("isolated")
    backend = driver.prepare("id", asked, MAC, PlannedNetworks())
    assert backend.device == tap_name("id", asked)
    assert taps == {backend.device}
    assert len(backend.device) == 15, "all that the kernel allows"
    assert len({tap_name("id", asked), tap_name("other", asked), tap_name("id", nic("isolated", "b"))}) == 3
    driver.release("id", asked, MAC, PlannedNetworks())
    assert not taps


def test_a_link_by_a_tap_of_libvirts_own_is_prepared_anew() -> None:
    assert from_json('{"type": "NicBackend", "handle": "h", "kind": "isolated", "network": ""}') is None
