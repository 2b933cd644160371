"""Typing at a guest's serial console: into its terminal on this host, past libvirt's daemon.

libvirt's stream would carry it, too. But when its write to the terminal fails, as it does once the guest's QEMU has
ended, the daemon of 11.3 queues one message twice (daemonStreamHandleWrite), and goes round for ever with all guests of
the host behind it: one key at the wrong moment, which any tenant can choose. To 9.0 such a key can cost the connection.
Written here, it is an error like others.
"""

from __future__ import annotations

import os
import re
import select
import stat
import threading
from pathlib import Path

import libvirt
from lxml import etree

from sri_libvirt.errors import ConsoleLost, HypervisorError, NoConsole

DEVPTS = Path("/dev/pts")

_MAJORS = range(136, 144)  # of the terminals of a devpts: the kernel's Documentation/admin-guide/devices.txt
_TERMINAL = re.compile(r"/dev/pts/(\d+)", re.ASCII)
_LOOK_AGAIN_MS = 1000  # should the kernel not say that there is room again


class Keyboard:
    """The terminal of a guest's first serial port, for writing.

    One thread types; any may close. Not for reading: what is printed goes to whoever reads first.
    """

    def __init__(self, domain: libvirt.virDomain, devpts: Path = DEVPTS) -> None:
        """Open it. `devpts` is where the terminals of libvirt's host are seen.

        Raises libvirt's own error, NoConsole when the guest ends meanwhile, and HypervisorError.
        """
        self._closed = False
        self._typing = threading.Lock()
        running, path, owner = _described(domain.XMLDesc(), devpts)
        self._terminal = _opened(path, owner)
        try:
            # A terminal's number goes to the next one who asks, such as another tenant's guest, once its guest has
            # ended. That this one runs now, after it was opened, says that it is its own.
            if domain.connect().lookupByUUID(domain.UUID()).ID() != running:
                raise NoConsole("the machine does not run any more, so it has no console")
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        except BaseException:
            os.close(self._terminal)
            raise

    def type(self, data: bytes) -> int:
        """Returns how many bytes the guest has taken, or QEMU for it; 0 once it was closed. Waits for room.

        Raises ConsoleLost.
        """
        with self._typing:
            while not self._closed:
                try:
                    return os.write(self._terminal, data)
                except BlockingIOError:
                    self._wait()
                except OSError as error:  # EIO: the guest's QEMU has ended
                    raise ConsoleLost(f"the machine's console takes nothing more: {error.strerror}") from error
        return 0

    def close(self) -> None:
        """Also while another thread types. Idempotent."""
        if self._closed:
            return
        self._closed = True
        os.eventfd_write(self._bell, 1)
        with self._typing:
            os.close(self._terminal)
            os.close(self._bell)

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._terminal, select.POLLOUT)
        poll.register(self._bell, select.POLLIN)
        poll.poll(_LOOK_AGAIN_MS)


def _described(xml: str, devpts: Path) -> tuple[int, Path, int | None]:
    """The number of the running domain, its first console's terminal here, and as which user its QEMU runs, if said."""
    root = etree.fromstring(xml.encode(), etree.XMLParser(resolve_entities=False, no_network=True))
    if (running := root.get("id")) is None:
        raise NoConsole("the machine does not run, so it has no console")
    source = root.find("devices/console/source")
    named = _TERMINAL.fullmatch("" if source is None else source.get("path", ""))
    if named is None:
        raise HypervisorError("the machine's console is no terminal (pty) of its host: nobody can type at it")
    user = re.match(r"\+(\d+)", root.findtext("seclabel[@model='dac']/label", ""))
    return int(running), devpts / named[1], int(user[1]) if user else None


def _opened(path: Path, owner: int | None) -> int:
    missing = f"{path}: %s, so nobody can type at the machine's console; --devpts has to be /dev/pts of libvirt's host"
    try:
        terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HypervisorError(missing % error.strerror) from error
    found = os.fstat(terminal)
    if not stat.S_ISCHR(found.st_mode) or os.major(found.st_rdev) not in _MAJORS:
        words = "it is no terminal"
    elif owner is not None and found.st_uid != owner:
        words = f"it belongs to user {found.st_uid}, not to QEMU's, {owner}"  # such as one of our container's
    else:
        return terminal
    os.close(terminal)
    raise HypervisorError(missing % words)
