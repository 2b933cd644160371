"""SPDY/3.1, fed whole, byte by byte, and with what no client should say."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.console.dictionary import DICTIONARY
from sri_libvirt.console.protocol import MOST_QUEUED, ProtocolError
from sri_libvirt.console.spdy import (
    MOST_CONTROL_BYTES,
    MOST_HEADER_BYTES,
    MOST_STREAMS,
    Code,
    DataReceived,
    Event,
    Ponged,
    SpdyConnection,
    StreamEnded,
    StreamOpened,
    StreamReset,
    WentAway,
)
from tests.terminal.spdy import (
    DATA,
    FIN,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    SETTINGS,
    SYN_REPLY,
    WINDOW_UPDATE,
    Frame,
    SpdyClient,
    control,
    data,
)

WINDOW = 65536


@pytest.fixture
def server() -> SpdyConnection:
    return SpdyConnection()


@pytest.fixture
def client() -> SpdyClient:
    return SpdyClient()


def joined(events: list[Event]) -> list[Event]:
    """Pieces of data that follow each other as one."""
    found: list[Event] = []
    for each in events:
        last = found[-1] if found else None
        if isinstance(each, DataReceived) and isinstance(last, DataReceived) and last.stream == each.stream:
            found[-1] = DataReceived(each.stream, last.data + each.data)
        else:
            found.append(each)
    return found


def test_the_dictionary_is_the_protocols() -> None:
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2
    assert hashlib.sha256(DICTIONARY).hexdigest() == "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02"


def session(client: SpdyClient) -> tuple[bytes, list[Event]]:
    """What a client says in an ordinary session, and what it means."""
    said = (
        control(SETTINGS, struct.pack(">III", 1, 7, WINDOW))
        + client.open(1, "error")
        + client.open(3, "stdin")
        + control(PING, struct.pack(">I", 5))
        + client.open(5, "stdout", FIN)
        + data(3, b"ls")
        + data(3, b"")
        + data(3, b"\n", FIN)
        + control(0xF000, b"something of spdy-transport's own")
        + control(HEADERS, struct.pack(">I", 1) + client.block({"a": "b"}))
        + control(RST_STREAM, struct.pack(">II", 1, 5))
        + control(GOAWAY, struct.pack(">II", 0, 0))
        + b"and nothing after it counts"
    )
    return said, [
        StreamOpened(1, {"streamtype": "error"}, False),
        StreamOpened(3, {"streamtype": "stdin"}, False),
        StreamOpened(5, {"streamtype": "stdout"}, True),
        DataReceived(3, b"ls\n"),
        StreamEnded(3),
        StreamReset(1),
        WentAway(),
    ]


def test_an_ordinary_session(server: SpdyConnection, client: SpdyClient) -> None:
    said, meant = session(client)
    assert joined(server.receive(said)) == meant
    assert client.read(server.output.take()) == [Frame(PING, 0, 0, struct.pack(">I", 5))]


def test_it_means_the_same_byte_by_byte(server: SpdyConnection, client: SpdyClient) -> None:
    said, meant = session(client)
    assert joined([event for byte in said for event in server.receive(bytes([byte]))]) == meant


@given(st.data())
def test_it_means_the_same_in_any_pieces(pieces: st.DataObject) -> None:
    server, (said, meant), found = SpdyConnection(), session(SpdyClient()), list[Event]()
    while said:
        size = pieces.draw(st.integers(1, len(said)))
        found += server.receive(said[:size])
        said = said[size:]
    assert joined(found) == meant


@given(st.lists(st.binary(max_size=64), max_size=20))
def test_nothing_that_comes_breaks_it(pieces: list[bytes]) -> None:
    server = SpdyConnection()
    server.receive(SpdyClient().open(1, "stdin"))
    try:
        for each in pieces:
            server.receive(each)
    except ProtocolError:
        assert server.output.take().endswith(struct.pack(">II", 1, 1)), "the peer is told"


@given(st.integers(0, 400), st.integers(0, 255))
def test_no_damage_breaks_it(at: int, byte: int) -> None:
    server, (said, _) = SpdyConnection(), session(SpdyClient())
    said = said[: at % len(said)] + bytes([byte]) + said[at % len(said) + 1 :]
    try:
        server.receive(said)
    except ProtocolError:
        assert server.output.take().endswith(struct.pack(">I", 1))


def test_a_reply_has_what_go_and_spdy_transport_need(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(client.open(1, "error"))
    server.reply(1)
    server.reply(1)
    for frame in client.read(server.output.take()):
        assert (frame.kind, frame.payload[:4]) == (SYN_REPLY, struct.pack(">I", 1))
        text = client.inflate.decompress(frame.payload[4:])
        assert text == b"".join(
            len(word).to_bytes(4, "big") + word if word else struct.pack(">I", 2)
            for word in (b"", b":status", b"200", b":version", b"HTTP/1.1")
        )


BAD: dict[str, Callable[[SpdyClient], bytes]] = {
    "another version": lambda client: control(PING, bytes(4), version=2),
    "a long control frame": lambda client: struct.pack(">HHI", 0x8003, HEADERS, MOST_CONTROL_BYTES + 1),
    "no room for an id": lambda client: control(1, b"123"),
    "a short ping": lambda client: control(PING, b"1"),
    "a short goaway": lambda client: control(GOAWAY, b"1234"),
    "settings that lie": lambda client: control(SETTINGS, struct.pack(">I", 7)),
    "no headers": lambda client: control(1, bytes(10)),
    "headers that are no zlib": lambda client: control(1, bytes(10) + b"garbage"),
    "a header bomb": lambda client: control(
        1, struct.pack(">IIH", 1, 0, 0) + client.raw_block(bytes(MOST_HEADER_BYTES + 1))
    ),
    "headers that end too soon": lambda client: control(
        1, bytes(10) + client.raw_block(struct.pack(">II", 1, 100) + b"a")
    ),
    "a header twice": lambda client: control(
        1, bytes(10) + client.raw_block(struct.pack(">I", 2) + 2 * (struct.pack(">I", 1) + b"a" + bytes(4)))
    ),
    "a header without a name": lambda client: control(1, bytes(10) + client.raw_block(struct.pack(">III", 1, 0, 0))),
    "a dictionary that is another": lambda client: control(1, bytes(10) + zlib.compress(b"x")),
}


@pytest.mark.parametrize("what", BAD)
def test_what_no_client_may_say_ends_the_connection_with_a_goaway(
    server: SpdyConnection, client: SpdyClient, what: str
) -> None:
    with pytest.raises(ProtocolError):
        server.receive(BAD[what](client))
    assert client.read(server.output.take()) == [Frame(GOAWAY, 0, 0, struct.pack(">II", 0, 1))]
    assert server.receive(data(1, b"more")) == []
    server.ping()
    assert server.output.take() == b"", "nothing is said after it"


@pytest.mark.parametrize(
    ("before", "said", "code"),
    [
        ([], lambda client: client.open(2, "stdin"), Code.PROTOCOL_ERROR),
        ([5], lambda client: client.open(3, "stdin"), Code.PROTOCOL_ERROR),
        ([5], lambda client: client.open(5, "stdin"), Code.PROTOCOL_ERROR),
        ([], lambda client: client.open(1, "stdin", 2), Code.REFUSED_STREAM),
        (range(1, 2 * MOST_STREAMS, 2), lambda client: client.open(99, "stdin"), Code.REFUSED_STREAM),
        ([], lambda _: data(7, b"to nobody"), Code.INVALID_STREAM),
    ],
)
def test_a_stream_in_error_is_reset_and_the_others_go_on(
    server: SpdyConnection, client: SpdyClient, before: list[int], said: Callable[[SpdyClient], bytes], code: Code
) -> None:
    for stream in before:
        server.receive(client.open(stream, f"x{stream}"))
    assert server.receive(said(client)) == []
    (reset,) = client.read(server.output.take())
    assert (reset.kind, reset.payload[4:]) == (RST_STREAM, struct.pack(">I", code))
    if code is not Code.REFUSED_STREAM or not before:
        server.receive(client.open(101, "stdin"))
        assert server.receive(data(101, b"a")) == [DataReceived(101, b"a")]


def test_after_its_end_a_stream_takes_nothing(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(client.open(1, "stdin") + data(1, b"", FIN))
    assert server.receive(data(1, b"more" * 1000)) == []
    (reset,) = client.read(server.output.take())
    assert reset.payload == struct.pack(">II", 1, Code.STREAM_ALREADY_CLOSED)


def test_a_frame_of_any_length_is_handed_out_as_it_comes(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(client.open(1, "stdin") + struct.pack(">II", 1, FIN << 24 | 0xFFFFFF))
    left = 0xFFFFFF
    while left:
        size = min(left, 100_000)
        events = server.receive(bytes(size))
        assert events[0] == DataReceived(1, bytes(size))
        left -= size
    assert events[1:] == [StreamEnded(1)]


def test_who_asks_and_does_not_read_is_ended(server: SpdyConnection) -> None:
    with pytest.raises(ProtocolError, match="more is asked"):
        server.receive(control(PING, struct.pack(">I", 1)) * (MOST_QUEUED // 8))
    assert len(server.output.take()) < MOST_QUEUED + 100


def test_pings_of_ours_are_answered(server: SpdyConnection, client: SpdyClient) -> None:
    server.ping()
    server.ping()
    pings = client.read(server.output.take())
    assert [each.payload for each in pings] == [struct.pack(">I", 2), struct.pack(">I", 4)]
    assert server.receive(control(PING, pings[0].payload)) == [Ponged()]


def sent(client: SpdyClient, server: SpdyConnection) -> tuple[bytes, bool]:
    """What has come of a stream, and whether it has ended."""
    frames = [each for each in client.read(server.output.take()) if each.kind == DATA]
    return b"".join(each.payload for each in frames), any(each.flags & FIN for each in frames)


def test_without_flow_control_all_is_sent_at_once(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(client.open(1, "stdout"))
    server.send(1, bytes(WINDOW * 3), end=True)
    assert sent(client, server) == (bytes(WINDOW * 3), True)
    assert server.waiting(1) == 0


def test_windows_hold_once_the_peer_has_them(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(
        control(SETTINGS, struct.pack(">III", 1, 7, 10)) + client.open(1, "stdout") + client.open(3, "error")
    )
    server.send(1, b"0123456789abcdef", end=True)
    assert sent(client, server) == (b"0123456789", False)
    assert server.waiting(1) == 6
    server.receive(control(WINDOW_UPDATE, struct.pack(">II", 1, 4)))
    assert sent(client, server) == (b"abcd", False)
    server.receive(control(SETTINGS, struct.pack(">III", 1, 7, 12)))
    assert sent(client, server) == (b"ef", True)
    server.send(3, b"ok", end=True)
    assert sent(client, server) == (b"ok", True)


def test_the_connection_has_a_window_as_well(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(control(SETTINGS, struct.pack(">III", 1, 7, WINDOW * 4)) + client.open(1, "stdout"))
    server.send(1, bytes(WINDOW + 5))
    assert sent(client, server) == (bytes(WINDOW), False)
    server.receive(control(WINDOW_UPDATE, struct.pack(">II", 0, 3)))
    assert sent(client, server) == (bytes(3), False)
    server.receive(control(WINDOW_UPDATE, struct.pack(">II", 77, 3)))
    assert server.waiting(1) == 2, "a window of a stream that there is not"


def test_an_end_needs_no_window(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(control(SETTINGS, struct.pack(">III", 1, 7, 0)) + client.open(1, "stdout"))
    server.send(1, b"", end=True)
    assert sent(client, server) == (b"", True)


def test_windows_are_renewed_as_what_came_is_consumed(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(client.open(1, "stdin"))
    server.consumed(1, WINDOW // 2 - 1)
    assert server.output.take() == b""
    server.consumed(1, 1)
    renewed = [struct.unpack(">II", each.payload) for each in client.read(server.output.take())]
    assert renewed == [(1, WINDOW // 2), (0, WINDOW // 2)]


def test_after_both_ends_a_stream_is_forgotten(server: SpdyConnection, client: SpdyClient) -> None:
    for stream in range(1, 20 * MOST_STREAMS, 2):
        (opened,) = server.receive(client.open(stream, "stdout", FIN))
        assert isinstance(opened, StreamOpened)
        server.send(stream, b"", end=True)


def test_the_last_word_is_a_goaway(server: SpdyConnection, client: SpdyClient) -> None:
    server.receive(client.open(5, "stdout"))
    server.goaway()
    server.send(5, b"late")
    assert client.read(server.output.take()) == [Frame(GOAWAY, 0, 0, struct.pack(">II", 5, 0))]
