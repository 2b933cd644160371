"""Web servers in threads of the tests: with files, or in front of a registry, and with whatever goes wrong on the way.

What a registry is, and how one logs in to it, does not belong here; nor what is served, which is the test's.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import socketserver
import ssl
import struct
import sys
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from fnmatch import fnmatchcase
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit

from tests.backends.daemon import START_SECONDS, loopback
from tests.backends.nbd import certificates

BEFORE = -1
"""In place of a number of bytes of the body: before the first word of the answer."""

_PORT = 18080
_CHUNK = 1 << 18
_PACES_PER_SECOND = 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_OWN_HEADERS = {"connection", "date", "server", "transfer-encoding"}
"""Of the connection, not of what is served: they are not passed on."""


# HTTP in a thread.


class HttpServer(ThreadingHTTPServer):
    """HTTP, or https with a directory of certificates, in threads of the tests. What is answered is the handler's.

    It listens once made, answers after `begin()`, and has let go of everybody after `end()`.
    """

    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler], tls: Path | None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if self._context and tls:
            self._context.load_cert_chain(tls / "server-cert.pem", tls / "server-key.pem")
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        super().__init__(address, handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Nobody is answered any longer, and who is connected is no more."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # it may have gone by itself
                    # Not SSLSocket's own, which takes the session from under the thread that reads.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    # Of the standard library's servers.

    def server_bind(self) -> None:
        """Without the look at DNS that HTTPServer has, which may take its time."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._context:
            # The handshake is the handler's thread's: who never sends a word shall not hold up the others.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        if _is_to_reset(request):
            self.close_request(request)  # without the FIN, which would come first
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go are the tests' purpose; only what is wrong with a server itself is shown."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def certified(tls: Path, address: str) -> Path:
    """The directory, with an authority and a certificate for that address unless there is a certificate already."""
    if not (tls / "server-cert.pem").exists():
        certificates(tls, address)
    return tls


