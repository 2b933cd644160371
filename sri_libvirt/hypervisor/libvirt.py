"""The hypervisor protocol on libvirt: connections with keepalive, and the watching of events.

This package alone imports libvirt. What differs between libvirt 9.0 (Debian 12) and 11.3 (Debian 13) and matters here:

- VIR_DOMAIN_UNDEFINE_TPM is known from 8.9 on (`connection.undefine_flags`);
- "paused (api error)" exists from 9.2 on (`words.py`);
- an unknown device alias is code 1 in 9.0 and 99 in 11.3, so such codes are not looked at: the XML is read again;
- loader and NVRAM are kept in the inactive XML of a domain with firmware autoselection in 11.3 only, which domain/
  never uses.

What to do with domains does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor import faults, firmware
from sri_libvirt.hypervisor.base import Listener
from sri_libvirt.hypervisor.connection import LibvirtConnection
from sri_libvirt.hypervisor.console import LibvirtConsole
from sri_libvirt.hypervisor.eventloop import LOOP
from sri_libvirt.hypervisor.events import Watcher
from sri_libvirt.hypervisor.keyboard import DEVPTS
from sri_libvirt.hypervisor.opening import Opener
from sri_libvirt.hypervisor.taps import LinuxTaps

if TYPE_CHECKING:
    from sri_libvirt.hypervisor.statistics import Figures

KEEPALIVE = (5, 3)
"""Seconds between messages and how many may stay unanswered: a hung libvirtd is given up after 20 s."""


class LibvirtHypervisor:
    """One libvirt, by URI. As seen from here, its daemon keeps QEMU's logs in `qemu_log_dir`, and the terminals of its
    host are in `devpts`.
    """

    def __init__(
        self,
        uri: str,
        *,
        qemu_log_dir: str | Path = "/var/log/libvirt/qemu",
        devpts: Path = DEVPTS,
        firmware_dirs: Sequence[Path] = firmware.DIRECTORIES,
        keepalive: tuple[int, int] = KEEPALIVE,
    ) -> None:
        self.taps = LinuxTaps()
        self._uri = uri
        self._qemu_log_dir = Path(qemu_log_dir)
        self._devpts = devpts
        self._firmware_dirs = tuple(firmware_dirs)
        self._keepalive = keepalive
        self._opener = Opener(self._open, seconds=keepalive[0] * (keepalive[1] + 1))

    def connect(self) -> LibvirtConnection:
        """A new connection for the calling thread. Raises Unreachable."""
        return LibvirtConnection(
            self._opener.open(), qemu_log_dir=self._qemu_log_dir, firmware_dirs=self._firmware_dirs
        )

    def console(self, machine_id: str, heard: Callable[[], None], *, take_over: bool = False) -> LibvirtConsole:
        """See `base.Hypervisor`."""
        return LibvirtConsole(self._opener.open(), machine_id, heard, take_over=take_over, devpts=self._devpts)

    def statistics(self) -> Callable[[], dict[str, Figures]]:
        """Asks what all guests use, by id, with a connection of its own that it makes anew when it is lost. For one
        thread. Raises Unreachable, HypervisorError.
        """
        from sri_libvirt.hypervisor import statistics  # for one command; the daemon never asks

        kept: list[libvirt.virConnect] = []

        def ask() -> dict[str, Figures]:
            if not kept:
                kept.append(self._opener.open())
            try:
                return statistics.read(kept[0])
            except HypervisorError:
                kept.pop().close()
                raise

        return ask

    def watch(self, listener: Listener) -> Callable[[], None]:
        """Deliver events until the returned stop() is called; reconnects for ever."""
        watcher = Watcher(self._opener.open, listener)
        watcher.start()
        return watcher.stop

    def _open(self) -> libvirt.virConnect:
        LOOP.ensure_running()
        try:
            connection = libvirt.open(self._uri)
        except libvirt.libvirtError as error:
            raise faults.not_connected(error, self._uri) from error
        try:
            connection.setKeepAlive(*self._keepalive)
        except libvirt.libvirtError as error:
            # libvirt's in-process drivers (test:///) have no connection that could hang
            if not faults.is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
                connection.close()
                raise faults.not_connected(error, self._uri) from error
        return connection
