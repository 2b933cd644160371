"""A guest's serial console by libvirt's streams, which has it for one at a time.

libvirt's client takes in whatever the guest prints, read or not. A byte that is sent on a stream that has ended can end
the whole connection: a console has one of its own. What is done with what a guest prints does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import libvirt

from sri_libvirt.errors import ConsoleHeld, ConsoleLost
from sri_libvirt.hypervisor import faults

_CHUNK = 64 * 1024
_HEARD = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class LibvirtConsole:
    """See `base.Console`. Takes the connection over, and closes it, also when it fails to open."""

    def __init__(
        self, connection: libvirt.virConnect, machine_id: str, heard: Callable[[], None], *, take_over: bool
    ) -> None:
        self._connection = connection
        self._heard = heard
        self._ended = False
        self._lost = ""
        stream = connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
        self._stream: libvirt.virStream | None = stream
        try:
            self._open(stream, machine_id, take_over=take_over)
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes | None:
        stream = self._stream
        if self._ended or stream is None:
            return b""
        try:
            data: bytes | int = stream.recv(_CHUNK)
            if isinstance(data, int):  # -2: nothing yet
                stream.eventUpdateCallback(_HEARD)
                if self._lost:
                    raise ConsoleLost(f"the machine's console was lost: {self._lost}")
                return None
        except libvirt.libvirtError as error:
            self._ended = True
            raise ConsoleLost(f"the machine's console was lost: {error.get_error_message()}") from error
        self._ended = not data
        return data

    def write(self, data: bytes) -> int:
        stream = self._stream
        if self._ended or stream is None:
            return 0
        try:
            sent: int = stream.send(data)
            return max(sent, 0)
        except libvirt.libvirtError as error:
            self._ended = True
            raise ConsoleLost(f"the machine's console takes nothing more: {error.get_error_message()}") from error

    def close(self) -> None:
        self._ended, self._heard = True, _nobody
        stream, self._stream = self._stream, None
        if stream is not None:
            # A connection stays open as long as anything refers to it: who is to be told of its end, and a stream. The
            # binding never gives up one that had a callback (seen with 9.0), so it is given up by hand.
            for give_up in (stream.eventRemoveCallback, stream.abort, self._connection.unregisterCloseCallback):
                with suppress(libvirt.libvirtError):
                    give_up()
            with suppress(AttributeError):
                del stream.cb
            stream.__del__()
        with suppress(libvirt.libvirtError):
            self._connection.close()

    def _open(self, stream: libvirt.virStream, machine_id: str, *, take_over: bool) -> None:
        try:
            domain = self._connection.lookupByUUIDString(machine_id)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE if take_over else 0)
            stream.eventAddCallback(_HEARD, self._on_event, None)
            self._connection.registerCloseCallback(self._on_close, None)  # of which a stream hears nothing
        except libvirt.libvirtError as error:
            if faults.is_code(error, libvirt.VIR_ERR_OPERATION_FAILED) and not take_over:
                raise ConsoleHeld(f"somebody has the machine's console: {error.get_error_message()}") from error
            raise faults.translate(
                error, "open the machine's console", alive=bool(self._connection.isAlive())
            ) from error

    def _on_close(self, _connection: libvirt.virConnect, _reason: int, _opaque: object) -> None:
        self._lost = "libvirt is not reached any more"
        self._heard()

    def _on_event(self, stream: libvirt.virStream, _events: int, _opaque: object) -> None:
        with suppress(libvirt.libvirtError):
            stream.eventUpdateCallback(0)  # until it is read it would come again and again
        self._heard()


def _nobody() -> None:
    """Is to be told of what comes after the end."""
