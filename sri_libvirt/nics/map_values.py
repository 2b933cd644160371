"""What a text of the operator's network map means. Each raises ValueError with a sentence. Which driver takes which
does not belong here.
"""

from __future__ import annotations

import re

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
