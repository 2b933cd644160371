"""A forwarding proxy in threads of the tests, as HTTP_PROXY and HTTPS_PROXY name one: it notes whereto it is sent.

What is behind it does not belong here.
"""

from __future__ import annotations

import http.client
import select
import socket
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.backends.daemon import START_SECONDS, loopback
from tests.backends.webserver import HttpServer

_CHUNK = 1 << 16


class Proxy:
    """Plain http by absolute URLs, all else by CONNECT. `names` are hosts with their ports that it alone can resolve,
    and what they are."""

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.asked: list[str] = []
        """Hosts with their ports, in the order in which they were asked for."""
        self._names = dict(names or {})
        self._server = _Server(self)

    @property
    def url(self) -> str:
        """For the environment."""
        address, port = self._server.server_address[:2]
        return f"http://{address!s}:{port}"

    def __enter__(self) -> Proxy:
        self._server.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.end()

    def behind(self, host: str) -> str:
        """Note that it was asked for, and say where it is."""
        self.asked.append(host)
        return self._names.get(host, host)


class _Server(HttpServer):
    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        super().__init__((loopback(), 0), _Handler, None)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(self.server.proxy.behind(parts.netloc), timeout=START_SECONDS)
        try:
            connection.request("GET", parts._replace(scheme="", netloc="").geturl(), headers=dict(self.headers))
            answer = connection.getresponse()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            while data := answer.read(_CHUNK):
                self.wfile.write(data)
        except OSError:
            self.send_error(502)
        finally:
            connection.close()

    def do_CONNECT(self) -> None:
        name, _, port = self.server.proxy.behind(self.path).rpartition(":")
        try:
            there = socket.create_connection((name.strip("[]"), int(port)), timeout=START_SECONDS)
        except OSError:
            self.send_error(502)
            return
        self.send_response_only(200)
        self.end_headers()
        with there, suppress(OSError):
            _join(self.connection, there)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the standard library's name
        """Nothing: `asked` has it all."""


def _join(one: socket.socket, other: socket.socket) -> None:
    """What either says the other hears, until one of them has said all."""
    pairs = {one: other, other: one}
    while True:
        for each in select.select(list(pairs), [], [])[0]:
            data = each.recv(_CHUNK)
            if not data:
                return
            pairs[each].sendall(data)