def _is_to_reset(connection: socket.socket) -> bool:
    try:
        return struct.unpack("ii", connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
    except OSError:
        return False


# What is asked, and what goes wrong.


@dataclass
class Request:
    """What was asked, and what of the answer was sent so far."""

    method: str
    target: str
    """With its query."""
    headers: Message
    status: int = 0
    """0 until there is an answer."""
    sent: int = 0
    """Bytes of the body. Some may not have arrived: who went away is noticed late."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


@dataclass(frozen=True)
class Fault:
    """What goes wrong with an answer; several things may at once. Numbers of bytes are of this answer's body."""

    status: int = 0
    """This status, with `content` or a few words for a body. With `redirect` it is that one's status."""
    redirect: str = ""
    """To this URL, with 307 unless `status` says another; {path} and {name} (its last part) are the request's."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """In place of the true ones, such as Retry-After, Content-Range or a Content-Length that lies; "" for none."""
    content: bytes | Path | None = None
    """In place of the true content, with or without `status`."""
    flip: int | None = None
    """The byte at this offset of the whole file is another than it was."""
    drop_after: int | None = None
    """The connection ends after so many bytes; BEFORE: without an answer."""
    reset: bool = False
    """With `drop_after`: by a reset, not in order. (Python's ssl takes either for an end, unlike its sockets.)"""
    hang_after: int | None = None
    """After so many bytes nothing comes until `release()`; BEFORE: not even the status."""
    ignore_range: bool = False
    """The whole file by 200, whatever range was asked for."""
    bytes_per_second: int = 0


class Proxied(Protocol):
    """What a web server can be in front of."""

    @property
    def url(self) -> str: ...

    @property
    def ca(self) -> Path | None: ...


@dataclass
class _Rule:
    pattern: str
    fault: Fault
    times: int | None
    method: str


@dataclass
class _Answer:
    status: int
    headers: dict[str, str]
    body: BinaryIO
    length: int
    start: int = 0
    """Where in the whole file the body begins."""


# The server.


class WebServer:
    """Files by path, or what a registry serves below /v2/. `start()` it once made; `close()` it always.

    It has ranges, If-Range and ETags, and an address of its own unless `address` names one: a certificate that is
    made for one address serves several servers there, each with a port of its own. `files` may be changed meanwhile.
    With `proxy` a path that is not among them is asked of the registry, which gets the headers that came.
    """

    def __init__(
        self,
        files: Mapping[str, bytes | Path] | None = None,
        *,
        proxy: Proxied | None = None,
        tls: Path | None = None,
        address: str = "",
    ) -> None:
        self.address, self.port = address or loopback(), _PORT
        self.files = dict(files or {})
        self.requests: list[Request] = []
        """In the order in which they came, those that are not answered yet too."""
        self._proxy = proxy
        self._tls = certified(tls, self.address) if tls else None
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        self._released = threading.Event()
        self._closed = threading.Event()
        self._server: _Server | None = None

    @property
    def host(self) -> str:
        """With its port."""
        return f"{self.address}:{self.port}"

    @property
    def url(self) -> str:
        """Without a path, and without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    @property
    def ca(self) -> Path | None:
        """Who vouches for it, if it is https."""
        return self._tls / "ca-cert.pem" if self._tls else None

    # Life.

    def start(self) -> None:
        """Serve, always at the same address."""
        if self._server is None:
            self._closed.clear()
            self._server = _Server(self, (self.address, self.port), self._tls)
            self._server.begin()

    def close(self) -> None:
        """Whoever connects is refused, and who is connected is dropped. Idempotent."""
        if self._server is not None:
            self._server.end()
            self._server = None
            # Only now: what waits must not go on to somebody.
            self._closed.set()
            self.release()

    def __enter__(self) -> WebServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Faults.

    def misbehave(self, pattern: str, fault: Fault, times: int | None = None, method: str = "GET") -> None:
        """From now on that goes wrong with paths of this pattern (as of a shell; * takes slashes too).

        So many times, or always. What was said first is used up first: faults of one path queue. Method "": any.
        """
        with self._lock:
            self._rules.append(_Rule(pattern, fault, times, method))

    def behave(self) -> None:
        """From now on nothing goes wrong, and what hangs goes on."""
        with self._lock:
            self._rules.clear()
        self.release()

    def release(self) -> None:
        """What hangs now goes on."""
        with self._lock:
            self._released.set()
            self._released = threading.Event()

    def asked(self, pattern: str = "*", method: str = "") -> list[Request]:
        """The requests for paths of a pattern."""
        return [r for r in list(self.requests) if fnmatchcase(r.path, pattern) and method in ("", r.method)]

    # For the handler.

    def fault_of(self, request: Request) -> Fault:
        """What goes wrong with a request; it has happened then."""
        with self._lock:
            for rule in self._rules:
                wanted = rule.method in ("", request.method) and fnmatchcase(request.path, rule.pattern)
                if wanted and rule.times != 0:
                    rule.times = rule.times and rule.times - 1
                    return rule.fault
        return Fault()

    def hang(self) -> None:
        """Wait until it is released, or closed."""
        with self._lock:
            released = self._released
        if not self._closed.is_set():
            released.wait()

    def pause(self, seconds: float) -> None:
        """Wait so long, but for one that is closed."""
        self._closed.wait(seconds)

    @contextmanager
    def answer(self, request: Request, fault: Fault) -> Iterator[_Answer]:
        """What is answered, before anything goes wrong with sending it."""
        if fault.redirect:
            where = fault.redirect.replace("{path}", request.path).replace("{name}", request.path.rpartition("/")[2])
            yield _words(fault.status or HTTPStatus.TEMPORARY_REDIRECT, {"Location": where})
            return
        data = self.files.get(request.path) if fault.content is None else fault.content
        if fault.status:
            if fault.content is None:
                yield _words(fault.status)
                return
            with _opened(fault.content) as (file, size):
                yield _Answer(fault.status, {}, file, size)
        elif data is not None:
            with _opened(data) as (file, size):
                yield _of_file(file, size, _tag(data), request.headers, fault)
        elif self._proxy and request.path.startswith("/v2/"):
            with _asked_of(self._proxy, request, fault) as answer:
                yield answer
        else:
            yield _words(HTTPStatus.NOT_FOUND)


class _Server(HttpServer):
    def __init__(self, web: WebServer, address: tuple[str, int], tls: Path | None) -> None:
        self.web = web
        super().__init__(address, _Handler, tls)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        web = self.server.web
        request = Request(self.command, self.path, self.headers)
        web.requests.append(request)
        fault = web.fault_of(request)
        if fault.hang_after == BEFORE:
            web.hang()
        if fault.drop_after == BEFORE:
            self._drop(fault)
            return
        with web.answer(request, fault) as answer:
            self._head(request, answer, fault)
            if self.command != "HEAD":
                self._body(request, answer, fault)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _head(self, request: Request, answer: _Answer, fault: Fault) -> None:
        request.status = answer.status
        headers = {"Content-Length": str(answer.length)} | answer.headers
        for name, value in fault.headers.items():
            headers = {other: was for other, was in headers.items() if other.lower() != name.lower()}
            headers[name] = value
            if name.lower() == "content-length":
                headers["Connection"] = "close"  # where this answer ends nobody knows
        self.send_response_only(answer.status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _body(self, request: Request, answer: _Answer, fault: Fault) -> None:
        hang_after = fault.hang_after
        while True:
            if request.sent == hang_after:
                self.server.web.hang()
                hang_after = None
            if request.sent == fault.drop_after:
                self._drop(fault)
                return
            size = min(answer.length - request.sent, _CHUNK)
            for until in (hang_after, fault.drop_after):
                if until is not None and until > request.sent:
                    size = min(size, until - request.sent)
            if fault.bytes_per_second:
                size = min(size, max(1, fault.bytes_per_second // _PACES_PER_SECOND))
            data = answer.body.read(size) if size else b""
            if not data:
                break
            if fault.bytes_per_second:
                self.server.web.pause(len(data) / fault.bytes_per_second)
            data = _flipped(data, fault.flip, answer.start + request.sent)
            request.sent += len(data)  # first, so that who has it all finds it counted
            self.wfile.write(data)
        if request.sent < answer.length:
            self.close_connection = True

    def _drop(self, fault: Fault) -> None:
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Nothing: `requests` has it all."""


# Answers.


def _words(status: int, headers: Mapping[str, str] | None = None) -> _Answer:
    body = f"{http.client.responses.get(status, '?')}\n".encode()
    return _Answer(status, {"Content-Type": "text/plain", **(headers or {})}, io.BytesIO(body), len(body))


@contextmanager
def _opened(data: bytes | Path) -> Iterator[tuple[BinaryIO, int]]:
    with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        yield file, size


def _tag(data: bytes | Path) -> str:
    if isinstance(data, Path):
        found = data.stat()
        return f'"{found.st_size:x}-{found.st_mtime_ns:x}"'
    return f'"{len(data):x}-{zlib.adler32(data):x}"'


def _of_file(file: BinaryIO, size: int, tag: str, asked: Message, fault: Fault) -> _Answer:
    headers = {"Content-Type": "application/octet-stream", "ETag": tag, "Accept-Ranges": "bytes"}
    wanted = None if fault.ignore_range or asked.get("If-Range", tag) != tag else asked.get("Range")
    match = _RANGE.fullmatch(wanted or "")
    if match is None or match.groups() == ("", ""):
        return _Answer(HTTPStatus.OK, headers, file, size)
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(int(last), size - 1) if first and last else size - 1
    if start > end:
        return _words(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{size}"})
    file.seek(start)
    headers["Content-Range"] = f"bytes {start}-{end}/{size}"
    return _Answer(HTTPStatus.PARTIAL_CONTENT, headers, file, end - start + 1, start)


@contextmanager
def _asked_of(proxied: Proxied, request: Request, fault: Fault) -> Iterator[_Answer]:
    host = urlsplit(proxied.url).netloc
    if proxied.ca:
        context = ssl.create_default_context(cafile=str(proxied.ca))
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, timeout=START_SECONDS, context=context
        )
    else:
        connection = http.client.HTTPConnection(host, timeout=START_SECONDS)
    left_out = _OWN_HEADERS | {"host"} | ({"range", "if-range"} if fault.ignore_range else set())
    try:
        try:
            # One by one: some send a line for each type that they accept.
            connection.putrequest(request.method, request.target, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name.lower() not in left_out:
                    connection.putheader(name, value)
            connection.endheaders()
            response = connection.getresponse()
        except (OSError, http.client.HTTPException):
            yield _words(HTTPStatus.BAD_GATEWAY)
            return
        passed = {name: value for name, value in response.getheaders() if name.lower() not in _OWN_HEADERS}
        length = response.getheader("Content-Length")
        if length is None:  # in chunks; long ones are not
            data = response.read()
            yield _Answer(response.status, passed, io.BytesIO(data), len(data))
            return
        start = re.match(r"bytes (\d+)-", response.getheader("Content-Range") or "")
        yield _Answer(response.status, passed, response, int(length), int(start[1]) if start else 0)
    finally:
        connection.close()


def _flipped(data: bytes, flip: int | None, at: int) -> bytes:
    if flip is None or not at <= flip < at + len(data):
        return data
    other = bytearray(data)
    other[flip - at] ^= 0xFF
    return bytes(other)
