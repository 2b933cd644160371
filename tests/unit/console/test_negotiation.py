"""What a request for a console is answered: an upgrade, or words."""

from __future__ import annotations

import json

import pytest

from sri_libvirt.console.negotiation import NOT_FOUND, Refusal, Upgrade, head, negotiate, token_of
from sri_libvirt.console.remotecommand import VERSIONS, SpdyDialogue
from sri_libvirt.console.websocket import SUBPROTOCOLS, WebSocketDialogue

Pairs = list[tuple[bytes, bytes]]
VERSION = b"x-stream-protocol-version"
PROTOCOL = b"sec-websocket-protocol"


def spdy(*versions: bytes, upgrade: bytes = b"SPDY/3.1", connection: bytes = b"Upgrade") -> Pairs:
    return [(b"connection", connection), (b"upgrade", upgrade), *((VERSION, each) for each in versions)]


def websocket(*protocols: bytes, key: bytes = b"dGhlIHNhbXBsZSBub25jZQ==", version: bytes = b"13") -> Pairs:
    return [
        (b"connection", b"keep-alive, Upgrade"),
        (b"upgrade", b"websocket"),
        (b"sec-websocket-key", key),
        (b"sec-websocket-version", version),
        *((PROTOCOL, each) for each in protocols),
    ]


@pytest.mark.parametrize(
    ("target", "token"),
    [
        (b"/exec/abc", "abc"),
        (b"/exec/abc?x=1", "abc"),
        (b"/exec/", ""),
        (b"/exec/a/b", ""),
        (b"/other/abc", ""),
        (b"*", ""),
        (b"http://host/exec/abc", ""),
    ],
)
def test_the_token(target: bytes, token: str) -> None:
    assert token_of(target) == token


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize(
    ("headers", "chosen"),
    [
        (spdy(*(each.encode() for each in VERSIONS)), VERSIONS[0]),
        (spdy(b"v4.channel.k8s.io, v3.channel.k8s.io"), "v4.channel.k8s.io"),
        (spdy(b"v9.channel.k8s.io", b"channel.k8s.io"), "channel.k8s.io"),
        (spdy(b"v2.channel.k8s.io", upgrade=b"spdy/3.1", connection=b"keep-alive, upgrade"), "v2.channel.k8s.io"),
    ],
)
def test_spdy_takes_the_clients_first_choice(method: bytes, headers: Pairs, chosen: str) -> None:
    found = negotiate(method, headers)
    assert isinstance(found, Upgrade)
    assert (found.version, found.by_websocket) == (chosen, False)
    assert dict(found.headers) == {
        "Connection": "Upgrade", "Upgrade": "SPDY/3.1", "X-Stream-Protocol-Version": chosen,
    }  # fmt: skip
    assert isinstance(found.dialogue(), SpdyDialogue)


@pytest.mark.parametrize(
    ("headers", "chosen"),
    [
        (websocket(), ""),
        *((websocket(each.encode()), each) for each in SUBPROTOCOLS if each),
        (websocket(b"v5.channel.k8s.io, v4.channel.k8s.io"), "v5.channel.k8s.io"),
        (websocket(b"v9.channel.k8s.io", b"v4.channel.k8s.io"), "v4.channel.k8s.io"),
    ],
)
def test_websocket_takes_the_clients_first_choice(headers: Pairs, chosen: str) -> None:
    found = negotiate(b"GET", headers)
    assert isinstance(found, Upgrade)
    assert (found.version, found.by_websocket) == (chosen, True)
    told = dict(found.headers)
    assert told["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "RFC 6455's own example"
    assert told.get("Sec-WebSocket-Protocol", "") == chosen
    assert isinstance(found.dialogue(), WebSocketDialogue)


@pytest.mark.parametrize(
    ("method", "headers", "status", "words"),
    [
        (b"PUT", spdy(b"v4.channel.k8s.io"), 405, "GET or POST"),
        (b"GET", [], 400, "by an upgrade"),
        (b"GET", spdy(b"v4.channel.k8s.io", upgrade=b"h2c"), 400, "by an upgrade"),
        (b"GET", spdy(b"v4.channel.k8s.io", connection=b"close"), 400, "by an upgrade"),
        (b"POST", spdy(), 400, "X-Stream-Protocol-Version is required"),
        (b"POST", spdy(b"v9.channel.k8s.io"), 403, "no version"),
        (b"GET", websocket(b"v9.channel.k8s.io"), 403, "no subprotocol"),
        (b"GET", websocket(key=b"short"), 400, "Sec-WebSocket-Key"),
        (b"GET", websocket(key=b"\xe9"), 400, "Sec-WebSocket-Key"),
        (b"GET", websocket(version=b"8"), 426, "13"),
    ],
)
def test_a_refusal_is_a_status_that_clients_print(method: bytes, headers: Pairs, status: int, words: str) -> None:
    found = negotiate(method, headers)
    assert isinstance(found, Refusal)
    assert found.status == status
    told = json.loads(found.body)
    assert (told["kind"], told["apiVersion"], told["status"], told["code"]) == ("Status", "v1", "Failure", status)
    assert words in told["message"]


def test_who_has_no_version_in_common_is_told_all_of_ours() -> None:
    found = negotiate(b"POST", spdy(b"v9.channel.k8s.io"))
    assert isinstance(found, Refusal)
    told = [value for name, value in found.headers if name == "X-Accepted-Stream-Protocol-Versions"]
    assert told == list(VERSIONS)


def test_head_finds_nothing() -> None:
    assert negotiate(b"HEAD", []) == NOT_FOUND
    assert (NOT_FOUND.status, NOT_FOUND.body) == (404, b"404 page not found\n")


def test_a_head() -> None:
    assert head(101, [("Upgrade", "SPDY/3.1")]) == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\n\r\n"
