"""The twelve RPCs behind one wrapper: parse, call, map the error by the one table, log, measure.

Requests arrive as bytes and are parsed here: grpc's own deserialiser answers UNKNOWN to bytes that are no message. An
RPC decides only what should be and answers in milliseconds; effects, libvirt and sockets do not belong here.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from sri_libvirt import __version__, errors, names, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.capacity.devices import DeviceClaims
from sri_libvirt.capacity.placement import Offer
from sri_libvirt.capacity.pool import Pool
from sri_libvirt.clock import SteadyClock
from sri_libvirt.records import MachineClass, class_name
from sri_libvirt.server import intents, validate
from sri_libvirt.server.validate import Plugins
from sri_libvirt.store import Store, Transaction, frames
from sri_libvirt.traces import Lap

T = TypeVar("T")
Trace = Callable[[str, Sequence[Lap]], None]
"""Told of a machine and what was done for it."""

Observe = Callable[[str, str, float], None]
"""Told of each call: method, code, seconds."""

RUNTIME_NAME = "sri-libvirt"
"""The scheme of the poollet's machine ids (contract A.9)."""

CODES: dict[type[errors.SRIError], grpc.StatusCode] = {
    errors.InvalidSpec: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.NotReady: grpc.StatusCode.UNAVAILABLE,
    errors.Unreachable: grpc.StatusCode.UNAVAILABLE,
    errors.StoreError: grpc.StatusCode.UNAVAILABLE,
}
"""The one table of codes. An error that is not in it is a bug and answered INTERNAL."""

_OF_THE_HOST = frozenset({"Version", "Status"})
"""What tells of the host and not of machines; who drives us asks for it once, or seldom (contract A.9, G.6)."""

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")

_READS = frozenset({"Version", "ListMachines", "Status"})
_MESSAGE_BYTES = 2000  # a longer one would not fit into HTTP/2 trailers
_LISTED_CLASSES = 20
_LOGGED_ID = 80

log = structlog.get_logger()


async def _no_consoles(_machine_id: str) -> str:
    raise errors.Unavailable("this process serves no consoles")


