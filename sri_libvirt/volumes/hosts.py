"""Where a backend is served, `host:port`: split by the rules of Go's net.SplitHostPort, as the peers do. Pure.

A literal IPv6 address stands in brackets, a colon outside of them is the port's. What Go lets pass and nobody can be
connected to is refused, too: an empty host, a name that no resolver takes, a port by name, a zone (libvirt has no word
for it). Whether anybody listens there does not belong here.
"""

from __future__ import annotations

import ipaddress
import re

from sri_libvirt.devices import DiskHost

MOST_HOSTS = 32
"""More monitors than a cluster has; each is one that librados may wait for."""

_PORT = re.compile(r"[0-9]{1,5}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}\.?")
_NUMERIC = re.compile(r"[0-9.]*|.*\.[0-9]+\.?|0[xX][0-9A-Fa-f]*")
"""What a resolver takes for an address in one of its old forms (inet_aton(3))."""


def split(text: str) -> tuple[str, str]:
    """Host and port of `host:port`, the brackets taken off. Raises ValueError with Go's words."""
    last = text.rfind(":")
    if last < 0:
        raise ValueError("missing port in address")
    if text.startswith("["):
        end = text.find("]")
        if end < 0:
            raise ValueError("missing ']' in address")
        if end + 1 != last:
            colons = text[end + 1 : end + 2] == ":"
            raise ValueError("too many colons in address" if colons else "missing port in address")
        host, inside, after = text[1:end], text[1:], text[end + 1 :]
    else:
        host, inside, after = text[:last], text, text
        if ":" in host:
            raise ValueError("too many colons in address")
    for bracket, where in (("[", inside), ("]", after)):
        if bracket in where:
            raise ValueError(f"unexpected '{bracket}' in address")
    return host, text[last + 1 :]


def host(text: str, default_port: int = 0) -> DiskHost:
    """One host; with a `default_port` it may go without. An IPv6 address is kept in its short form, a name in lower
    case, so that the same host reads the same. Raises ValueError."""
    if default_port and (text.endswith("]") or ":" not in text):
        text = f"{text}:{default_port}"
    name, port = split(text)
    if not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    return DiskHost(_name(name), int(port))


def hosts(text: str) -> tuple[DiskHost, ...]:
    """The hosts of a comma list, in its order. Raises ValueError; of several it names the entry by its number."""
    entries = text.split(",")
    if len(entries) > MOST_HOSTS:
        raise ValueError(f"{len(entries)} entries, and at most {MOST_HOSTS} are taken")
    found = []
    for number, entry in enumerate(entries, start=1):
        try:
            found.append(host(entry))
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}" if len(entries) > 1 else str(error)) from None
    return tuple(found)


def _name(text: str) -> str:
    if ":" in text:
        if "%" in text:
            raise ValueError("the host has a zone, which libvirt cannot be told")
        try:
            return str(ipaddress.IPv6Address(text))
        except ValueError:
            raise ValueError("the host is no IPv6 address") from None
    if not text:
        raise ValueError("the host is empty")
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        pass
    if len(text) > 253 or not _NAME.fullmatch(text) or _NUMERIC.fullmatch(text):
        raise ValueError("the host is neither a name nor an address")
    return text.lower()
