"""What tenants may say of their network interfaces, where the operator lets them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.nics import attributes
from sri_libvirt.nics.attributes import Attributes
from sri_libvirt.nics.registry import LinkAccess, NicRegistry

SAID = {"mac": "52:54:00:AB:CD:EF", "queues": "4", "vlan": "7", "bridge": "br-other", "driver": "user"}


def nic(said: Mapping[str, str], network_id: str = "lan") -> pb.NetworkInterface:
    return pb.NetworkInterface(name="eth", network_id=network_id, attributes=said)


@pytest.mark.parametrize(
    ("allowed", "found"),
    [
        ((), Attributes()),
        (("mac",), Attributes(mac="52:54:00:ab:cd:ef")),
        (("mac", "queues"), Attributes(mac="52:54:00:ab:cd:ef", queues=4)),
    ],
)
def test_what_is_not_allowed_is_not_looked_at(allowed: tuple[str, ...], found: Attributes) -> None:
    assert attributes.of(nic(SAID), allowed) == found
    assert attributes.of(nic({}), allowed) == Attributes()
    assert attributes.of(nic({"mac": "nonsense"} if "mac" not in allowed else {}), allowed) == Attributes()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("mac", "", "is no MAC address"),
        ("mac", "52:54:00:12:34", "is no MAC address"),
        ("mac", "52-54-00-12-34-56", "is no MAC address"),
        ("mac", "\u0665" * 2 + ":54:00:12:34:56", "is no MAC address"),
        ("mac", "01:00:5e:00:00:01", "no interface can have"),
        ("mac", "ff:ff:ff:ff:ff:ff", "no interface can have"),
        ("mac", "00:00:00:00:00:00", "no interface can have"),
        ("duid", "00:03", "is no DUID"),
        ("duid", "00:" * 131 + "00", "is no DUID"),
        ("duid", "00-03-00-01", "is no DUID"),
        ("queues", "0", "no number from 1 to 8"),
        ("queues", "9", "no number from 1 to 8"),
        ("queues", "many", "no number from 1 to 8"),
        ("queues", "\u0664", "no number from 1 to 8"),
    ],
)
def test_what_no_interface_can_have(name: str, value: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words) as caught:
        attributes.of(nic({name: value}), (name,))
    assert caught.value.field == f"attributes[{name}]"


def test_an_entry_of_the_map_allows_them(tmp_path: Path) -> None:
    (tmp_path / "map").write_text(
        """networks:
  - {network_id: "open", driver: network, network: lan, allow: [mac, queues]}
  - {network_id: "dark", driver: isolated, allow: [mac]}
  - {network_id: "shut", driver: network, network: lan}
"""
    )
    registry = NicRegistry.load([], LinkAccess(map=tmp_path / "map"))
    mac = SAID["mac"].lower()
    found = {each: registry.attributes(nic(SAID, each)) for each in ("open", "dark", "shut", "lan", "ovn://x")}
    assert found == {
        "open": Attributes(mac, 4),
        "dark": Attributes(mac),
        "shut": Attributes(),
        "lan": Attributes(),
        "ovn://x": Attributes(),
    }
    with pytest.raises(InvalidSpec, match="no MAC"):
        registry.select(nic({"mac": "x"}, "open")).validate(nic({"mac": "x"}, "open"))
    registry.select(nic({"mac": "x"}, "shut")).validate(nic({"mac": "x"}, "shut"))
