"""remotecommand on SPDY: which stream is what, what is typed and shown, and how it ends."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from pathlib import Path

import pytest

from sri_libvirt.console.protocol import InputEnded, Left, Outcome, Typed
from sri_libvirt.console.remotecommand import V4, V5, VERSIONS, SpdyDialogue
from tests.terminal.spdy import (
    DATA,
    FIN,
    GOAWAY,
    RST_STREAM,
    SETTINGS,
    SYN_REPLY,
    WINDOW_UPDATE,
    Frame,
    SpdyClient,
    control,
    data,
)

IN_ORDER = ("error", "stdin", "stdout", "resize")
STREAMS = {"error": 1, "stdin": 3, "stdout": 5, "resize": 7}


def opened(dialogue: SpdyDialogue, client: SpdyClient, *names: str) -> list[Frame]:
    for name in names or IN_ORDER:
        assert dialogue.receive(client.open(STREAMS[name], name)) == []
    return client.read(dialogue.take())


def said(frames: list[Frame], stream: int) -> tuple[bytes, bool]:
    ours = [each for each in frames if each.kind == DATA and each.stream == stream]
    return b"".join(each.payload for each in ours), any(each.flags & FIN for each in ours)


def test_each_stream_is_replied_to_at_once_and_two_make_it_ready() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    for name in IN_ORDER:
        assert dialogue.ready == (name == "resize")
        (reply,) = opened(dialogue, client, name)
        assert (reply.kind, reply.payload[:4]) == (SYN_REPLY, struct.pack(">I", STREAMS[name]))


def test_a_client_may_only_watch() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    opened(dialogue, client, "error", "stdout")
    assert dialogue.ready
    dialogue.show(b"login: ")
    dialogue.finish(Outcome())
    frames = client.read(dialogue.take())
    assert said(frames, 5) == (b"login: ", True)
    assert json.loads(said(frames, 1)[0])["status"] == "Success"


def test_what_is_typed() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    opened(dialogue, client)
    assert dialogue.receive(data(3, b"ls\n") + data(7, b'{"Width":80,"Height":24}\n')) == [Typed(b"ls\n")]
    assert dialogue.receive(data(3, b"\x04", FIN)) == [Typed(b"\x04"), InputEnded()]


def test_what_was_typed_makes_room_for_more_once_the_guest_has_it() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    opened(dialogue, client)
    dialogue.receive(data(3, bytes(40_000)))
    assert dialogue.take() == b""
    dialogue.consumed(40_000)
    assert struct.unpack(">II", client.read(dialogue.take())[0].payload) == (3, 40_000)


def test_a_stdin_that_is_opened_and_ended_at_once() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    assert dialogue.receive(client.open(1, "stdin", FIN)) == [InputEnded()]


@pytest.mark.parametrize("name", ["stdin", "file", ""])
def test_what_is_there_or_unknown_is_refused_and_the_session_goes_on(name: str) -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    opened(dialogue, client)
    assert dialogue.receive(client.open(9, name) + data(3, b"a")) == [Typed(b"a")]
    (reset,) = client.read(dialogue.take())
    assert (reset.kind, reset.payload) == (RST_STREAM, struct.pack(">II", 9, 3))


@pytest.mark.parametrize(("stream", "means"), [(3, [InputEnded()]), (5, [Left()]), (1, [Left()]), (7, []), (9, [])])
def test_a_stream_that_is_given_up(stream: int, means: list[object]) -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    opened(dialogue, client)
    assert dialogue.receive(control(RST_STREAM, struct.pack(">II", stream, 5))) == means


def test_a_client_that_goes() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    opened(dialogue, client)
    assert dialogue.receive(control(GOAWAY, struct.pack(">II", 0, 0))) == [Left()]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("problem", ["", "the guest is gone"])
def test_the_end(version: str, problem: str) -> None:
    dialogue, client = SpdyDialogue(version), SpdyClient()
    opened(dialogue, client)
    dialogue.finish(Outcome(problem))
    dialogue.close()
    frames = client.read(dialogue.take())
    words, ended = said(frames, 1)
    assert ended
    if version in (V4, V5):
        expected: dict[str, object] = {"metadata": {}, "status": "Failure" if problem else "Success"}
        more = {"message": problem, "reason": "InternalError", "code": 500} if problem else {}
        assert json.loads(words) == expected | more
    else:
        assert words == problem.encode()
    assert [said(frames, stream)[1] for stream in (3, 5, 7)] == [True] * 3
    order = [each.stream for each in frames if each.kind == DATA]
    assert order.index(5) < order.index(1), "stdout ends before it is told how it ended"
    assert frames[-1].kind == GOAWAY


def test_who_reads_slowly_is_waited_for() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    dialogue.receive(control(SETTINGS, struct.pack(">III", 1, 7, 10)))
    opened(dialogue, client)
    dialogue.show(b"0123456789abc")
    assert dialogue.waiting == 3
    dialogue.show(b"d")
    assert dialogue.waiting == 4


def test_our_pings() -> None:
    dialogue, client = SpdyDialogue(V4), SpdyClient()
    dialogue.ping()
    (ping,) = client.read(dialogue.take())
    assert dialogue.receive(control(ping.kind, ping.payload)) == []


def test_headers_by_their_own_compression() -> None:
    """A client may compress without the dictionary's words, as long as it names it."""
    dialogue = SpdyDialogue(V4)
    client = SpdyClient(deflate=_stored())
    dialogue.receive(client.open(1, "error"))
    assert client.read(dialogue.take())[0].kind == SYN_REPLY


def _stored() -> zlib._Compress:
    from sri_libvirt.console.dictionary import DICTIONARY

    return zlib.compressobj(0, zlib.DEFLATED, 15, 9, zlib.Z_DEFAULT_STRATEGY, DICTIONARY)


def test_what_npms_spdy_transport_has_said() -> None:
    """Recorded of tests/terminal/spdy_transport.js, which typed 100,000 bytes and read as many: the one client that has
    windows, and its own compression of headers."""
    recorded = gzip.decompress(Path(__file__).with_name("spdy_transport.gz").read_bytes())
    for size in (1, 7, 1000, len(recorded)):
        dialogue, typed, client = SpdyDialogue(V4), 0, SpdyClient()
        frames: list[Frame] = []
        for begin in range(0, len(recorded), size):
            for each in dialogue.receive(recorded[begin : begin + size]):
                if isinstance(each, Typed):
                    typed += len(each.data)
                    dialogue.consumed(len(each.data))
            frames += client.read(dialogue.take())
        assert typed == 100_000
        assert dialogue.ready
        assert [each.kind for each in frames].count(SYN_REPLY) == 4
        granted = [struct.unpack(">II", each.payload) for each in frames if each.kind == WINDOW_UPDATE]
        assert {stream for stream, _ in granted} == {0, 3}, "of the connection, and of stdin"
        assert sum(more for stream, more in granted if stream == 3) > 100_000 - 64 * 1024
        dialogue.show(bytes(1 << 20))
        assert not dialogue.waiting, "it has opened its windows so far"
        dialogue.show(bytes(1 << 20))
        assert dialogue.waiting >= (1 << 20) - 100_000
