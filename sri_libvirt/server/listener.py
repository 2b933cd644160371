"""The socket that the RPCs come in by: bound safely, with its mode set, removed on stop.

gRPC itself silently unlinks a live unix socket and takes its place, so who answers there is asked before the bind. What
the RPCs do does not belong here.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.config import is_loopback
from sri_libvirt.errors import ConfigError
from sri_libvirt.server.groups import group_id

RECEIVE_BYTES = 16 * 1024 * 1024
"""The largest request: ignition data of 1 MiB and much else; grpc's own limit is 4 MiB."""

HYPERVISOR = "libvirt"
"""The health service's name for whether the hypervisor is reached (contract G.6)."""

_OPTIONS = (
    ("grpc.max_receive_message_length", RECEIVE_BYTES),
    ("grpc.so_reuseport", 0),  # a second server on one TCP port must fail
)
_BEING_MADE = ".new"
_SOCKET_PATH_BYTES = 107 - len(_BEING_MADE)
_ANSWER_SECONDS = 1.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Binding:
    """Where to listen: a unix socket (`path`), or TCP (`host`, `port`; port 0 = any)."""

    path: Path | None = None
    host: str = ""
    port: int = 0


def parse_address(address: str, *, insecure_tcp: bool) -> Binding:
    """`unix:///path`, `unix:path` or `host:port`. TCP has no authentication, so it is for loopback unless allowed."""
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        path = path[2:] if path.startswith("//") else path
        if not path or path == "/" or (address.startswith("unix://") and not path.startswith("/")):
            raise ConfigError(f"address {address!r}: a unix address is unix:///absolute/path")
        if len(os.fsencode(path)) > _SOCKET_PATH_BYTES:
            raise ConfigError(f"address {address!r}: a socket's path has at most {_SOCKET_PATH_BYTES} bytes")
        return Binding(path=Path(path))
    match = re.fullmatch(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})", address)
    if match is None or int(match["port"]) > 65535:
        raise ConfigError(f"address {address!r} is neither unix:///path nor host:port")
    if not insecure_tcp and not is_loopback(match["host"].strip("[]")):
        raise ConfigError(
            f"address {address!r}: TCP has neither authentication nor encryption and listens on loopback only; "
            "use a unix socket, or --insecure-tcp if the network itself is trusted"
        )
    return Binding(host=match["host"], port=int(match["port"]))


def clear_stale(path: Path) -> None:
    """Remove a socket that nobody answers at. Raises ConfigError for one that somebody does, and for anything else."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"socket {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is no socket: remove it or choose another --address")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_ANSWER_SECONDS)
        answer = probe.connect_ex(os.fspath(path))
    if answer == errno.ECONNREFUSED:
        path.unlink(missing_ok=True)
    elif answer != errno.ENOENT:
        raise ConfigError(f"another program serves {path}: stop it or choose another --address")


class Listener:
    """A grpc.aio server on one address. `start` and `stop` belong to the asyncio loop."""

    def __init__(
        self,
        address: str,
        service: grpc.GenericRpcHandler[bytes, Any],
        *,
        socket_mode: int = 0o660,
        socket_group: str = "",
        insecure_tcp: bool = False,
    ) -> None:
        self._binding = parse_address(address, insecure_tcp=insecure_tcp)
        self._service = service
        self._mode = socket_mode
        self._group = group_id(socket_group)
        self._server: grpc.aio.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        self._reachable = False
        self._serves = True
        self._telling: set[asyncio.Task[None]] = set()
        self._socket: tuple[int, int] | None = None
        self.address = ""
        """Where a client reaches the server, as a grpc target; set by start."""

    async def start(self) -> None:
        """Bind and serve. Raises ConfigError when the address cannot be had."""
        self._loop = asyncio.get_running_loop()
        server = grpc.aio.server(options=_OPTIONS)
        server.add_generic_rpc_handlers((self._service,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (pb.DESCRIPTOR.services_by_name["MachineRuntime"].full_name, health.SERVICE_NAME, reflection.SERVICE_NAME),
            server,
        )
        await self._tell()
        try:
            self.address = self._listen(server)
        except ConfigError:
            await server.stop(None)
            raise
        await server.start()
        self._server = server
        log.info("serving", address=self.address)

    def set_hypervisor_reachable(self, reachable: bool) -> None:
        """What the health service says of `libvirt`. From any thread, also before start; returns at once."""
        self._reachable = reachable
        self._changed()

    def set_serves(self, serves: bool) -> None:
        """What the health service says of the whole. From any thread, also before start; returns at once."""
        self._serves = serves
        self._changed()

    def _changed(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell_soon)

    async def stop(self, grace: float) -> None:
        """Take no more calls, let running ones end within `grace` seconds, remove the socket. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        await self._health.enter_graceful_shutdown()
        await server.stop(grace)
        path = self._binding.path
        if path is not None and self._socket is not None and _identity(path) == self._socket:
            path.unlink(missing_ok=True)

    def _listen(self, server: grpc.aio.Server) -> str:
        """Bind; returns the grpc target that clients use."""
        path = self._binding.path
        if path is None:
            host = self._binding.host
            return f"{host}:{self._bind(server, f'{host}:{self._binding.port}')}"
        self._bind_unix(server, path)
        return f"unix://{path.absolute()}"

    def _bind(self, server: grpc.aio.Server, target: str) -> int:
        try:
            port = server.add_insecure_port(target)
        except RuntimeError as error:
            raise ConfigError(f"cannot listen on {target}: {error}") from error
        if not port:
            raise ConfigError(f"cannot listen on {target}")
        return port

    def _bind_unix(self, server: grpc.aio.Server, path: Path) -> None:
        """Bind under another name and rename: the socket appears with its owner and mode, or not at all.

        gRPC unlinks the name that it bound when it ends, whatever is there by then; it never knows the final one.
        The umask is the whole process's: no other thread may be making files meanwhile.
        """
        clear_stale(path)
        made = path.with_name(path.name + _BEING_MADE)
        clear_stale(made)
        old = os.umask(0o177)
        try:
            self._bind(server, f"unix:{made.absolute()}")
        finally:
            os.umask(old)
        try:
            if self._group is not None:
                os.chown(made, -1, self._group)
            made.chmod(self._mode)
            made.rename(path)
        except OSError as error:
            raise ConfigError(f"socket {path}: {error.strerror}") from error
        self._socket = _identity(path)

    def _tell_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._tell())
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _tell(self) -> None:
        serving = health_pb2.HealthCheckResponse
        for service, serves in (("", self._serves), (HYPERVISOR, self._reachable)):
            await self._health.set(service, serving.SERVING if serves else serving.NOT_SERVING)


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file a path is, to tell ours from one that took its place."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
