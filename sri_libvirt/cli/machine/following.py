"""Being told by the daemon when machines change, rather than asking again and again; what they are now the store says.

What is done about a change does not belong here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from sri_libvirt import statedir
from sri_libvirt.cli import output as out
from sri_libvirt.cli.reading import door
from sri_libvirt.errors import FailedPrecondition, Unavailable
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import asking

AWAY_SECONDS = 1.0
"""How often a daemon that has ended is asked for again, as after an upgrade."""


def changes(paths: StatePaths) -> Iterator[frozenset[str] | None]:
    """Ids of machines that have changed; None at first, and after the daemon was away: then anything may have changed.

    Never ends by itself. Raises FailedPrecondition where no daemon runs at first, Unavailable where none may be asked.
    """
    if statedir.is_held(paths) is False:
        raise FailedPrecondition("the provider does not run, so nothing will change")
    socket = door(paths)
    began, away = False, False
    while True:
        try:
            for number, changed in enumerate(asking.follow(socket)):
                began, away = True, False
                yield changed if number else None
        except Unavailable:  # a daemon that was killed leaves its socket there
            if not began:
                raise
        if not away:
            out.warn("the provider has ended: waiting for it")
            away = True
        time.sleep(AWAY_SECONDS)
