"""A whole provider on the fake hypervisor, as a process: `python -m bench.fake_provider DIRECTORY [REGISTRY...]`.

The fake's domains are read from DIRECTORY/domains at the start and written there at the end, so that guests live on
over a restart as libvirt's do; while it works it keeps them in memory, packed, for libvirt's are in another process.
What is measured does not belong here.
"""

from __future__ import annotations

import asyncio
import pickle
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from sri_libvirt import log  # first, as `sri-libvirt serve` does

# isort: split
from sri_libvirt import app, config, statedir
from sri_libvirt.capacity.budget import Hardware, Resources
from sri_libvirt.hypervisor.fake import Domain, FakeHypervisor
from sri_libvirt.hypervisor.fake_console import FakeConsole
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store

RESYNC_SECONDS = 60.0
"""Five times as often as in earnest, so that a minute of rest holds one of everything that is done now and then."""


LINE = b"[  1.234567] something that a guest's kernel has to tell: one line of about 100 characters, no less.\r\n"


class PackedDomain(Domain):
    """A domain whose XML is compressed."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("live", "persistent"):
            value = zlib.compress(str(value).encode(), 1)
        super().__setattr__(name, value)

    def __getattribute__(self, name: str) -> object:
        value = super().__getattribute__(name)
        return zlib.decompress(value).decode() if isinstance(value, bytes) else value


class Guests(FakeHypervisor):
    """The fake, saved once. Its guests print at their consoles, if open, as fast as a line of 115,200 baud takes it."""

    domain_type = PackedDomain

    def __init__(self, state: Path) -> None:
        super().__init__()
        self._kept = state
        self._printing: list[FakeConsole] = []
        for machine_id, values in pickle.loads(state.read_bytes()).items() if state.exists() else ():
            self._domains[machine_id] = PackedDomain()
            vars(self._domains[machine_id]).update(values)

    def console(self, machine_id: str, heard: Callable[[], None], *, take_over: bool = False) -> FakeConsole:
        console = super().console(machine_id, heard, take_over=take_over)
        self._printing.append(console)
        if len(self._printing) == 1:
            threading.Thread(target=self._print, daemon=True).start()
        return console

    def _print(self) -> None:
        while self._printing:
            time.sleep(0.1)
            for console in list(self._printing):
                if console.ended:
                    self._printing.remove(console)
                console.prints(LINE * 11)

    def keep(self) -> None:
        """Write all domains down."""
        self._kept.write_bytes(pickle.dumps({machine_id: vars(domain) for machine_id, domain in self._domains.items()}))


def _vast(settings: config.Settings, paths: StatePaths) -> Hardware:
    """Room for any number of machines; this host's own is read all the same, for the time that it takes."""
    app.read_hardware(paths, sysfs=settings.sysfs, procfs=settings.procfs)
    return Hardware(Resources(cpus=100_000, memory_bytes=1 << 50), disk_bytes=1 << 60)


async def serve(settings: config.Settings, store: Store, guests: Guests) -> None:
    """Serve until SIGTERM."""
    app.RESYNC_SECONDS = RESYNC_SECONDS
    provider = app.Provider(settings, store, hypervisor=guests, hardware=partial(_vast, settings))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        await provider.start()
        await stop.wait()
    finally:
        await provider.stop()


def main(root: Path, *registries: str) -> None:
    flags = {
        "address": f"unix://{root}/sri.sock",
        "state_dir": root / "state",
        "domain_type": "qemu",
        "firmware": "bios",
        "shutdown_grace": config.duration("1s"),
        "insecure_registry": registries,
    }
    settings = config.load(flags, environ={}, default_file=root / "none.toml")
    log.set_up("warning", "json")
    paths = StatePaths(settings.state_dir)
    statedir.prepare(paths)
    guests = Guests(root / "domains")
    with statedir.lock(paths):
        store = Store.open(paths)
        asyncio.run(serve(settings, store, guests))
        store.close()
    guests.keep()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
