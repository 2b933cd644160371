"""A whole provider on the fake hypervisor, beside the test in a thread of its own, under a clock that the test moves.

A second of its time takes some milliseconds. It can be ended and begun again on the same directory; its guests and its
time go on. What a poollet asks of it does not belong here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import grpc

from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.records import SECOND
from tests.contract.loop import PATIENCE, FakeHost, Loop, serving_loop

_BREATH = 0.02
"""Real seconds in which the lanes do what a second of compressed time brings."""

_LONGEST_BREATH = 2.0
"""Real seconds that a busy machine gives them before the next one comes all the same."""


class CompressedProvider:
    """See the module. `stub` is a blocking client's that lives through restarts."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.hypervisor = FakeHypervisor(root / "fake.json")
        self.host = FakeHost()
        self.now = time.time_ns()
        self._root = root
        self._changes = changes
        self._channel = grpc.insecure_channel(f"unix://{root}/sri.sock", [("grpc.max_reconnect_backoff_ms", 50)])
        self.stub: Any = MachineRuntimeStub(self._channel)

    def start(self) -> None:
        """Serve. Raises what the start of the provider raises."""
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        assert self._up.wait(PATIENCE), "the provider does not start"
        if self._failure:
            raise self._failure
        grpc.channel_ready_future(self._channel).result(PATIENCE)

    def stop(self) -> None:
        """End it in order."""
        self._eventloop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """The end of the test."""
        if self._thread.is_alive():
            self.stop()
        self._channel.close()

    def second(self) -> None:
        """Let a second pass; every machine is looked at, as a lost event's resync would."""
        self.now += SECOND
        for machine_id in self.loop.store.machine_ids():
            self.loop.provider.queue.wake(machine_id, 0)
        time.sleep(_BREATH)  # this is the passing of time itself
        end = time.monotonic() + _LONGEST_BREATH
        while not self._looked() and time.monotonic() < end:
            time.sleep(_BREATH / 4)

    def _looked(self) -> bool:
        """Whether the lanes have done all that is due; those that hang never have."""
        queue = self.loop.provider.queue
        with queue._lock:
            return not queue._busy and all(due.time > self.now for due in queue._due.values())

    async def _serve(self) -> None:
        self._eventloop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with serving_loop(
                self._root, self.hypervisor, self.host, clock=lambda: self.now, **self._changes
            ) as self.loop:
                self._up.set()
                await self._stop.wait()
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._up.set()

    loop: Loop