class MachineRuntime:
    """machine.v1alpha1.MachineRuntime on a store.

    `pool` knows the classes and what fits; `gate` raises Unavailable when this host takes no new machines at all
    (contract G.6: it is cordoned, or cannot run guests); `wake` is called, from the
    store's thread, for each machine whose spec has changed, once that is on disk. Both must return at once.
    `console_url` gives a URL at which the console of a machine that runs can be opened, once.
    """

    def __init__(
        self,
        store: Store,
        pool: Pool,
        devices: DeviceClaims,
        plugins: Plugins,
        gate: Callable[[], None],
        wake: Callable[[str], None],
        clock: SteadyClock,
        listed: Callable[[pb.MachineFilter], None] = lambda _: None,
        console_url: Callable[[str], Awaitable[str]] = _no_consoles,
    ) -> None:
        self._store = store
        self._pool = pool
        self._take = devices.take
        self._plugins = plugins
        self._gate = gate
        self._told: tuple[tuple[Offer, ...] | None, pb.StatusResponse] = (None, pb.StatusResponse())
        self._wake = wake
        self._clock = clock
        self._listed = listed
        self._console_url = console_url

    async def version(self, _request: pb.VersionRequest) -> pb.VersionResponse:
        return pb.VersionResponse(runtime_name=RUNTIME_NAME, runtime_version=__version__)

    async def list_machines(self, request: pb.ListMachinesRequest) -> bytes:
        self._listed(request.filter)
        return stitch(self._store.frames(request.filter.id, request.filter.label_selector))

    async def create_machine(self, request: pb.CreateMachineRequest) -> pb.CreateMachineResponse:
        validate.present("machine", request, "machine")
        validate.machine("machine", request.machine, self._plugins)
        metadata, spec = request.machine.metadata, request.machine.spec
        draft = intents.Draft(
            names.new_machine_id(),
            dict(metadata.labels),
            dict(metadata.annotations),
            spec,
            now=self._clock(),
            created_at=self._clock.wall(),
        )
        machine, _ = await self._write(
            draft.id,
            lambda tx: intents.create(tx, draft, lambda: self._admit(tx, spec), self._take, self._plugins.mac_asked),
            changed=lambda made: made[1],
        )
        return pb.CreateMachineResponse(machine=frames.message(machine))

    async def delete_machine(self, request: pb.DeleteMachineRequest) -> pb.DeleteMachineResponse:
        validate.machine_id(request.machine_id)
        await self._write(
            request.machine_id, lambda tx: intents.delete(tx, request.machine_id, self._clock()), relieving=True
        )
        return pb.DeleteMachineResponse()

    async def update_machine_annotations(
        self, request: pb.UpdateMachineAnnotationsRequest
    ) -> pb.UpdateMachineAnnotationsResponse:
        validate.machine_id(request.machine_id)
        validate.string_map("annotations", request.annotations)
        annotations = dict(request.annotations)
        # Without its annotations the poollet does not read the status of a machine that was powered off (contract A.5).
        await self._write(
            request.machine_id, lambda tx: intents.annotate(tx, request.machine_id, annotations), relieving=True
        )
        return pb.UpdateMachineAnnotationsResponse()

    async def update_machine_power(self, request: pb.UpdateMachinePowerRequest) -> pb.UpdateMachinePowerResponse:
        validate.machine_id(request.machine_id)
        validate.power("power", request.power)
        await self._write(
            request.machine_id,
            lambda tx: intents.set_power(tx, request.machine_id, request.power, self._clock()),
            relieving=request.power == pb.POWER_OFF,
        )
        return pb.UpdateMachinePowerResponse()

    async def attach_volume(self, request: pb.AttachVolumeRequest) -> pb.AttachVolumeResponse:
        validate.machine_id(request.machine_id)
        validate.present("volume", request, "volume")
        validate.volume("volume", request.volume, self._plugins)
        await self._write(
            request.machine_id,
            lambda tx: intents.attach_volume(tx, request.machine_id, request.volume, self._clock(), self._take),
        )
        return pb.AttachVolumeResponse()

    async def detach_volume(self, request: pb.DetachVolumeRequest) -> pb.DetachVolumeResponse:
        validate.machine_id(request.machine_id)
        validate.name("name", request.name)
        await self._write(
            request.machine_id,
            lambda tx: intents.detach_volume(tx, request.machine_id, request.name, self._clock()),
            relieving=True,
        )
        return pb.DetachVolumeResponse()

    async def attach_network_interface(
        self, request: pb.AttachNetworkInterfaceRequest
    ) -> pb.AttachNetworkInterfaceResponse:
        validate.machine_id(request.machine_id)
        validate.present("network_interface", request, "network_interface")
        nic = request.network_interface
        validate.nic("network_interface", nic, self._plugins)
        await self._write(
            request.machine_id,
            lambda tx: intents.attach_nic(
                tx, request.machine_id, nic, self._clock(), self._take, self._plugins.mac_asked
            ),
        )
        return pb.AttachNetworkInterfaceResponse()

    async def detach_network_interface(
        self, request: pb.DetachNetworkInterfaceRequest
    ) -> pb.DetachNetworkInterfaceResponse:
        validate.machine_id(request.machine_id)
        validate.name("name", request.name)
        await self._write(
            request.machine_id,
            lambda tx: intents.detach_nic(tx, request.machine_id, request.name, self._clock()),
            relieving=True,
        )
        return pb.DetachNetworkInterfaceResponse()

    async def status(self, _request: pb.StatusRequest) -> pb.StatusResponse:
        offers = self._pool.offers(self._store.usage())
        if offers is not self._told[0]:
            entries = [_class_status(offer) for offer in offers]
            self._told = (offers, pb.StatusResponse(machine_class_status=entries))
        return self._told[1]

    async def exec(self, request: pb.ExecRequest) -> pb.ExecResponse:
        validate.machine_id(request.machine_id)
        if not (found := self._store.frames(request.machine_id)):
            raise errors.NotFound(f"there is no machine {printable.quote(request.machine_id)}")
        machine = pb.Machine.FromString(found[0])
        if machine.metadata.deleted_at:
            raise errors.FailedPrecondition(f"machine {request.machine_id} is being deleted")
        if machine.status.state != pb.MACHINE_RUNNING:
            state = pb.MachineState.Name(machine.status.state)
            raise errors.FailedPrecondition(
                f"machine {request.machine_id} does not run (its state is {state}), so it has no console"
            )
        return pb.ExecResponse(url=await self._console_url(request.machine_id))

    def _admit(self, tx: Transaction, spec: pb.MachineSpec) -> MachineClass:
        """The class of a new machine, for which this host has room beside all that exists."""
        wanted = class_name(spec)
        machine_class = self._pool.classes.get(wanted)
        if machine_class is None:
            known = ", ".join(sorted(self._pool.classes)[:_LISTED_CLASSES])
            raise errors.InvalidSpec(
                "machine.spec.class", f"there is no class {printable.quote(wanted)}; known: {known}"
            )
        self._gate()
        self._pool.admit(machine_class, tx.usage)
        return machine_class

    async def _write(
        self,
        machine_id: str,
        work: Callable[[Transaction], T],
        changed: Callable[[T], bool] = bool,
        *,
        relieving: bool = False,
    ) -> T:
        """Have a work stored; wake the machine if it changed, even when the caller has hung up meanwhile.

        One that is `relieving` is stored on a full file system, too.
        """
        future = self._store.submit(work, relieving=relieving)

        def stored(_: object) -> None:
            if future.cancelled():
                return
            problem = future.exception()
            # A store that fails may have stored it all the same: the caller's retry would change and wake nothing.
            if isinstance(problem, errors.StoreError) or (problem is None and changed(future.result())):
                self._wake(machine_id)

        future.add_done_callback(stored)
        return await asyncio.wrap_future(future)


