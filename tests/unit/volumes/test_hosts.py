"""`host:port` by the rules of Go's net.SplitHostPort, and what nobody can be connected to."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.devices import DiskHost
from sri_libvirt.volumes import hosts


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("localhost:http", "localhost", "http"),
        ("localhost:80", "localhost", "80"),
        ("localhost%lo0:80", "localhost%lo0", "80"),
        ("[::1]:80", "::1", "80"),
        ("[localhost%lo0]:80", "localhost%lo0", "80"),
        ("[localhost]:80", "localhost", "80"),
        ("127.0.0.1:", "127.0.0.1", ""),
        (":80", "", "80"),
        (":", "", ""),
        ("[::1%lo0]:", "::1%lo0", ""),
        ("[::]:80", "::", "80"),
    ],
)
def test_what_go_splits(text: str, host: str, port: str) -> None:
    assert hosts.split(text) == (host, port)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "missing port"),
        ("golang.org", "missing port"),
        ("127.0.0.1", "missing port"),
        ("[::1]", "missing port"),
        ("[fe80::1%lo0]", "missing port"),
        ("::1", "too many colons"),
        ("fe80::1%lo0", "too many colons"),
        ("::1:80", "too many colons"),
        ("[::1]::80", "too many colons"),
        ("[foo:bar]baz:80", "missing port"),
        ("[foo:bar]", "missing port"),
        ("[foo:bar", "missing ']'"),
        ("[::1:80", "missing ']'"),
        ("[foo[bar]:80", "unexpected '['"),
        ("foo[bar]:80", "unexpected '['"),
        ("foo[bar:80", "unexpected '['"),
        ("foo]bar:80", "unexpected ']'"),
        ("[foo]bar:baz]", "missing port"),
    ],
)
def test_what_go_refuses(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        hosts.split(text)


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("10.0.0.1:6789", "10.0.0.1", 6789),
        ("[10.0.0.1]:6789", "10.0.0.1", 6789),
        ("Mon-1.Example.org:3300", "mon-1.example.org", 3300),
        ("mon.example.org.:1", "mon.example.org.", 1),
        ("3com:65535", "3com", 65535),
        ("[2001:DB8:0::1]:6789", "2001:db8::1", 6789),
    ],
)
def test_a_host(text: str, name: str, port: int) -> None:
    assert hosts.host(text) == DiskHost(name, port)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("target", DiskHost("target", 3260)),
        ("10.0.0.1", DiskHost("10.0.0.1", 3260)),
        ("[::1]", DiskHost("::1", 3260)),
        ("target:1", DiskHost("target", 1)),
        ("[::1]:1", DiskHost("::1", 1)),
    ],
)
def test_a_default_port(text: str, host: DiskHost) -> None:
    assert hosts.host(text, 3260) == host


@pytest.mark.parametrize("text", ["::1", "a:b:1", "", ":3260", "a:", "[::1]:x"])
def test_a_default_port_mends_nothing_else(text: str) -> None:
    with pytest.raises(ValueError):
        hosts.host(text, 3260)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (":6789", "empty"),
        ("[]:6789", "empty"),
        ("mon:", "the port"),
        ("mon:http", "the port"),
        ("mon:0", "the port"),
        ("mon:65536", "the port"),
        ("mon:-1", "the port"),
        ("mon:١", "the port"),
        ("[fe80::1%eth0]:1", "zone"),
        ("[1:2:3]:1", "no IPv6"),
        ("mon_1:1", "neither"),
        ("a b:1", "neither"),
        (" a:1", "neither"),
        ("-a:1", "neither"),
        ("a..b:1", "neither"),
        ("300.1.1.1:1", "neither"),
        ("1.2.3:1", "neither"),
        ("010.0.0.1:1", "neither"),
        ("0x7f:1", "neither"),
        ("1:1", "neither"),
        ("ä:1", "neither"),
        (f"{'a' * 64}:1", "neither"),
        (f"{'a.' * 127}b:1", "neither"),
        ("http://mon:1", "too many colons"),
        ("a/b:1", "neither"),
    ],
)
def test_what_nobody_can_be_connected_to(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        hosts.host(text)


def test_a_list_keeps_its_order() -> None:
    found = hosts.hosts("mon-b:2,[::1]:1,mon-a:3")
    assert [str(each) for each in found] == ["mon-b:2", "[::1]:1", "mon-a:3"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a:1,", "entry 2: missing port"),
        ("a:1,b", "entry 2: missing port"),
        ("a:1, b:2", "entry 2: the host is neither"),
        ("a:1;b:2", "too many colons"),
        (",".join(["a:1"] * 33), "33 entries"),
    ],
)
def test_lists_that_are_wrong(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        hosts.hosts(text)


names = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]([a-z0-9-]{0,20}[a-z0-9])?){0,3}", fullmatch=True)
addresses = st.ip_addresses().map(lambda each: each if each.version == 4 else ipaddress.IPv6Address(int(each)))
some_hosts = st.builds(DiskHost, st.one_of(names, addresses.map(str)), st.integers(1, 65535))


@given(st.lists(some_hosts, min_size=1, max_size=hosts.MOST_HOSTS))
def test_what_is_written_is_read_again(given_hosts: list[DiskHost]) -> None:
    assert list(hosts.hosts(",".join(map(str, given_hosts)))) == given_hosts


@given(st.text(alphabet="ab1.:[]%,-\n 0", max_size=30))
def test_whatever_is_read_is_a_host_that_libvirt_can_be_told(text: str) -> None:
    try:
        found = hosts.hosts(text)
    except ValueError:
        return
    for each in found:
        assert re.fullmatch(r"[a-z0-9.-]+", each.name) or ipaddress.IPv6Address(each.name)
        assert hosts.host(str(each)) == each
