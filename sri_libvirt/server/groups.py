"""Who may use a socket. Which socket does not belong here."""

from __future__ import annotations

import grp

from sri_libvirt.errors import ConfigError


def group_id(name: str) -> int | None:
    """Id of a group by name or number; None for "", the daemon's own. Raises ConfigError."""
    if not name:
        return None
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"socket group {name!r}: there is no such group") from None
