"""Being told by the daemon when machines change, rather than asking again and again; what they are now the store says.

What is done about a change does not belong here.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from sri_libvirt import statedir
from sri_libvirt.cli import output as out
from sri_libvirt.cli.reading import Ask
from sri_libvirt.errors import FailedPrecondition, Unavailable
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import asking

AWAY_SECONDS = 1.0
"""How often a daemon that has ended is asked for again, as after an upgrade."""


def follow(ask: Ask, paths: StatePaths, act: Callable[[frozenset[str] | None], bool]) -> None:
    """Call `act` with the ids of machines that have changed, until it returns False. They are None at first, and after
    the daemon was away, or did not answer what `act` asked: then anything may have changed.

    Raises FailedPrecondition where no daemon runs at first, Unavailable where none may be asked.
    """
    if statedir.is_held(paths) is False:
        raise FailedPrecondition("the provider does not run, so nothing will change")
    began, away = False, False
    while True:
        what = "has ended"
        try:
            for number, changed in enumerate(asking.follow(ask.door)):
                if not act(changed if number else None):
                    return
                began, away = True, False
        except Unavailable:  # a daemon that was killed leaves its socket there
            if not began:
                raise
            what = "does not answer"
        if not away:
            out.warn(f"the provider {what}: waiting for it")
            away = True
        time.sleep(AWAY_SECONDS)
