"""remotecommand on WebSocket, in all variants; the client's frames are wsproto's."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from sri_libvirt.console.protocol import InputEnded, Left, Outcome, ProtocolError, Said, Typed
from sri_libvirt.console.websocket import SUBPROTOCOLS, WebSocketDialogue

V5 = "v5.channel.k8s.io"
BINARY = [each for each in SUBPROTOCOLS if "base64" not in each]
BASE64 = [each for each in SUBPROTOCOLS if "base64" in each]


def typed(found: list[Said]) -> bytes:
    return b"".join(each.data for each in found if isinstance(each, Typed))


def events(client: Connection, data: bytes) -> list[Event]:
    client.receive_data(data)
    return list(client.events())


def message(subprotocol: str, channel: int, payload: bytes) -> BytesMessage | TextMessage:
    if subprotocol in BASE64:
        return TextMessage(f"{channel}{base64.b64encode(payload).decode()}")
    return BytesMessage(bytes([channel]) + payload)


@pytest.fixture
def client() -> Connection:
    return Connection(ConnectionType.CLIENT)


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_an_ordinary_session(client: Connection, subprotocol: str) -> None:
    dialogue = WebSocketDialogue(subprotocol)
    assert dialogue.ready
    (hello,) = events(client, dialogue.take())
    assert hello == message(subprotocol, 1, b"")
    assert dialogue.receive(client.send(message(subprotocol, 0, b"ls\n"))) == [Typed(b"ls\n")]
    assert dialogue.receive(client.send(message(subprotocol, 4, b'{"Width":80,"Height":24}'))) == []
    assert dialogue.receive(client.send(message(subprotocol, 1, b"no"))) == [], "stdout is ours"
    dialogue.show(b"\x00\xffroot\r\n")
    assert events(client, dialogue.take()) == [message(subprotocol, 1, b"\x00\xffroot\r\n")]
    dialogue.finish(Outcome())
    dialogue.close()
    *last, end = events(client, dialogue.take())
    assert isinstance(end, CloseConnection)
    assert end.code == 1000
    assert last == ([message(subprotocol, 3, Outcome().as_json())] if subprotocol.startswith("v") else [])


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_a_failure_is_told(client: Connection, subprotocol: str) -> None:
    dialogue = WebSocketDialogue(subprotocol)
    dialogue.take()
    dialogue.finish(Outcome("the guest is gone"))
    (told,) = events(client, dialogue.take())
    assert isinstance(told, BytesMessage | TextMessage)
    words = told.data.encode() if isinstance(told, TextMessage) else bytes(told.data)
    payload = base64.b64decode(words[1:]) if subprotocol in BASE64 else words[1:]
    if subprotocol.startswith("v"):
        assert json.loads(payload)["message"] == "the guest is gone"
    else:
        assert payload == b"the guest is gone"


@given(payload=st.binary(min_size=1, max_size=500), data=st.data())
@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_what_is_typed_arrives_in_whatever_pieces(subprotocol: str, payload: bytes, data: st.DataObject) -> None:
    dialogue, client = WebSocketDialogue(subprotocol), Connection(ConnectionType.CLIENT)
    whole, found = client.send(message(subprotocol, 0, payload)), list[Said]()
    while whole:
        size = data.draw(st.integers(1, len(whole)))
        found += dialogue.receive(whole[:size])
        whole = whole[size:]
    assert typed(found) == payload


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_a_message_in_many_frames(client: Connection, subprotocol: str) -> None:
    dialogue, found = WebSocketDialogue(subprotocol), list[Said]()
    whole = message(subprotocol, 0, b"abcdefgh")
    for at in range(len(whole.data)):
        finished = at == len(whole.data) - 1
        found += dialogue.receive(client.send(type(whole)(whole.data[at : at + 1], message_finished=finished)))  # type: ignore[arg-type]
    assert typed(found) == b"abcdefgh"


@pytest.mark.parametrize("subprotocol", BINARY)
def test_either_kind_of_frame_is_read(client: Connection, subprotocol: str) -> None:
    dialogue = WebSocketDialogue(subprotocol)
    assert dialogue.receive(client.send(TextMessage("\0ls"))) == [Typed(b"ls")]
    assert dialogue.receive(client.send(BytesMessage(b""))) == []
    assert dialogue.receive(client.send(BytesMessage(b"\0"))) == []


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
def test_the_end_of_input_is_told_in_version_5_alone(client: Connection, subprotocol: str) -> None:
    dialogue = WebSocketDialogue(subprotocol)
    if subprotocol in BASE64:
        return
    expected = [InputEnded()] if subprotocol == V5 else []
    assert dialogue.receive(client.send(BytesMessage(b"\xff\x00"))) == expected
    assert dialogue.receive(client.send(BytesMessage(b"\xff\x04"))) == []


def test_a_client_that_closes_is_answered(client: Connection) -> None:
    dialogue = WebSocketDialogue(V5)
    dialogue.take()
    assert dialogue.receive(client.send(CloseConnection(1000))) == [Left()]
    (answer,) = events(client, dialogue.take())
    assert isinstance(answer, CloseConnection)
    assert dialogue.receive(b"more") == []
    dialogue.show(b"late")
    dialogue.close()
    assert dialogue.take() == b""


def test_pings_both_ways(client: Connection) -> None:
    dialogue = WebSocketDialogue(V5)
    dialogue.take()
    assert dialogue.receive(client.send(Ping(b"?"))) == []
    assert events(client, dialogue.take()) == [Pong(b"?")]
    dialogue.ping()
    (ping,) = events(client, dialogue.take())
    assert isinstance(ping, Ping)
    assert dialogue.receive(client.send(ping.response())) == []


BAD: dict[str, Callable[[], bytes]] = {
    "no mask": lambda: b"\x82\x01a",
    "an opcode that there is not": lambda: b"\x83\x80aaaa",
    "a bit of an extension": lambda: b"\xc2\x80aaaa",
    "a long ping": lambda: b"\x89\xfe\x00\x7eaaaa",
    "text that is none": lambda: b"\x81\x81\x00\x00\x00\x00\xff",
}


@pytest.mark.parametrize("what", BAD)
def test_what_no_client_may_say_ends_it_with_a_close(client: Connection, what: str) -> None:
    dialogue = WebSocketDialogue(V5)
    dialogue.take()
    with pytest.raises(ProtocolError):
        dialogue.receive(BAD[what]())
    (end,) = events(client, dialogue.take())
    assert isinstance(end, CloseConnection)
    assert end.code in (1002, 1007)
    assert dialogue.receive(b"more") == []


def test_base64_that_is_none(client: Connection) -> None:
    dialogue = WebSocketDialogue("v4.base64.channel.k8s.io")
    dialogue.take()
    with pytest.raises(ProtocolError, match="base64"):
        dialogue.receive(client.send(TextMessage("0!!!!")))
    (end,) = events(client, dialogue.take())
    assert isinstance(end, CloseConnection)
    assert end.code == 1002


def test_who_asks_and_does_not_read_is_ended(client: Connection) -> None:
    dialogue = WebSocketDialogue(V5)
    ping = client.send(Ping(b"x" * 100))
    with pytest.raises(ProtocolError, match="more is asked"):
        dialogue.receive(ping * 10_000)
    assert len(dialogue.take()) < 300_000


@given(st.lists(st.binary(max_size=64), max_size=20))
@pytest.mark.parametrize("subprotocol", [V5, "base64.channel.k8s.io"])
def test_nothing_that_comes_breaks_it(subprotocol: str, pieces: list[bytes]) -> None:
    dialogue = WebSocketDialogue(subprotocol)
    try:
        for each in pieces:
            dialogue.receive(each)
    except ProtocolError:
        assert dialogue.take(), "the peer is told"
