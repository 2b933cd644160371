"""Where images may be fetched from: patterns of the operator, and addresses that are nobody's to name. Pure.

A tenant's string must not make this host ask what only this host can reach: the bytes of an answer would become a disk
that the tenant reads. So what may be fetched is bounded by patterns, and loopback, link-local and metadata addresses
are refused unless a pattern names that very host. What a reference says does not belong here, nor how one connects.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sri_libvirt.images.reference import Reference, WebFile

ANY_REGISTRY = "oci://*"
NOTHING = "none"

_FORM = re.compile(r"(oci|https|http)://([^/?#\s]+)(/\S*)?")
_GLOB = re.compile(r"[*?\[]")

_LOCALHOST = re.compile(r"(?:.*\.)?localhost|localhost[46]?(?:\.localdomain[46]?)?|ip6-(?:localhost|loopback)")
"""Names of the loopback: RFC 6761, 6.3, and what distributions have in /etc/hosts."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Clouds' metadata services at addresses of no special range: of AWS by IPv6, Alibaba, Azure. The others are
link-local."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The patterns, as `config.image_pattern` takes them; a `*` in the host stands for characters of a host only."""

    patterns: Sequence[str] = (ANY_REGISTRY,)

    def allows(self, wanted: Reference | WebFile) -> bool:
        """Whether it may be fetched."""
        scheme, host, path = _parts(wanted)
        for kind, host_glob, path_glob in self._parsed():
            path_glob = path_glob if path_glob.strip("/") else "/*"
            if kind == scheme and fnmatchcase(host.lower(), host_glob.lower()) and fnmatchcase(path, path_glob):
                return True
        return False

    def names(self, host: str) -> bool:
        """Whether a pattern is of this very host, by its name, with its port where the pattern has one."""
        plain = _without_port(host)
        return any(
            not _GLOB.search(glob) and glob.lower() in (host.lower(), plain.lower()) for _, glob, _ in self._parsed()
        )

    def words(self) -> str:
        """The patterns for people."""
        return ", ".join(self.patterns) or NOTHING

    def _parsed(self) -> list[tuple[str, str, str]]:
        found = [_FORM.fullmatch(each) for each in self.patterns]
        return [(match[1], match[2], match[3] or "") for match in found if match]


def forbidden(address: str) -> str:
    """What kind of address one must not connect to for a tenant; "" for one that is as good as any."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or _translated(found) or found
    for is_it, words in (
        (found.is_loopback, "a loopback address"),
        (found.is_link_local, "a link-local address"),
        (found in _METADATA, "the address of a cloud's metadata service"),
        (found.is_unspecified, "no address of a host"),
        (found.is_multicast, "a multicast address"),
        (found.is_reserved and found.version == 4, "a reserved address"),
    ):
        if is_it:
            return words
    return ""


def forbidden_name(host: str) -> str:
    """The same of a host's name that somebody else is to resolve, as far as the name itself tells: it is an address, in
    any form that resolvers take for one, or the loopback's name."""
    name = host.strip("[]").rstrip(".").lower()
    try:
        return forbidden(name)
    except ValueError:
        pass
    if _LOCALHOST.fullmatch(name):
        return "a loopback address"
    try:
        plain = socket.inet_ntoa(socket.inet_aton(name))  # 0x7f.1, 2130706433; asks nobody
    except OSError:
        return ""
    # 0127.0.0.1 is 87.0.0.1 to some and 127.0.0.1 to others.
    return forbidden(plain) or "an address in a form that not everybody reads alike"


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """What NAT64 makes of an address of its well-known prefix (RFC 6052, 2.1)."""
    return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None


def _parts(wanted: Reference | WebFile) -> tuple[str, str, str]:
    if isinstance(wanted, Reference):
        return "oci", wanted.registry, f"/{wanted.repository}"
    scheme, _, rest = wanted.url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme.lower(), host, slash + path.partition("?")[0]  # a tenant's query must not make it look like another


def _without_port(host: str) -> str:
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host
