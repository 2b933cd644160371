"""Exec as users reach it: a stand-in of the API server, whose pods are machines, and behind it the poollet's proxy.

The proxy does what Kubernetes' upgrade-aware one does (contract B.1): it asks the provider for a URL, sends there the
client's method, headers and Host, of its path nothing, and is a raw tunnel from a 101 on; when either side ends, both
are closed at once. Of consoles it knows nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import h11

from tests.terminal.client import connect

ExecUrl = Callable[[str, str], Awaitable[str]]
"""The URL of a machine's console, by namespace and name: what the poollet gets by ListMachines and Exec."""

_RESOURCES = [
    {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]},
    {"name": "pods/exec", "singularName": "", "namespaced": True, "kind": "PodExecOptions", "verbs": ["create", "get"]},
]
_DOCUMENTS: dict[str, dict[str, Any]] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": _RESOURCES},
}
_POD = re.compile("/api/v1/namespaces/([^/]+)/pods/([^/]+)(/exec)?")
_CHUNK = 64 * 1024


class ApiServer:
    """`async with ApiServer(exec_url) as server`: serves at `server.url`. `relay` leads to the provider's listener."""

    def __init__(self, exec_url: ExecUrl, relay: str = "") -> None:
        self.url = ""
        self.tunnels = 0
        """How many upgrades have gone through."""
        self._exec_url = exec_url
        self._relay = relay
        self._serving: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> ApiServer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = "http://{}:{}".format(*self._server.sockets[0].getsockname())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, EOFError, h11.RemoteProtocolError):
            pass  # a client that went
        finally:
            self._serving.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(head)
        request = connection.next_event()
        assert isinstance(request, h11.Request)
        path = urlsplit(request.target.decode()).path.rstrip("/")
        pod = _POD.fullmatch(path)
        if pod is not None and pod[3]:
            await self._proxy(request, pod[1], pod[2], reader, writer)
        elif pod is not None:
            _answer(writer, 200, _pod(pod[1], pod[2]))
        elif path in _DOCUMENTS:
            _answer(writer, 200, _DOCUMENTS[path])
        else:
            _answer(writer, 404, _status(404, "the server could not find the requested resource"))
        await writer.drain()

    async def _proxy(
        self,
        request: h11.Request,
        namespace: str,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            url = urlsplit(await self._exec_url(namespace, name))
        except Exception as error:  # whatever it is, the client is told
            _answer(writer, 500, _status(500, str(error)))
            return
        assert url.hostname
        assert url.port
        their_reader, their_writer = await connect(url.hostname, url.port, self._relay)
        try:
            lines = [b"%s %s HTTP/1.1" % (request.method, url.path.encode())]
            lines += [b"%s: %s" % header for header in request.headers.raw_items()]
            their_writer.write(b"\r\n".join([*lines, b"X-Forwarded-For: 192.0.2.1", b"", b""]))
            answer = await their_reader.readuntil(b"\r\n\r\n")
            status = int(answer.split()[1])
            if status != 101 and status < 400:
                _answer(writer, 500, _status(500, f"the backend answered {status}"))
                return
            self.tunnels += status == 101
            writer.write(answer)
            both = (_carry(their_reader, writer), _carry(reader, their_writer))
            tasks = [asyncio.create_task(each) for each in both]
            try:
                await asyncio.wait(tasks if status == 101 else tasks[:1], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            their_writer.close()


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()


def _answer(writer: asyncio.StreamWriter, status: int, document: dict[str, Any]) -> None:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} .\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)


def _status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}


def _pod(namespace: str, name: str) -> dict[str, Any]:
    container = {"name": "machine"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": namespace, "uid": "0"},
        "spec": {"containers": [container]},
        "status": {"phase": "Running", "containerStatuses": [{**container, "ready": True, "state": {"running": {}}}]},
    }
