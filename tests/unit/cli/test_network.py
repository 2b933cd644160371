"""`sri-libvirt network check`: what an operator learns of a network id before a tenant meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sri_libvirt.cli.network import check
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from tests.unit.cli.conftest import Cli

MAP = """networks:
  - {network_id: "prod/*", driver: bridge, bridge: br-prod, vlan: 42}
  - {network_id: "flat/*", driver: network, network: lan}
  - network_id: "open/*"
    driver: bridge
    bridge: br-prod
    bandwidth: {average: 1Mi}
    allow: [mac, queues]
"""


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch) -> FakeHypervisor:
    there = FakeHypervisor()
    monkeypatch.setattr(check, "LibvirtHypervisor", lambda _uri: there)
    return there


@pytest.fixture
def ask(cli: Cli, tmp_path: Path, hypervisor: FakeHypervisor) -> Callable[..., tuple[int, dict[str, object]]]:
    """Asks about an id on a host with a map, a bridge and an old libvirt; status and answer."""
    (tmp_path / "networks.yaml").write_text(MAP)
    (tmp_path / "sys/class/net/br-prod/bridge").mkdir(parents=True)
    options = ("--network-map", str(tmp_path / "networks.yaml"), "--sysfs", str(tmp_path / "sys"), "-o", "json")

    def asked(*arguments: str) -> tuple[int, dict[str, object]]:
        result = cli("network", "check", *arguments, *options)
        return result.status, json.loads(result.out)

    return asked


Ask = Callable[..., tuple[int, dict[str, object]]]


def test_what_is_there(ask: Ask, hypervisor: FakeHypervisor) -> None:
    hypervisor.networks["lan"] = network = FakeNetwork()
    status, told = ask("flat/a", "--ip", "10.0.0.7")
    assert status == 0
    assert (told["driver"], told["entry"], told["parameters"]) == ("network", "flat/*", {"network": "lan"})
    assert (told["ready"], told["joined_to"], told["address"]) == (True, "lan", "10.0.0.7")
    assert told["filter"] == "sri-libvirt-1-ipv4"
    assert (network.reserved, hypervisor.filters) == ([], set()), "it only looks"


def test_what_would_wait_says_why(ask: Ask, hypervisor: FakeHypervisor) -> None:
    status, told = ask("prod/a")
    assert (status, told["driver"], told["ready"]) == (1, "bridge", False)
    assert told["parameters"] == {"bridge": "br-prod", "vlan": 42}
    assert "cannot put a guest into VLAN 42" in str(told["problem"])
    hypervisor.networks["lan"] = FakeNetwork(leased=[["52:54:00:00:00:09", "10.0.0.7"]])
    status, told = ask("lan", "--ip", "10.0.0.7")
    assert (status, told["code"], told["entry"]) == (1, "address-taken", None)
    status, told = ask("ovn://x")
    assert (status, told["driver"], told["handle"]) == (1, "unknown", None)


def test_what_of_its_attributes_is_heeded(ask: Ask) -> None:
    said = ("-a", "mac=52:54:00:AB:CD:EF", "-a", "vlan=7", "-a", "bridge=br-other")
    status, told = ask("open/a", *said)
    assert (status, told["attributes"], told["not_heeded"]) == (0, {"mac": "52:54:00:ab:cd:ef"}, ["bridge", "vlan"])
    assert told["parameters"] == {"bridge": "br-prod", "bandwidth": {"average": 1 << 20}, "allow": ["mac", "queues"]}
    _, told = ask("prod/a", *said)
    assert (told["attributes"], told["not_heeded"]) == ({}, ["bridge", "mac", "vlan"])


def test_in_words(cli: Cli, hypervisor: FakeHypervisor, tmp_path: Path) -> None:
    hypervisor.networks["lan"] = FakeNetwork()
    result = cli("network", "check", "network://lan", "--sysfs", str(tmp_path))
    assert result.status == 0
    assert "driver       network" in result.out
    assert "joined to    lan" in result.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lan", "--ip", "10.0.0"), "ips[0]"),
        (("network://a/b",), "network_id: names no libvirt network"),
        (("lan", "-a", "mac"), "'mac' is not KEY=VALUE"),
    ],
)
def test_what_is_wrong_in_itself(cli: Cli, hypervisor: FakeHypervisor, arguments: tuple[str, ...], words: str) -> None:
    result = cli("network", "check", *arguments)
    assert result.status == (2 if "-a" in arguments else 1)
    assert words in result.err
