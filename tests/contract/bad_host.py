"""A provider on a host with bad days, as a process: `python -m tests.contract.bad_host DIRECTORY`.

Its guests (the fake hypervisor's) and its clocks are kept in files of DIRECTORY, so they outlive a kill, and so is
whether the file systems of its images hang. What happens to guests and clock is told on standard input, a line of JSON
each. Who kills it, and what must be true then, does not belong here.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from sri_libvirt import app, config, failpoints, log, statedir
from sri_libvirt.clock import HostClocks, boottime
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.looks import Looks
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import SECOND
from sri_libvirt.store import Store
from tests.contract.loop import VAST, FakeHost, settings

HAPPENINGS = frozenset({"guest_powers_off", "kill_qemu", "terminate_qemu", "destroy_from_outside", "set_deaf", "reset",
                        "set_deaf_to_unplug", "pause"})  # fmt: skip
"""What can be told to happen to a guest: methods of the fake."""


HUNG = "hung"
"""While a file of this name is there, all that would look at files of others waits, as on a dead NFS server."""

T = TypeVar("T")


class HangingLooks(Looks):
    """Looks at files that may hang, and do while `hung` is there."""

    def __init__(self, hung: Path) -> None:
        super().__init__(patience=0.5)
        self._hung = hung

    def result(self, place: str, key: Hashable, what: str, work: Callable[[], T]) -> T:
        def late() -> T:
            while self._hung.exists():
                time.sleep(0.02)
            return work()

        return super().result(place, key, what, late)


@dataclass
class Clocks:
    """The host's clocks, kept in a file: the boot, when it began by this machine's own, and how far the wall is off."""

    path: Path
    boot: int = 1
    began: int = 0
    ahead: int = 0

    @classmethod
    def read(cls, path: Path) -> Clocks:
        return cls(path, **json.loads(path.read_text())) if path.exists() else cls(path, began=boottime())

    def keep(self) -> None:
        values = {key: value for key, value in asdict(self).items() if key != "path"}
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps(values))
        new.replace(self.path)

    def reboot(self) -> None:
        self.boot, self.began = self.boot + 1, boottime()

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    def of_host(self) -> HostClocks:
        return HostClocks(
            lambda: self.boot_id, lambda: boottime() - self.began + SECOND, lambda: time.time_ns() + self.ahead
        )


def listen(guests: FakeHypervisor, clocks: Clocks) -> None:
    """Let happen what standard input says, until it ends."""
    for line in sys.stdin:
        told: dict[str, Any] = json.loads(line)
        if told["do"] == "jump":
            clocks.ahead += told["by"]
            clocks.keep()
            continue
        assert told["do"] in HAPPENINGS
        with suppress(KeyError):  # there is no such guest by now
            getattr(guests, told["do"])(told["id"], *told.get("with", ()))


async def serve(root: Path, store: Store, guests: FakeHypervisor, clocks: Clocks) -> None:
    wishes = settings(
        root,
        shutdown_grace=config.duration("1s"),
        detach_settle=config.duration("200ms"),
        detach_hold=config.duration("1s"),
        call_deadline=config.duration("4s"),
        backup_period=config.duration("1s"),
    )
    host = FakeHost(clocks.boot_id)
    provider = app.Provider(wishes, store, hypervisor=guests, host=host, hardware=lambda _: VAST)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        await provider.start()
        threading.Thread(target=listen, args=(guests, clocks), daemon=True).start()
        await stop.wait()
    finally:
        await provider.stop()


def main(root: Path) -> None:
    app.RESYNC_SECONDS = 1.0  # what a kill has cut off is seen soon
    log.set_up("info", "json")
    if harm := config.failpoint():
        failpoints.arm(failpoints.armed_by(harm))
    paths = StatePaths(root / "state")
    statedir.prepare(paths)
    clocks = Clocks.read(root / "clocks.json")
    clocks.keep()
    guests = FakeHypervisor(root / "fake.json")
    with statedir.lock(paths), patch.object(app, "Looks", partial(HangingLooks, root / HUNG)):
        store = Store.open(paths, host=clocks.of_host())
        asyncio.run(serve(root, store, guests, clocks))
        store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
