"""remotecommand on SPDY: which of a connection's streams is what, versions 1 to 4 (contract B.5).

    error, stdin, stdout, (stderr,) resize   opened by the client in its order, each once, each replied to at once
    stdout and error are there               the guest's output flows; a client without stdin only watches
    the end                                  stdout ends, error has the outcome and ends, then GOAWAY

A stream of an unknown type, or one that is there already, is refused, and the session goes on. A terminal's size is
read and forgotten: a serial console has none. How bytes travel does not belong here (`spdy.py`).
"""

from __future__ import annotations

from sri_libvirt.console import spdy
from sri_libvirt.console.protocol import InputEnded, Left, Outcome, Said, Typed

V5 = "v5.channel.k8s.io"
V4 = "v4.channel.k8s.io"
VERSIONS = (V5, V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io")
"""Of remotecommand, the newest first; version 5 is no other than 4 on SPDY, where clients offer it all the same."""

_TYPES = frozenset({"error", "stdin", "stdout", "stderr", "resize"})


class SpdyDialogue:
    """See `protocol.Dialogue`."""

    def __init__(self, version: str) -> None:
        self._connection = spdy.SpdyConnection()
        self._tells_json = version in (V5, V4)
        self._streams: dict[str, int] = {}

    @property
    def leaves(self) -> bool:
        return True

    @property
    def ready(self) -> bool:
        return {"error", "stdout"} <= self._streams.keys()

    @property
    def waiting(self) -> int:
        return sum(map(self._connection.waiting, self._streams.values()))

    def receive(self, data: bytes) -> list[Said]:
        found: list[Said] = []
        for event in self._connection.receive(data):
            match event:
                case spdy.StreamOpened(stream, headers, ended):
                    self._opened(stream, headers.get("streamtype", ""))
                    if ended:
                        found += self._ended(stream)
                case spdy.DataReceived(stream, payload):
                    if stream == self._streams.get("stdin"):
                        found.append(Typed(payload))
                    else:
                        self._connection.consumed(stream, len(payload))
                case spdy.StreamEnded(stream):
                    found += self._ended(stream)
                case spdy.StreamReset(stream):
                    found += self._reset(stream)
                case spdy.WentAway():
                    found.append(Left())
                case spdy.Ponged():
                    pass
        return found

    def show(self, data: bytes) -> None:
        self._say("stdout", data)

    def consumed(self, count: int) -> None:
        self._connection.consumed(self._streams.get("stdin", 0), count)

    def ping(self) -> None:
        self._connection.ping()

    def finish(self, outcome: Outcome) -> None:
        self._say("stdout", b"", end=True)
        self._say("error", outcome.as_json() if self._tells_json else outcome.as_text(), end=True)
        for name in ("stderr", "stdin", "resize"):
            self._say(name, b"", end=True)

    def close(self) -> None:
        self._connection.goaway()

    @property
    def has_output(self) -> bool:
        return bool(self._connection.output)

    def take(self) -> bytes:
        return self._connection.output.take()

    def _opened(self, stream: int, name: str) -> None:
        if name not in _TYPES or name in self._streams:
            self._connection.reset(stream, spdy.Code.REFUSED_STREAM)
            return
        self._streams[name] = stream
        self._connection.reply(stream)

    def _ended(self, stream: int) -> list[Said]:
        return [InputEnded()] if stream == self._streams.get("stdin") else []

    def _reset(self, stream: int) -> list[Said]:
        """A client that gives up its stdin types no more; without stdout or error it has nothing left to hear."""
        name = next((name for name, each in self._streams.items() if each == stream), "")
        if name == "stdin":
            return [InputEnded()]
        return [Left()] if name in ("stdout", "error") else []

    def _say(self, name: str, data: bytes, *, end: bool = False) -> None:
        if name in self._streams:
            self._connection.send(self._streams[name], data, end=end)