def _class_status(offer: Offer) -> pb.MachineClassStatus:
    """An offer as Status shows it: machine_class and capabilities always present (contract A.8)."""
    each = offer.machine_class
    capabilities = pb.MachineClassCapabilities(cpu_millis=each.cpu_millis, memory_bytes=each.memory_bytes)
    return pb.MachineClassStatus(
        machine_class=pb.MachineClass(name=each.name, capabilities=capabilities), quantity=offer.quantity
    )


def stitch(listed: list[bytes]) -> bytes:
    """A ListMachinesResponse of serialised machines: field 1, length, bytes, for each."""
    parts: list[bytes] = []
    for frame in listed:
        parts += (_prefix(len(frame)), frame)
    return b"".join(parts)


@lru_cache(maxsize=4096)  # most machines are as long as another
def _prefix(length: int) -> bytes:
    """Tag of field 1, and a length."""
    prefix = bytearray(b"\x0a")
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def handlers(
    runtime: MachineRuntime,
    observe: Observe = lambda *_: None,
    doubt: Callable[[], str] = lambda: "",
    trace: Trace = lambda *_: None,
) -> grpc.GenericRpcHandler[bytes, Any]:
    """All methods of the service as one handler; bytes in, bytes or a message out.

    `doubt` says why nothing of machines may be told or changed, because the store may be the wrong one; "" when all
    may. `trace` is told of what has changed a machine.
    """
    service = pb.DESCRIPTOR.services_by_name["MachineRuntime"]
    calls: dict[str, Callable[[Any], Awaitable[Message | bytes]]] = {
        "Version": runtime.version,
        "ListMachines": runtime.list_machines,
        "CreateMachine": runtime.create_machine,
        "DeleteMachine": runtime.delete_machine,
        "UpdateMachineAnnotations": runtime.update_machine_annotations,
        "UpdateMachinePower": runtime.update_machine_power,
        "AttachVolume": runtime.attach_volume,
        "DetachVolume": runtime.detach_volume,
        "AttachNetworkInterface": runtime.attach_network_interface,
        "DetachNetworkInterface": runtime.detach_network_interface,
        "Status": runtime.status,
        "Exec": runtime.exec,
    }
    return grpc.method_handlers_generic_handler(
        service.full_name,
        {
            method.name: grpc.unary_unary_rpc_method_handler(
                _wrap(
                    method.name,
                    calls[method.name],
                    GetMessageClass(method.input_type),
                    observe,
                    trace,
                    (lambda: "") if method.name in _OF_THE_HOST else doubt,
                ),
                response_serializer=_serialise,
            )
            for method in service.methods
        },
    )


def _serialise(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _wrap(
    method: str,
    call: Callable[[Any], Awaitable[Message | bytes]],
    request_type: type[Message],
    observe: Observe,
    trace: Trace,
    doubt: Callable[[], str],
) -> Callable[[bytes, grpc.aio.ServicerContext[Any, Any]], Awaitable[Message | bytes]]:
    """The one wrapper around every RPC."""

    async def run(raw: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Message | bytes:
        started = time.monotonic()
        code, message, machine = grpc.StatusCode.OK, "", ""
        try:
            if because := doubt():
                raise errors.Unavailable(because)
            request = _parse(request_type, raw)
            machine = getattr(request, "machine_id", "")[:_LOGGED_ID]
            reply = await call(request)
            if isinstance(reply, pb.CreateMachineResponse):
                machine = reply.machine.metadata.id
            return reply
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            code, message = _verdict(method, error)
        finally:
            ended = time.monotonic()
            took = ended - started
            if machine and code is grpc.StatusCode.OK and method not in _READS:
                trace(machine, [Lap("rpc", method, started, ended, parent=_parent(context))])
            observe(method, code.name, took)
            tell = log.debug if method in _READS and code is grpc.StatusCode.OK else log.info
            tell("rpc", method=method, machine=machine, code=code.name, message=message, ms=round(took * 1e3, 2))
        await context.abort(code, message)
        raise AssertionError("abort raises")

    return run


def _parent(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    """What the caller calls his own span, "" if he does not or not in the form."""
    told = dict(context.invocation_metadata() or ()).get("traceparent", "")
    return told if isinstance(told, str) and _TRACE_PARENT.fullmatch(told) else ""


def _parse(request_type: type[Message], raw: bytes) -> Message:
    try:
        return request_type.FromString(raw)
    except DecodeError:
        raise errors.InvalidSpec("request", f"is no {request_type.DESCRIPTOR.full_name}") from None


def _verdict(method: str, error: Exception) -> tuple[grpc.StatusCode, str]:
    """Code and message of an error; one that no RPC should meet is logged whole and told to nobody."""
    code = next((CODES[each] for each in type(error).__mro__ if each in CODES), None)
    if code is None:
        log.error("internal error in an RPC", method=method, exc_info=error)
        return grpc.StatusCode.INTERNAL, "internal error, see the log"
    return code, printable.line(str(error)).encode()[:_MESSAGE_BYTES].decode(errors="ignore")
