"""The network filters that keep a guest from lying about who it is: what they let out, and their XML.

There is one for each kind of interface: without addresses of its own, with IPv4 addresses, with IPv6 addresses, with
both. The addresses are parameters of who refers to it, so that all guests of this host, of whichever provider, share
these four. One that exists is never changed, for libvirt would put up the rules of every running guest anew: other
rules are another version, under another name. Rules are of `mac`, `arp`, `ip` and `ipv6` alone, which become ebtables
rules; those of other protocols become iptables rules on bridged traffic, which cut a guest off from its own host.

Each rule costs some 40 ms at each start and plug, in which libvirt runs ebtables: so there are as few as do it. How
libvirt is given them does not belong here (`filters.py`), nor whose interface is filtered (`nics/spoofing.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from sri_libvirt import names

VERSION = 1
PREFIX = "sri-libvirt-"
_OUR = f"{PREFIX}{VERSION}-"

IPV4, IPV6 = "IPV4", "IPV6"
"""The parameters: each is a list of addresses of its family."""

_LIES = (
    "drop <mac match='no' srcmacaddr='$MAC'/>",
    "drop <ip protocol='udp' srcportstart='67'/>",  # a DHCP server's answer
    "drop <ipv6 protocol='udp' srcportstart='547'/>",  # a DHCPv6 server's
    "drop <ipv6 protocol='icmpv6' type='134'/>",  # router advertisement
    "drop <ipv6 protocol='icmpv6' type='137'/>",  # redirect
)
"""What no guest may say, whatever its addresses. The order counts: the first that matches decides."""

_ANY_IPV4 = ("return <mac protocolid='arp'/>", "return <mac protocolid='ipv4'/>")
_ANY_IPV6 = ("return <mac protocolid='ipv6'/>",)
_OWN_IPV4 = (
    f"return <arp arpsrcmacaddr='$MAC' arpsrcipaddr='${IPV4}[@1]'/>",
    "return <arp arpsrcmacaddr='$MAC' arpsrcipaddr='0.0.0.0'/>",  # a probe for who has an address
    f"return <ip srcipaddr='${IPV4}[@1]'/>",
    "return <ip srcipaddr='0.0.0.0' protocol='udp' srcportstart='68' dstportstart='67'/>",  # a DHCP client's request
)
_LINK_LOCAL = (
    "return <ipv6 srcipaddr='fe80::' srcipmask='10'/>",
    "return <ipv6 srcipaddr='::' protocol='icmpv6'/>",  # duplicate address detection
)
_OWN_IPV6 = (f"return <ipv6 srcipaddr='${IPV6}[@1]'/>",)
_REST = ("drop <mac/>",)
"""All else: VLAN tags, other protocols."""

_RULES: dict[str, tuple[str, ...]] = {
    "any": (*_LIES, *_ANY_IPV4, *_ANY_IPV6, *_REST),
    "ipv4": (*_LIES, *_OWN_IPV4, *_LINK_LOCAL, *_REST),
    "ipv6": (*_LIES, *_OWN_IPV6, *_LINK_LOCAL, *_REST),
    "ipv4-ipv6": (*_LIES, *_OWN_IPV4, *_OWN_IPV6, *_LINK_LOCAL, *_REST),
}
NAMES = tuple(_OUR + kind for kind in _RULES)

_FIRST = 100
"""The priority of the first rule; libvirt's own chains of protocols, which we do not use, have negative ones."""


def name_of(families: Iterable[int]) -> str:
    """The filter for an interface with addresses of these IP versions; without any it may use whichever it likes."""
    return _OUR + ("-".join(f"ipv{each}" for each in sorted(set(families))) or "any")


def xml(name: str) -> str:
    """A filter as libvirt takes it. Raises KeyError for a name that is none of ours."""
    rules = []
    for place, rule in enumerate(_RULES[name.removeprefix(_OUR)]):
        action, _, match = rule.partition(" ")
        rules.append(f"<rule action='{action}' direction='out' priority='{_FIRST + place}'>{match}</rule>")
    return f"<filter name='{name}' chain='root'><uuid>{uuid_of(name)}</uuid>{''.join(rules)}</filter>"


def uuid_of(name: str) -> str:
    """Always the same: of two that define it at once neither fails."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{names.METADATA_NAMESPACE}/{name}"))
