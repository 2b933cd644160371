"""remotecommand on WebSocket, in all its variants (contract B.6): a message is a channel and its bytes.

    channel   0 stdin, 1 stdout, 2 stderr, 3 error, 4 resize; of version 5: 255 N, the client's end of channel N
    the end   error has the outcome, then Close 1000

A message is handed out as it arrives, however long it is. What comes on a channel that the client has no say on is
ignored, and so is an empty message. `base64` variants are texts. Frames are wsproto's affair, extensions nobody's; the
upgrade is `negotiation.py`'s.
"""

from __future__ import annotations

import base64
import binascii

from wsproto import ConnectionType
from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from sri_libvirt.console.protocol import InputEnded, Left, Outcome, Output, ProtocolError, Said, Typed

SUBPROTOCOLS = (
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    "",
)
"""The last is of clients that name none."""

_STDIN, _STDOUT, _ERROR, _END = 0, 1, 3, 255


class WebSocketDialogue:
    """See `protocol.Dialogue`. The client's handshake is over."""

    leaves = False  # it waits for the Close
    ready = True
    waiting = 0

    def __init__(self, subprotocol: str) -> None:
        self._connection = Connection(ConnectionType.SERVER)
        self._in_base64 = "base64" in subprotocol
        self._tells_json = subprotocol.startswith(("v4.", "v5."))
        self._has_ends = subprotocol.startswith("v5.")
        self._channel: int | None = None  # of the message that is coming in
        self._rest = b""  # of it, what is no whole group of base64 yet
        self._output = Output()
        self.show(b"")  # so a client learns that it is there

    def receive(self, data: bytes) -> list[Said]:
        if self._connection.state is not ConnectionState.OPEN:
            return []
        found: list[Said] = []
        try:
            self._connection.receive_data(data)
            for event in self._connection.events():
                if isinstance(event, CloseConnection):
                    if self._connection.state is ConnectionState.OPEN:  # wsproto's word for what it cannot read
                        self._send(CloseConnection(event.code))
                        raise ProtocolError("what came is no WebSocket, or not a client's")
                    self._send(event.response())
                    found.append(Left())
                    break
                if isinstance(event, Ping):
                    self._send(event.response())
                    self._output.check()
                elif isinstance(event, BytesMessage | TextMessage):
                    payload = event.data.encode() if isinstance(event, TextMessage) else bytes(event.data)
                    found += self._message(payload, finished=event.message_finished)
        except ProtocolError:
            self._send(CloseConnection(CloseReason.PROTOCOL_ERROR))
            raise
        return found

    def show(self, data: bytes) -> None:
        self._say(_STDOUT, data)

    def consumed(self, count: int) -> None:
        """TCP's window is all that there is."""

    def ping(self) -> None:
        self._send(Ping())

    def finish(self, outcome: Outcome) -> None:
        words = outcome.as_json() if self._tells_json else outcome.as_text()
        if words:
            self._say(_ERROR, words)

    def close(self) -> None:
        self._send(CloseConnection(CloseReason.NORMAL_CLOSURE))

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    def take(self) -> bytes:
        return self._output.take()

    def _message(self, payload: bytes, *, finished: bool) -> list[Said]:
        if self._channel is None and payload:
            self._channel = payload[0] - ord("0") if self._in_base64 else payload[0]
            payload = payload[1:]
        channel = self._channel
        payload = self._decoded(payload, finished=finished) if self._in_base64 else payload
        if finished:
            self._channel, self._rest = None, b""
        if not payload:
            return []
        if channel == _END and self._has_ends:
            return [InputEnded()] if payload[0] == _STDIN else []
        return [Typed(payload)] if channel == _STDIN else []

    def _decoded(self, payload: bytes, *, finished: bool) -> bytes:
        text = self._rest + payload
        whole = len(text) if finished else len(text) // 4 * 4
        self._rest = text[whole:]
        try:
            return base64.b64decode(text[:whole], validate=True)
        except binascii.Error as error:
            raise ProtocolError("what came is not in base64") from error

    def _say(self, channel: int, data: bytes) -> None:
        if self._in_base64:
            self._send(TextMessage(f"{channel}{base64.b64encode(data).decode()}"))
        else:
            self._send(BytesMessage(bytes([channel]) + data))

    def _send(self, event: BytesMessage | TextMessage | Ping | CloseConnection | object) -> None:
        try:
            self._output += self._connection.send(event)  # type: ignore[arg-type]
        except LocalProtocolError:
            return  # it was closed before, by either side
