"""What an operator lets one fetch, and addresses that are nobody's to name."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.config import image_pattern
from sri_libvirt.images.reference import parse
from sri_libvirt.images.sources import ANY_REGISTRY, NOTHING, Sources, forbidden, forbidden_name

ALLOWED = [
    ("oci://*", "ghcr.io/org/image:v1"),
    ("oci://*", "localhost:5000/image"),
    ("oci://*", f"[::1]:5000/image@sha256:{'0' * 64}"),
    ("oci://ghcr.io", "ghcr.io/org/image"),
    ("oci://ghcr.io/*", "ghcr.io/org/image"),
    ("oci://ghcr.io/org/*", "ghcr.io/org/a/b:v1"),
    ("oci://ghcr.io/org/image", "ghcr.io/org/image:v1"),
    ("oci://*.example.org/*", "a.b.example.org/image"),
    ("oci://10.0.0.1:*/*", "10.0.0.1:5000/image"),
    ("oci://docker.io/library/*", "docker.io/library/debian"),
    ("https://example.org", "https://example.org/any/disk"),
    ("https://example.org/images/*", "https://example.org/images/a/disk?x=y"),
    ("https://*", "https://example.org:8443/disk"),
    ("http://example.org/*", "HTTP://example.org/disk"),
    ("https://example.org/disk-[0-9].raw", "https://example.org/disk-1.raw"),
]

NOT_ALLOWED = [
    ("none", "ghcr.io/org/image"),
    ("oci://ghcr.io/*", "ghcr.io.evil.org/image"),
    ("oci://ghcr.io/*", "evil.org/ghcr.io/image"),
    ("oci://ghcr.io/*", "ghcr.io:5000/image"),
    ("oci://ghcr.io:5000/*", "ghcr.io/image"),
    ("oci://ghcr.io/org/*", "ghcr.io/organisation/image"),
    ("oci://ghcr.io/org/*", "ghcr.io/org"),
    ("oci://ghcr.io/org/image", "ghcr.io/org/image-of-others"),
    ("oci://*.example.org/*", "example.org/image"),
    ("oci://*.example.org/*", "example.org.evil.org/image"),
    ("oci://*", "https://example.org/disk"),
    ("https://*", "http://example.org/disk"),
    ("https://*", "example.org/image"),
    ("https://example.org/images/*", "https://example.org/imagesx/disk"),
    ("https://example.org/images/*", "https://example.org/other?/images/disk"),
    ("https://example.org/*", "https://example.org.evil.org/disk"),
    ("http://example.org/*", "https://example.org/disk"),
    ("not a pattern", "ghcr.io/org/image"),
]


@pytest.mark.parametrize(("pattern", "image"), ALLOWED)
def test_what_a_pattern_is_of_may_be_fetched(pattern: str, image: str) -> None:
    assert image_pattern(pattern) == pattern
    assert Sources(("none", pattern)).allows(parse(image))


@pytest.mark.parametrize(("pattern", "image"), NOT_ALLOWED)
def test_what_no_pattern_is_of_may_not(pattern: str, image: str) -> None:
    assert not Sources((pattern, "oci://other.example.org/*")).allows(parse(image))


def test_by_default_any_registry_and_no_web_server_is_asked() -> None:
    assert Sources().patterns == (ANY_REGISTRY,)
    assert Sources().allows(parse("ghcr.io/org/image"))
    assert not Sources().allows(parse("https://example.org/disk"))


def test_patterns_are_shown_as_they_were_given() -> None:
    assert Sources(("oci://a.b/*", "https://c.d")).words() == "oci://a.b/*, https://c.d"
    assert Sources((NOTHING,)).words() == Sources(()).words() == "none"


@pytest.mark.parametrize(
    ("patterns", "host", "named"),
    [
        (("oci://*",), "localhost:5000", False),
        (("oci://localhost:*/*",), "localhost:5000", False),
        (("oci://127.*/*",), "127.0.0.1", False),
        (("oci://localhost:5000/*",), "localhost:5000", True),
        (("oci://localhost:5000/*",), "localhost:5001", False),
        (("oci://localhost:5000/*",), "localhost", False),
        (("oci://localhost/*",), "localhost:5000", True),
        (("oci://LocalHost",), "localHOST", True),
        (("none", "https://127.0.0.1/images/*"), "127.0.0.1:443", True),
        (("oci://[::1]:5000/*",), "[::1]:5000", False),
        (("none",), "none", False),
    ],
)
def test_only_a_pattern_of_this_very_host_names_it(patterns: tuple[str, ...], host: str, named: bool) -> None:
    assert Sources(patterns).names(host) == named


FORBIDDEN = [
    ("127.0.0.1", "a loopback address"),
    ("127.255.255.254", "a loopback address"),
    ("::1", "a loopback address"),
    ("::ffff:127.0.0.1", "a loopback address"),
    ("2002:7f00:1::", "a loopback address"),
    ("2002:7f00:1:1:2:3:4:5", "a loopback address"),
    ("169.254.169.254", "a link-local address"),
    ("169.254.0.1", "a link-local address"),
    ("::ffff:169.254.169.254", "a link-local address"),
    ("2002:a9fe:a9fe::", "a link-local address"),
    ("fe80::1", "a link-local address"),
    ("fe80::1%eth0", "a link-local address"),
    ("fd00:ec2::254", "the address of a cloud's metadata service"),
    ("100.100.100.200", "the address of a cloud's metadata service"),
    ("::ffff:100.100.100.200", "the address of a cloud's metadata service"),
    ("168.63.129.16", "the address of a cloud's metadata service"),
    ("0.0.0.0", "no address of a host"),
    ("::", "no address of a host"),
    ("::ffff:0.0.0.0", "no address of a host"),
    ("224.0.0.1", "a multicast address"),
    ("ff02::1", "a multicast address"),
    ("::ffff:224.0.0.1", "a multicast address"),
    ("255.255.255.255", "a reserved address"),
    ("240.0.0.1", "a reserved address"),
]
GOOD = ["10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "8.8.8.8", "2001:db8::1", "fd00::1", "::ffff:8.8.8.8"]


@pytest.mark.parametrize(("address", "words"), FORBIDDEN)
def test_addresses_of_this_host_and_of_nobody_are_forbidden(address: str, words: str) -> None:
    assert forbidden(address) == words


@pytest.mark.parametrize("address", GOOD)
def test_others_are_not_those_of_a_datacentre_least_of_all(address: str) -> None:
    assert forbidden(address) == ""


@pytest.mark.parametrize("address", ["64:ff9b::a9fe:a9fe", "64:ff9b::6464:64c8"])
def test_addresses_that_stand_for_such_of_ipv4_are_forbidden(address: str) -> None:
    assert forbidden(address)


@given(st.ip_addresses(v=4))
def test_an_address_is_the_same_however_ipv6_writes_it(address: ipaddress.IPv4Address) -> None:
    assert forbidden(f"::ffff:{address}") == forbidden(str(address))


@given(st.ip_addresses())
def test_of_every_address_something_is_known(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert bool(forbidden(str(address))) >= (address.is_loopback or address.is_link_local or address.is_unspecified)


@pytest.mark.parametrize(
    "name",
    [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "0x7f.1",
        "0X7F.0.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0127.0.0.1",
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "0",
        "::1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[fd00:ec2::254]",
        "localhost",
        "LOCALHOST.",
        "any.thing.localhost",
        "localhost.localdomain",
        "localhost6.localdomain6",
        "ip6-loopback",
    ],
)
def test_a_name_tells_what_one_must_not_be_sent_to_in_every_form_that_is_resolved(name: str) -> None:
    assert forbidden_name(name)


@pytest.mark.parametrize(
    "name", ["ghcr.io", "10.0.0.1", "[2001:db8::1]", "localhost.example.org", "mylocalhost", "a", ""]
)
def test_other_names_are_whoever_resolves_them_to_judge(name: str) -> None:
    assert forbidden_name(name) == ""


@given(st.ip_addresses())
def test_a_name_that_is_an_address_is_judged_as_that(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    assert forbidden_name(str(address)) == forbidden(str(address))
