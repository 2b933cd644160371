"""The operator's network map: which driver an id leads to, and all mistakes of a file at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import NicBackend
from sri_libvirt.errors import ConfigError, InvalidSpec, NotReady
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.hypervisor.networks import PlannedNetworks
from sri_libvirt.nics.registry import LinkAccess, NicRegistry

MAC = "52:54:00:00:00:01"
MAP = """
networks:
  - network_id: "ironcore-net://prod/*"
    driver: bridge
    bridge: br-prod
    vlan: 42
  - {network_id: "ironcore-net://*/[ab]?", driver: bridge, bridge: br0, isolated_ports: true}
  - {network_id: "ironcore-net://*", driver: network, network: lan}
  - {network_id: nobody, driver: isolated}
"""


def nic(network_id: str, *ips: str) -> pb.NetworkInterface:
    return pb.NetworkInterface(name="eth", network_id=network_id, ips=ips)


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    """A host with two bridges, and a card of which a bridge could be made."""
    for name in ("br-prod", "br0"):
        (tmp_path / "sys/class/net" / name / "bridge").mkdir(parents=True)
    (tmp_path / "sys/class/net/eth0").mkdir()
    return tmp_path / "sys"


@pytest.fixture
def load(tmp_path: Path, sysfs: Path) -> Callable[..., NicRegistry]:
    def made(text: str = MAP, version: int = 11_003_000) -> NicRegistry:
        file = tmp_path / "networks.yaml"
        file.write_text(text)
        return NicRegistry.load([], LinkAccess(map=file, sysfs=sysfs, libvirt_version=lambda: version))

    return made


Load = Callable[..., NicRegistry]


@pytest.mark.parametrize(
    ("network_id", "expected"),
    [
        ("ironcore-net://prod/a/b", NicBackend("", "bridge", bridge="br-prod", vlan=42)),
        ("ironcore-net://prod/", NicBackend("", "bridge", bridge="br-prod", vlan=42)),
        ("ironcore-net://test/a/b1", NicBackend("", "bridge", bridge="br0", isolated_port=True)),
        ("ironcore-net://test/x", NicBackend("", "network", network="lan")),
        ("lan", NicBackend("", "network", network="lan")),
        ("network://dmz", NicBackend("", "network", network="dmz")),
    ],
)
def test_the_first_entry_that_matches_the_whole_id_decides(load: Load, network_id: str, expected: NicBackend) -> None:
    registry = load()
    driver, asked = registry.select(nic(network_id)), nic(network_id)
    driver.validate(asked)
    made = driver.prepare("id", asked, MAC, PlannedNetworks())
    assert made.handle == driver.handle("id", asked) != driver.handle("other", asked)
    assert (made.kind, made.source, made.vlan, made.isolated_port) == (
        expected.kind,
        expected.source,
        expected.vlan,
        expected.isolated_port,
    )


def test_what_no_entry_matches_means_what_it_does_without_a_map(load: Load) -> None:
    registry = load()
    names = {each: registry.select(nic(each)).name for each in ("isolated", "nobody", "nobody2", "ovn://x")}
    assert names == {"isolated": "isolated", "nobody": "isolated", "nobody2": "network", "ovn://x": "unknown"}


def test_all_mistakes_at_once_each_with_its_line(load: Load) -> None:
    text = """networks:
  - {network_id: "a*", driver: ovn}
  - {driver: bridge, bridge: br0}
  - {network_id: "[a", driver: bridge}
  - network_id: b
    driver: bridge
    bridge: a/b
    vlan: 4095
    isolated_ports: maybe
    mtu: 9000
  - {network_id: 7, driver: isolated, network: lan}
  - {network_id: c, driver: network, network: a/b}
  - nonsense
  - {network_id: d, driver: user}
  - network_id: e
    driver: ovs
    bridge: ovs0
    trunk: [7, 0]
    vlan: 8
    bandwidth: {average: 1k, bursts: 1Mi}
    allow: [mac, vlan]
  - {network_id: f, driver: direct, device: eth1, mode: passthrough, bandwidth: {peak: 1Mi}}
  - {network_id: g, driver: direct, device: eth1, bandwidth: fast, allow: mac}
