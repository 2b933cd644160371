"""Where a console is asked for: a URL with a token for a minute, at which it can be opened.

The listener behind it, and all that speaks its protocols, is loaded and bound when the first is asked for: most hosts
never need it. Whether a machine may have a session does not belong here (`service.py`), nor how one goes (`server.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from sri_libvirt import failpoints
from sri_libvirt.console.place import Consoles, Counts, Place
from sri_libvirt.console.tokens import Tokens
from sri_libvirt.errors import FailedPrecondition, Unavailable
from sri_libvirt.records import Event

if TYPE_CHECKING:
    from sri_libvirt.console.server import ConsoleServer

STOPPED = "the provider stops"


class Entrance:
    """For one asyncio loop. `exists` says whether there is a machine (still), `note` keeps an event in its timeline."""

    def __init__(
        self,
        place: Place,
        open_console: Consoles,
        exists: Callable[[str], bool],
        note: Callable[[str, Event], None],
        clock: Callable[[], int],
        counts: Counts,
    ) -> None:
        self._place = place
        self._open_console = open_console
        self._exists = exists
        self._note = note
        self._counts = counts
        self._tokens = Tokens(clock)
        self._server: ConsoleServer | None = None
        self._starting = asyncio.Lock()
        self._stopped = False

    async def url(self, machine_id: str) -> str:
        """A URL for the console of a machine that runs. Raises FailedPrecondition while it is in use, Unavailable."""
        async with self._starting:
            if self._stopped:
                raise Unavailable(STOPPED)
            if self._server is None:
                self._server = await self._listening()
        if not self._place.take_over and (words := self._server.in_use(machine_id)):
            raise FailedPrecondition(words)
        with failpoints.around("console.token", Unavailable):
            return f"{self._server.url}/exec/{self._tokens.issue(machine_id)}"

    async def stop(self) -> None:
        """End all sessions, which are told so, within some seconds. Idempotent."""
        async with self._starting:
            self._stopped = True
            server, self._server = self._server, None
        if server is not None:
            await server.stop(STOPPED)

    async def _listening(self) -> ConsoleServer:
        if not self._place.address:
            raise Unavailable("this host serves no consoles (--streaming-address is empty)")
        from sri_libvirt.console.server import ConsoleServer

        server = ConsoleServer(self._place, self._tokens, self._open_console, self._exists, self._note, self._counts)
        try:
            await server.start()
        except OSError as error:
            where = self._place.address
            raise Unavailable(f"--streaming-address {where}: nothing can listen there: {error.strerror}") from error
        return server
