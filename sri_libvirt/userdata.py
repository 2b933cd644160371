"""What a machine's ignition data is, told by its bytes: cloud-init's user-data, or Ignition's JSON. Pure.

The kind decides at create, and once, whether the guest gets it on a seed disk or by fw_cfg: a machine that exists keeps
what it has. How it gets there does not belong here (`images/seed.py`, the domain's builder).
"""

from __future__ import annotations

import json
import re
from typing import Literal

Kind = Literal["none", "cloud-init", "ignition", "unknown"]

_FIRST = (
    b"#cloud-config",  # also -archive and -jsonp
    b"#!",  # a script
    b"#cloud-boothook",
    b"#include",  # also -once
    b"#part-handler",
    b"#upstart-job",
    b"## template:",  # jinja before any of the others
    b"content-type: multipart/",
)
"""How cloud-init's formats begin, but for white space and capitals (cloud-init's "User-data formats", handlers/)."""

_GZIP = b"\x1f\x8b"
_MIME, _MIME_BYTES = b"mime-version:", 4096
"""cloud-init takes for MIME what has this header in its first bytes (user_data.py, `convert_string`)."""

HOSTNAME_MOST = 63
"""Characters of a hostname: Linux has room for 64, a label for 63; Kubernetes cuts its pods' at the latter."""

_HOSTNAME = re.compile(r"(?=.{1,63}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def kind(data: bytes) -> Kind:
    """What it is. Whatever may be Ignition's is looked at first: a file inside may hold anything."""
    if not data:
        return "none"
    start = data.lstrip()[:_MIME_BYTES].lower()
    if start.startswith(b"{"):
        return "ignition" if _is_ignition(data) else "unknown"
    if data.startswith(_GZIP) or start.startswith(_FIRST) or _MIME in data[:_MIME_BYTES].lower():
        return "cloud-init"
    return "unknown"


def note(data: bytes, *, seeded: bool) -> str:
    """What an operator should know of where it went, "" when there is nothing. `seeded`: it is on a seed disk."""
    found = kind(data)
    if seeded or found in ("none", "ignition"):
        return ""
    if found == "cloud-init":
        return (
            "the ignition data is user-data of cloud-init, and this machine hands it over by fw_cfg, where cloud-init "
            "does not look: an older version made it so; delete the machine and create it anew for a seed disk"
        )
    return (
        "the ignition data is neither user-data as cloud-init knows it by its first line nor Ignition's JSON: it is "
        "handed over as it is by fw_cfg, and the guest may make nothing of it (Butane's YAML has to be made JSON first)"
    )


def hostname(name: str) -> str:
    """The hostname for a machine of that name: lower case, cut as Kubernetes cuts a pod's; "" when that is none."""
    cut = name.lower()[:HOSTNAME_MOST].rstrip("-.") if len(name) > HOSTNAME_MOST else name.lower()
    return cut if _HOSTNAME.fullmatch(cut) else ""


def _is_ignition(data: bytes) -> bool:
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError):
        return False
    section = value.get("ignition") if isinstance(value, dict) else None
    return isinstance(section, dict) and isinstance(section.get("version"), str)
