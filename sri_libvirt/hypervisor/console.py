"""A guest's serial console by libvirt's streams, which has it for one at a time.

libvirt's client takes in whatever the guest prints, read or not: a console has a connection of its own. What is typed
goes another way (`keyboard.py`). What is done with what a guest prints does not belong here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import libvirt

from sri_libvirt.errors import ConsoleLost
from sri_libvirt.hypervisor import faults
from sri_libvirt.hypervisor.keyboard import Keyboard

_CHUNK = 64 * 1024
_HEARD = libvirt.VIR_STREAM_EVENT_READABLE | libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class LibvirtConsole:
    """See `base.Console`. Takes the connection over, and closes it, also when it fails to open."""

    def __init__(
        self,
        connection: libvirt.virConnect,
        machine_id: str,
        heard: Callable[[], None],
        *,
        take_over: bool,
        devpts: Path,
    ) -> None:
        self._connection = connection
        self._heard = heard
        self._ended = False
        self._lost = ""
        self._stream: libvirt.virStream | None = None
        self._keyboard: Keyboard | None = None
        self._using = threading.Lock()  # the stream, so that it is not freed meanwhile
        try:
            self._open(machine_id, devpts, take_over=take_over)
        except BaseException:
            self.close()
            raise

    def read(self) -> bytes | None:
        with self._using:
            if self._ended or self._stream is None:
                return b""
            try:
                data: bytes | int = self._stream.recv(_CHUNK)
                if isinstance(data, int):  # -2: nothing yet
                    self._stream.eventUpdateCallback(_HEARD)
                    if self._lost:
                        raise ConsoleLost(f"the machine's console was lost: {self._lost}")
                    return None
            except libvirt.libvirtError as error:
                self._ended = True
                raise ConsoleLost(f"the machine's console was lost: {error.get_error_message()}") from error
            self._ended = not data
            return data

    def write(self, data: bytes) -> int:
        return 0 if self._ended or self._keyboard is None else self._keyboard.type(data)

    def close(self) -> None:
        self._give_up(told=False)

    def drop(self) -> None:
        self._give_up(told=True)

    def _give_up(self, *, told: bool) -> None:
        """Once it has been aborted, the next one can have it. Of a stream that it has closed by itself libvirt 11.3
        never answers that (seen).
        """
        self._ended, self._heard = True, _nobody
        if self._keyboard is not None:
            self._keyboard.close()
        stream = self._stream
        if stream is not None:
            # A connection stays open as long as anything refers to it: who is to be told of its end, and a stream.
            steps = [stream.eventRemoveCallback, self._connection.unregisterCloseCallback]
            for step in steps if told else [stream.abort, *steps]:
                with suppress(libvirt.libvirtError):
                    step()
            with self._using:
                self._free()
        with suppress(libvirt.libvirtError):
            self._connection.close()

    def _open(self, machine_id: str, devpts: Path, *, take_over: bool) -> None:
        try:
            self._stream = stream = self._connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            domain = self._connection.lookupByUUIDString(machine_id)
            domain.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE if take_over else 0)
            self._keyboard = Keyboard(domain, devpts)
            stream.eventAddCallback(_HEARD, self._on_event, None)
            self._connection.registerCloseCallback(self._on_close, None)  # of which a stream hears nothing
        except libvirt.libvirtError as error:
            alive = faults.is_alive(self._connection)
            refused = faults.console_refused(error)
            raise refused or faults.translate(error, "open the machine's console", alive=alive) from error

    def _free(self) -> None:
        """The binding never gives up a stream that had a callback (seen with 9.0): it is given up by hand."""
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(AttributeError):
                del stream.cb
            stream.__del__()

    def _on_close(self, _connection: libvirt.virConnect, _reason: int, _opaque: object) -> None:
        self._lost = "libvirt is not reached any more"
        self._heard()

    def _on_event(self, _stream: libvirt.virStream, _events: int, _opaque: object) -> None:
        with self._using, suppress(libvirt.libvirtError):
            if self._stream is not None:
                self._stream.eventUpdateCallback(0)  # until it is read it would come again and again
        self._heard()


def _nobody() -> None:
    """Is to be told of what comes after the end."""
