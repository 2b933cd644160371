"""A whole provider on the fake hypervisor, as a process: `python -m bench.fake_provider DIRECTORY`.

The fake's domains are read from DIRECTORY/domains.json at the start and written there at the end, so that guests live
on over a restart as libvirt's do; while it works it keeps them in memory. What is measured does not belong here.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from pathlib import Path

from sri_libvirt import app, config, log
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store


class Guests(FakeHypervisor):
    """The fake, saved once."""

    def __init__(self, state: Path) -> None:
        super().__init__(state)
        self._kept, self._file = state, None

    def keep(self) -> None:
        """Write all domains down."""
        self._file = self._kept
        self._save()


async def serve(settings: config.Settings, store: Store, guests: Guests) -> None:
    """Serve until SIGTERM."""
    provider = app.Provider(settings, store, hypervisor=guests)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    try:
        await provider.start()
        await stop.wait()
    finally:
        await provider.stop()


def main(root: Path) -> None:
    flags = {
        "address": f"unix://{root}/sri.sock",
        "state_dir": root / "state",
        "domain_type": "qemu",
        "firmware": "bios",
        "shutdown_grace": config.duration("1s"),
    }
    settings = config.load(flags, environ={}, default_file=root / "none.toml")
    log.set_up("warning", "json")
    paths = StatePaths(settings.state_dir)
    app.prepare(paths)
    guests = Guests(root / "domains.json")
    with app.lock(paths):
        store = Store.open(paths, time.time_ns)
        asyncio.run(serve(settings, store, guests))
        store.close()
    guests.keep()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
