"""The tokens that an exec URL ends with: whoever has one may have the console of one machine, once, for a minute.

They are of this process, and kept as digests: to look one up by that takes no longer for a guess that begins well.
What is opened with one does not belong here.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable

from sri_libvirt.errors import Unavailable
from sri_libvirt.records import SECOND

LIFE = 60 * SECOND
"""Of a token, in nanoseconds."""

MOST = 1000
"""That are good at once."""

_BYTES = 16


class Tokens:
    """For one thread. `clock` gives nanoseconds that only grow."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._known: dict[bytes, tuple[str, int]] = {}

    def issue(self, machine_id: str) -> str:
        """A new token for the console of a machine. Raises Unavailable."""
        self._forget_expired()
        if len(self._known) >= MOST:
            raise Unavailable(f"{MOST} console sessions were asked for within a minute and not opened: try again later")
        token = secrets.token_urlsafe(_BYTES)
        self._known[_digest(token)] = (machine_id, self._clock() + LIFE)
        return token

    def machine(self, token: str) -> str:
        """The machine whose console a token is for; "" if it is not good, or not any more."""
        self._forget_expired()
        return self._known.get(_digest(token), ("", 0))[0]

    def use(self, token: str) -> None:
        """It is good no more."""
        self._known.pop(_digest(token), None)

    def _forget_expired(self) -> None:
        now = self._clock()
        while self._known and next(iter(self._known.values()))[1] <= now:
            del self._known[next(iter(self._known))]


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
