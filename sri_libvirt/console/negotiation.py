"""From an HTTP/1.1 request to a protocol, or to a refusal in words that Kubernetes' clients show (contract B.2, B.3).

    a path that is none of a session's, or HEAD              404; another method 405
    Upgrade: websocket, with a known subprotocol or none     101; with unknown ones alone 403, and the client may come
                                                             again by SPDY
    Upgrade: SPDY/3.1, with a known version                  101; without one 400, with unknown ones alone 403
    neither                                                  400

What was asked is pure data here; h11 has read it. Which tokens there are does not belong here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

from sri_libvirt.console import remotecommand, websocket
from sri_libvirt.console.protocol import Dialogue
from sri_libvirt.console.remotecommand import SpdyDialogue
from sri_libvirt.console.websocket import WebSocketDialogue

Headers = Sequence[tuple[bytes, bytes]]
"""Names in lower case, as h11 gives them."""

PREFIX = b"/exec/"

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
"""RFC 6455, section 1.3."""

_REASONS = {400: "BadRequest", 403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 409: "Conflict"}
"""`metav1.Status` calls them so; the others it has no word for that a client heeds."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that is no upgrade."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What the client and we both speak. `headers` are of the 101."""

    headers: tuple[tuple[str, str], ...]
    version: str
    by_websocket: bool

    def dialogue(self) -> Dialogue:
        return WebSocketDialogue(self.version) if self.by_websocket else SpdyDialogue(self.version)


def token_of(target: bytes) -> str:
    """The token in a request's target; "" if it is not the path of a session."""
    path = target.partition(b"?")[0]
    token = path.removeprefix(PREFIX)
    return token.decode("latin-1") if path.startswith(PREFIX) and b"/" not in token else ""


def negotiate(method: bytes, headers: Headers) -> Upgrade | Refusal:
    """What a request for a session leads to, whatever its token."""
    if method not in (b"GET", b"POST"):
        return NOT_FOUND if method == b"HEAD" else refusal(405, "the method of a console is GET or POST")
    upgrade = ",".join(_values(headers, b"upgrade")).lower()
    if "upgrade" not in ",".join(_values(headers, b"connection")).lower():
        upgrade = ""
    if "websocket" in upgrade:
        return _by_websocket(headers)
    if "spdy/3.1" in upgrade:
        return _by_spdy(headers)
    return refusal(400, "a console is opened by an upgrade to SPDY/3.1 or to WebSocket")


def refusal(status: int, message: str, *more: tuple[str, str]) -> Refusal:
    """One whose body is a `metav1.Status`, which clients print."""
    told: dict[str, object] = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    told |= {"message": message, "code": status} | ({"reason": _REASONS[status]} if status in _REASONS else {})
    body = json.dumps(told, separators=(",", ":")).encode()
    return Refusal(status, (("Content-Type", "application/json"), *more), body)


NOT_FOUND = Refusal(404, (("Content-Type", "text/plain; charset=utf-8"),), b"404 page not found\n")
"""What the reference says of a token that there is not (any more)."""


def _by_spdy(headers: Headers) -> Upgrade | Refusal:
    asked = _values(headers, b"x-stream-protocol-version")
    if not asked:
        return refusal(400, "unable to upgrade: X-Stream-Protocol-Version is required")
    for version in asked:
        if version in remotecommand.VERSIONS:
            found = (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", version))
            return Upgrade(found, version, by_websocket=False)
    known = tuple(("X-Accepted-Stream-Protocol-Versions", each) for each in remotecommand.VERSIONS)
    return refusal(403, "unable to upgrade: no version of remotecommand is known to both", *known)


def _by_websocket(headers: Headers) -> Upgrade | Refusal:
    if _values(headers, b"sec-websocket-version") != ["13"]:
        return refusal(426, "the version of WebSocket is 13", ("Sec-WebSocket-Version", "13"))
    keys = _values(headers, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return refusal(400, "a WebSocket needs one Sec-WebSocket-Key, of 16 bytes in base64")
    asked = _values(headers, b"sec-websocket-protocol") or [""]
    chosen = next((each for each in asked if each in websocket.SUBPROTOCOLS), None)
    if chosen is None:
        return refusal(403, f"no subprotocol is known to both; here {', '.join(filter(None, websocket.SUBPROTOCOLS))}")
    accept = base64.b64encode(hashlib.sha1(keys[0].encode() + _GUID, usedforsecurity=False).digest()).decode()
    found = (("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", accept))
    more = (("Sec-WebSocket-Protocol", chosen),) if chosen else ()
    return Upgrade((*found, *more), chosen, by_websocket=True)


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False


def _values(headers: Headers, name: bytes) -> list[str]:
    """Of a header that may come in several lines, and in one with commas."""
    lines = [value.decode("latin-1") for each, value in headers if each == name]
    return [word for line in lines for part in line.split(",") if (word := part.strip())]


def head(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    """A response up to its body."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