more: 1
"""
    with pytest.raises(ConfigError) as caught:
        load(text)
    told = str(caught.value).splitlines()
    assert told[0].endswith("networks.yaml: 23 mistake(s)")
    expected = [
        ("2", "there is no driver 'ovn'; there are bridge, direct, isolated, network, ovs, tap, user"),
        ("3", "network_id is missing"),
        ("4", "bridge is missing"),
        ("4", "'[a' has a '[' without its ']'"),
        ("7", "'a/b' is no name of a network device"),
        ("8", "'4095' is no VLAN"),
        ("9", "'maybe' is neither true nor false"),
        ("10", "unknown key 'mtu' of an entry for bridge; known are allow, antispoof, bandwidth, bridge"),
        ("11", "network_id must be a string"),
        ("11", "unknown key 'network' of an entry for isolated"),
        ("12", "'a/b' is no name of a libvirt network"),
        ("13", "an entry must be a mapping"),
        ("14", "user networking lets guests reach this host's loopback: --allow-user-net allows it"),
        ("15", "only one of vlan, trunk may be there"),
        ("18", "'0' is no VLAN"),
        ("20", "unknown key 'bursts' in bandwidth; known are average, burst, peak"),
        ("20", "'1k' is not from 1Ki to"),
        ("21", "'vlan' is no attribute that may be set here; there are mac, queues"),
        ("22", "'passthrough' is none of bridge, private, vepa"),
        ("22", "average of bandwidth is missing"),
        ("23", "bandwidth must be a mapping"),
        ("23", "allow must be a list"),
        ("24", "unknown key 'more'"),
    ]
    for line, words in expected:
        assert any(each.strip().startswith(f"line {line}: ") and words in each for each in told[1:]), (line, words)


@pytest.mark.parametrize("text", ["", "networks:\n", "networks: []\n", "---\n"])
def test_a_map_may_be_empty(load: Load, text: str) -> None:
    assert load(text).entry("ironcore-net://prod/a") is None


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"network map .*No such file"):
        NicRegistry.load([], LinkAccess(map=tmp_path / "missing.yaml"))


@pytest.mark.parametrize("bridge", ["br1", "eth0"])
def test_a_bridge_that_is_not_there(load: Load, sysfs: Path, bridge: str) -> None:
    driver = load(f"networks: [{{network_id: a, driver: bridge, bridge: {bridge}}}]").select(nic("a"))
    with pytest.raises(NotReady, match=f"there is no bridge .{bridge}. on this host"):
        driver.prepare("id", nic("a"), MAC, PlannedNetworks())
    (sysfs / "class/net" / bridge / "bridge").mkdir(parents=True)
    assert driver.prepare("id", nic("a"), MAC, PlannedNetworks()).source == bridge


@pytest.mark.parametrize(
    ("version", "refused"), [(9_000_000, True), (10_010_000, True), (11_000_000, False), (0, False)]
)
def test_a_vlan_needs_a_libvirt_that_knows_it(load: Load, version: int, refused: bool) -> None:
    asked = nic("ironcore-net://prod/a")
    driver = load(version=version).select(asked)
    if not refused:
        assert driver.prepare("id", asked, MAC, PlannedNetworks()).vlan == 42
        return
    with pytest.raises(NotReady, match=r"cannot put a guest into VLAN 42 of a Linux bridge") as caught:
        driver.prepare("id", asked, MAC, PlannedNetworks())
    assert "in this VLAN alone" in caught.value.advice
    assert "Open vSwitch" in caught.value.advice


def test_what_was_prepared_is_released_where_it_was_though_the_map_leads_elsewhere_now(load: Load) -> None:
    there = FakeHypervisor()
    there.networks["lan"] = network = FakeNetwork()
    asked = nic("ironcore-net://test/x", "10.0.0.7")
    made = load().select(asked).prepare("id", asked, MAC, there.connect())
    made = NicBackend(made.handle, made.kind, made.network, address=made.address, driver="network")
    assert network.reserved == [[MAC, "10.0.0.7"]]
    now = load("networks: [{network_id: '*', driver: bridge, bridge: br0}]")
    assert now.select(asked).name == "bridge"
    now.of(asked, made).release("id", asked, MAC, there.connect(), made)
    assert network.reserved == []


def test_a_driver_that_is_not_installed_any_more(load: Load) -> None:
    registry = load()
    with pytest.raises(InvalidSpec, match="gone is not installed any more"):
        registry.of(nic("lan"), NicBackend("h", "network", "lan", driver="gone"))
    assert registry.of(nic("lan"), NicBackend("h", "network", "lan")).name == "network", "of an earlier version"
    assert registry.of(nic("lan"), None).name == "network"
