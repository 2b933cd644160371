"""What a text of the operator's network map means. Each raises ValueError with a sentence. Which driver takes which
does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from sri_libvirt import quantity
from sri_libvirt.devices import Bandwidth

KIB = 1024

_MODES = ("bridge", "private", "vepa")
_MOST_KIB = 2**32 - 1
"""tc counts in 32 bits."""

_LINK = re.compile(r"[^\s/:]{1,15}")
_LAST_VLAN = 4094


def link_name(text: str) -> str:
    """The name of a network device, as the kernel allows it."""
    if not _LINK.fullmatch(text) or text in (".", "..") or not text.isprintable():
        raise ValueError(f"{text[:32]!r} is no name of a network device (at most 15 characters, no space, '/' or ':')")
    return text


def network_name(text: str) -> str:
    """The name of a libvirt network."""
    if not text or "/" in text or not text.isprintable():
        raise ValueError(f"{text[:64]!r} is no name of a libvirt network")
    return text


def vlan(text: str) -> int:
    """A VLAN's number."""
    if not re.fullmatch(r"[1-9][0-9]{0,3}", text, re.ASCII) or int(text) > _LAST_VLAN:
        raise ValueError(f"{text[:16]!r} is no VLAN: a number from 1 to {_LAST_VLAN}")
    return int(text)


def switch(text: str) -> bool:
    """Whether."""
    if text not in ("true", "false"):
        raise ValueError(f"{text[:16]!r} is neither true nor false")
    return text == "true"


def mode(text: str) -> str:
    """How macvtap lets the guests on a device reach each other."""
    if text not in _MODES:
        raise ValueError(f"{text[:16]!r} is none of {', '.join(_MODES)}")
    return text


def attribute(*known: str) -> Callable[[str], str]:
    """An attribute that tenants may set, one of these."""

    def read(text: str) -> str:
        if text not in known:
            raise ValueError(
                f"{text[:32]!r} is no attribute that may be set here; there are {', '.join(sorted(known))}"
            )
        return text

    return read


def kibibytes(text: str) -> int:
    """Bytes, in whole KiB as libvirt counts them."""
    found = quantity.whole(text)
    if not KIB <= found <= _MOST_KIB * KIB:
        raise ValueError(f"{text[:32]!r} is not from 1Ki to {_MOST_KIB}Ki")
    return found // KIB * KIB


def bandwidth(parts: Mapping[str, int]) -> Bandwidth:
    """What may be carried."""
    return Bandwidth(**parts)
