"""SPDY/3.1 as a server of remotecommand sees it: bytes in, events out (contract B.4).

    connection   open ── GOAWAY sent or heard, or a ProtocolError ──> ends; what is received then is dropped
    stream       opened by the client (SYN_STREAM) ── we reply ──> both sides may send DATA
                 FIN of a side ends that side; RST_STREAM of either, or both FINs, ends the stream

Streams are the client's alone, of odd ids that ascend. A frame of DATA is handed out as it arrives, however long it is;
control frames, the headers in them, open streams and what waits to be sent are bounded, so that no peer makes this
grow. A stream in error is reset, and the others go on; an error of the connection is a ProtocolError, and a GOAWAY that
says so waits to be sent.

Go's spdystream has no flow control: it neither honours windows nor speaks of them. So a window counts from when the
peer has shown that it has them (SETTINGS of an initial window, or a WINDOW_UPDATE); until then, TCP's does. Ours are
always renewed as what came is consumed, for those who do honour them, and never enforced.

What streams mean does not belong here (`remotecommand.py`), nor do sockets.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from sri_libvirt.console.dictionary import DICTIONARY
from sri_libvirt.console.protocol import Output, ProtocolError

MOST_CONTROL_BYTES = 16 * 1024
"""Of the payload of a control frame; those of remotecommand have some forty."""

MOST_HEADER_BYTES = 64 * 1024
"""Of a header block once it is inflated."""

MOST_STREAMS = 16
"""Open at once; remotecommand has five."""

_WINDOW = 64 * 1024
_MOST_WINDOW = 2**31 - 1
_FRAME_BYTES = 16 * 1024
_VERSION = 3
_FIN, _UNIDIRECTIONAL = 0x01, 0x02
_INITIAL_WINDOW_SIZE = 7


class _Type(IntEnum):
    SYN_STREAM = 1
    SYN_REPLY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PING = 6
    GOAWAY = 7
    HEADERS = 8
    WINDOW_UPDATE = 9


class Code(IntEnum):
    """Why a stream was reset."""

    PROTOCOL_ERROR = 1
    INVALID_STREAM = 2
    REFUSED_STREAM = 3
    CANCEL = 5
    INTERNAL_ERROR = 6
    STREAM_ALREADY_CLOSED = 9


@dataclass(frozen=True, slots=True)
class StreamOpened:
    """The client has opened a stream and waits for our reply. `ended`: it will send nothing."""

    stream: int
    headers: Mapping[str, str]
    ended: bool


@dataclass(frozen=True, slots=True)
class DataReceived:
    """Some bytes of a stream; `consumed` has to be told of them. Their frames are not kept apart."""

    stream: int
    data: bytes


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """The client will send no more on this stream."""

    stream: int


@dataclass(frozen=True, slots=True)
class StreamReset:
    """The client has given a stream up."""

    stream: int


@dataclass(frozen=True, slots=True)
class Ponged:
    """The client has answered a ping of ours."""


@dataclass(frozen=True, slots=True)
class WentAway:
    """The client ends the connection."""


Event = StreamOpened | DataReceived | StreamEnded | StreamReset | Ponged | WentAway


@dataclass(slots=True)
class _Stream:
    """One that is open. `sent` and `granted` are bytes; `granted` is of what the peer has said since the opening."""

    heard_end: bool = False
    said_end: bool = False
    ending: bool = False
    sent: int = 0
    granted: int = 0
    unacknowledged: int = 0
    waiting: bytearray = field(default_factory=bytearray)


class SpdyConnection:
    """The server's side of one connection."""

    def __init__(self) -> None:
        self._input = bytearray()
        self.output = Output()
        self._skip = 0  # bytes of a frame that nobody wants
        self._of_data: tuple[int, bool] | None = None  # the stream of the DATA that arrives, and whether it ends it
        self._left = 0
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(9, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)
        self._streams: dict[int, _Stream] = {}
        self._latest = 0
        self._pings = 0
        self._controlled = False
        self._initial_window = _WINDOW
        self._session = _Stream()
        self._ended = False

    # --- what comes -------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes say. Raises ProtocolError; `output` has the words for the peer then."""
        if self._ended:
            return []
        self._input += data
        found: list[Event] = []
        try:
            while self._step(found):
                self.output.check()
        except ProtocolError:
            self._goaway(1)
            raise
        return found

    def _step(self, found: list[Event]) -> bool:
        """One frame, or a part of a frame of DATA; whether there may be more."""
        if self._skip:
            gone = min(self._skip, len(self._input))
            del self._input[:gone]
            self._skip -= gone
            return gone > 0
        if self._of_data is not None:
            return self._some_data(found)
        if len(self._input) < 8 or self._ended:
            return False
        first, second = struct.unpack_from(">II", self._input)
        flags, length = second >> 24, second & 0xFFFFFF
        if not first >> 31:
            del self._input[:8]
            self._begin_data(first, flags, length)
            return True
        if first >> 16 & 0x7FFF != _VERSION:
            raise ProtocolError(f"a frame of SPDY {first >> 16 & 0x7FFF}, not of 3")
        kind = first & 0xFFFF
        if kind not in _HANDLERS:
            del self._input[:8]
            self._skip = length
            return True
        if length > MOST_CONTROL_BYTES:
            raise ProtocolError(f"a control frame of {length} bytes, and {MOST_CONTROL_BYTES} are the most")
        if len(self._input) < 8 + length:
            return False
        payload = bytes(self._input[8 : 8 + length])
        del self._input[: 8 + length]
        _HANDLERS[_Type(kind)](self, flags, payload, found)
        return True

    def _begin_data(self, stream_id: int, flags: int, length: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is None or stream.heard_end:
            self.reset(stream_id, Code.INVALID_STREAM if stream is None else Code.STREAM_ALREADY_CLOSED)
            self._skip = length
            return
        self._of_data, self._left = (stream_id, bool(flags & _FIN)), length

    def _some_data(self, found: list[Event]) -> bool:
        assert self._of_data is not None
        stream_id, ends = self._of_data
        data = bytes(self._input[: self._left])
        del self._input[: len(data)]
        self._left -= len(data)
        stream = self._streams.get(stream_id)
        if data and stream is not None:
            found.append(DataReceived(stream_id, data))
        if self._left:
            return False
        self._of_data = None
        if ends and stream is not None:
            found.append(StreamEnded(stream_id))
            stream.heard_end = True
            self._forget_if_over(stream_id)
        return True

    def _syn_stream(self, flags: int, payload: bytes, found: list[Event]) -> None:
        if len(payload) < 10:
            raise ProtocolError("a SYN_STREAM that is too short")
        stream_id = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        headers = self._headers(payload[10:])  # of every block: all share one compression
        if stream_id % 2 == 0 or stream_id <= self._latest:
            self.reset(stream_id, Code.PROTOCOL_ERROR)
            return
        self._latest = stream_id
        if len(self._streams) >= MOST_STREAMS or flags & _UNIDIRECTIONAL:
            self.reset(stream_id, Code.REFUSED_STREAM)
            return
        ended = bool(flags & _FIN)
        self._streams[stream_id] = _Stream(heard_end=ended)
        found.append(StreamOpened(stream_id, headers, ended))

    def _other_headers(self, _flags: int, payload: bytes, _found: list[Event]) -> None:
        if len(payload) < 4:
            raise ProtocolError("a frame of headers that is too short")
        self._headers(payload[4:])

    def _rst_stream(self, _flags: int, payload: bytes, found: list[Event]) -> None:
        stream_id = _words(payload, 2)[0] & 0x7FFFFFFF
        if self._streams.pop(stream_id, None) is not None:
            found.append(StreamReset(stream_id))

    def _settings(self, _flags: int, payload: bytes, _found: list[Event]) -> None:
        if len(payload) < 4 or len(payload) != 4 + 8 * int.from_bytes(payload[:4], "big"):
            raise ProtocolError("SETTINGS of another length than they say")
        for identity, value in struct.iter_unpack(">II", payload[4:]):
            if identity & 0xFFFFFF == _INITIAL_WINDOW_SIZE:
                self._initial_window = min(value, _MOST_WINDOW)
                self._controlled = True
        self._flush()

    def _ping(self, _flags: int, payload: bytes, found: list[Event]) -> None:
        (number,) = _words(payload, 1)
        if number % 2:
            self._control(_Type.PING, payload)
        else:
            found.append(Ponged())

    def _go_away(self, _flags: int, payload: bytes, found: list[Event]) -> None:
        _words(payload, 2)
        self._ended = True
        found.append(WentAway())

    def _window_update(self, _flags: int, payload: bytes, _found: list[Event]) -> None:
        stream_id, more = (word & 0x7FFFFFFF for word in _words(payload, 2))
        self._controlled = True
        of = self._streams.get(stream_id) if stream_id else self._session
        if of is not None:
            of.granted = min(of.granted + more, of.sent + _MOST_WINDOW)
        self._flush()

    def _headers(self, block: bytes) -> dict[str, str]:
        try:
            text = self._inflate.decompress(block, MOST_HEADER_BYTES)
        except zlib.error as error:
            raise ProtocolError(f"headers that cannot be inflated: {error}") from error
        if self._inflate.unconsumed_tail or self._inflate.eof:
            raise ProtocolError(f"headers of more than {MOST_HEADER_BYTES} bytes, or that end the compression")
        return _parsed(text)

    # --- what is said -----------------------------------------------------------------------------

    def reply(self, stream_id: int) -> None:
        """Accept a stream; what is sent on it before is thrown away by Go."""
        self._control(_Type.SYN_REPLY, stream_id.to_bytes(4, "big") + self._block(_REPLY))

    def send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Bytes for a stream, and its end. What the peer's windows do not let through waits; see `waiting`."""
        stream = self._streams.get(stream_id)
        if stream is None or stream.ending or self._ended:
            return
        stream.waiting += data
        stream.ending = end
        self._flush()

    def waiting(self, stream_id: int) -> int:
        """Bytes of a stream that its windows hold back."""
        stream = self._streams.get(stream_id)
        return len(stream.waiting) if stream else 0

    def consumed(self, stream_id: int, count: int) -> None:
        """So many bytes of a stream have gone where they should, and may be followed by others."""
        for number, of in ((stream_id, self._streams.get(stream_id)), (0, self._session)):
            if of is None:
                continue
            of.unacknowledged += count
            if of.unacknowledged >= _WINDOW // 2:
                self._control(_Type.WINDOW_UPDATE, struct.pack(">II", number, of.unacknowledged))
                of.unacknowledged = 0

    def reset(self, stream_id: int, code: Code) -> None:
        """Give a stream up."""
        self._streams.pop(stream_id, None)
        if stream_id:
            self._control(_Type.RST_STREAM, struct.pack(">II", stream_id, code))

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._pings += 2
        self._control(_Type.PING, self._pings.to_bytes(4, "big"))

    def goaway(self) -> None:
        """End the connection in order: the last that is sent."""
        self._goaway(0)

    def _goaway(self, status: int) -> None:
        if not self._ended:
            self._control(_Type.GOAWAY, struct.pack(">II", self._latest, status))
            self._ended = True

    def _control(self, kind: _Type, payload: bytes) -> None:
        if not self._ended:
            self.output += struct.pack(">HHI", 0x8000 | _VERSION, kind, len(payload)) + payload

    def _block(self, headers: Mapping[str, str]) -> bytes:
        text = len(headers).to_bytes(4, "big")
        for part in (part.encode() for pair in headers.items() for part in pair):
            text += len(part).to_bytes(4, "big") + part
        return self._deflate.compress(text) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def _flush(self) -> None:
        """Send what the windows let through."""
        for stream_id, stream in list(self._streams.items()):
            while stream.waiting or (stream.ending and not stream.said_end):
                room = min(self._room(stream), self._room(self._session), _FRAME_BYTES)
                if stream.waiting and room <= 0:
                    break
                part = bytes(stream.waiting[:room])
                del stream.waiting[: len(part)]
                ends = stream.ending and not stream.waiting
                self.output += struct.pack(">II", stream_id, (_FIN if ends else 0) << 24 | len(part)) + part
                stream.sent += len(part)
                self._session.sent += len(part)
                stream.said_end = ends
            self._forget_if_over(stream_id)

    def _room(self, of: _Stream) -> int:
        if not self._controlled:
            return _FRAME_BYTES
        window = _WINDOW if of is self._session else self._initial_window
        return window + of.granted - of.sent

    def _forget_if_over(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        if stream.heard_end and stream.said_end:
            del self._streams[stream_id]


_Handler = Callable[[SpdyConnection, int, bytes, list[Event]], None]
_HANDLERS: Mapping[int, _Handler] = {
    _Type.SYN_STREAM: SpdyConnection._syn_stream,
    _Type.SYN_REPLY: SpdyConnection._other_headers,
    _Type.RST_STREAM: SpdyConnection._rst_stream,
    _Type.SETTINGS: SpdyConnection._settings,
    _Type.PING: SpdyConnection._ping,
    _Type.GOAWAY: SpdyConnection._go_away,
    _Type.HEADERS: SpdyConnection._other_headers,
    _Type.WINDOW_UPDATE: SpdyConnection._window_update,
}

_REPLY = {":status": "200", ":version": "HTTP/1.1"}
"""Go accepts any headers; spdy-transport takes no reply without a status."""


def _words(payload: bytes, count: int) -> tuple[int, ...]:
    if len(payload) != 4 * count:
        raise ProtocolError(f"a control frame of {len(payload)} bytes that has {4 * count}")
    return struct.unpack(f">{count}I", payload)


def _parsed(text: bytes) -> dict[str, str]:
    """An inflated header block; values that a name has several of are joined by NUL, as they came."""

    def word(at: int) -> tuple[bytes, int]:
        end = at + 4 + int.from_bytes(text[at : at + 4], "big")
        if at + 4 > len(text) or end > len(text):
            raise ProtocolError("headers that are shorter than they say")
        return text[at + 4 : end], end

    if len(text) < 4:
        raise ProtocolError("headers that are shorter than they say")
    found: dict[str, str] = {}
    at = 4
    for _ in range(int.from_bytes(text[:4], "big")):
        name, at = word(at)
        value, at = word(at)
        key = name.decode("latin-1").lower()
        if not key or key in found:
            raise ProtocolError("a header without a name, or twice")
        found[key] = value.decode("latin-1")
    return found
