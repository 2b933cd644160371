"""Addresses of the spec: which of them a network interface can have."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.nics import addresses


def nic(*ips: str) -> pb.NetworkInterface:
    return pb.NetworkInterface(name="eth", network_id="lan", ips=ips)


def test_all_in_their_order() -> None:
    given = ("2001:db8::7", "10.0.0.7", "10.0.0.6", "fe80::1")
    assert addresses.of(nic(*given)) == tuple(map(ip_address, given))
    assert addresses.of(nic()) == ()


@pytest.mark.parametrize(
    ("ips", "expected"),
    [((), None), (("2001:db8::7",), None), (("2001:db8::7", "10.0.0.7", "10.0.0.6"), "10.0.0.7"),
     (("::ffff:10.0.0.7",), "10.0.0.7")],
)  # fmt: skip
def test_dhcp_gives_the_first_of_ipv4(ips: tuple[str, ...], expected: str | None) -> None:
    found = addresses.by_dhcp(nic(*ips))
    assert found == (ip_address(expected) if expected else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no IP address"),
        ("10.0.0", "is no IP address"),
        ("10.0.0.7/24", "is no IP address"),
        ("010.0.0.7", "is no IP address"),
        ("fe80::1%eth0", "names an interface"),
        ("0.0.0.0", "no interface can have"),
        ("0.1.2.3", "no interface can have"),
        ("127.0.0.1", "no interface can have"),
        ("224.0.0.1", "no interface can have"),
        ("255.255.255.255", "no interface can have"),
        ("::", "no interface can have"),
        ("::1", "no interface can have"),
        ("ff02::1", "no interface can have"),
    ],
)
def test_what_no_interface_can_have(text: str, words: str) -> None:
    with pytest.raises(InvalidSpec, match=words) as caught:
        addresses.of(nic("10.0.0.7", text))
    assert caught.value.field == "ips[1]"


def test_one_that_is_there_twice() -> None:
    with pytest.raises(InvalidSpec, match="twice") as caught:
        addresses.of(nic("2001:db8::7", "2001:db8:0::7"))
    assert caught.value.field == "ips[1]"
