"""Printing a machine's console log, and following it. What is in it does not belong here (`views/consolelog.py`)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import BinaryIO

from sri_libvirt.errors import NotFound
from sri_libvirt.paths import MachinePaths
from sri_libvirt.views.consolelog import Text, chunks, last, parts

LOOK_SECONDS = 0.2
"""How often what is followed is looked at."""


def show(machine: MachinePaths, lines: int | None, *, follow: bool) -> None:
    """Print the log, all of it or its last lines; `follow` goes on until the machine is gone. Raises NotFound."""
    text = Text() if sys.stdout.isatty() else None

    def write(data: bytes) -> None:
        sys.stdout.buffer.write(text.of(data).encode() if text else data)
        sys.stdout.buffer.flush()

    try:
        _copy(machine, lines, write, follow=follow)
    except BrokenPipeError:
        # Nobody reads any more, not even what Python would flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _copy(machine: MachinePaths, lines: int | None, write: Callable[[bytes], None], *, follow: bool) -> None:
    with ExitStack() as stack:
        files = [stack.enter_context(each) for each in parts(machine)]
        if not files:
            raise NotFound(f"there is no {machine.console_log}: the machine has never been started")
        for chunk in chunks(files) if lines is None else last(lines, files):
            write(chunk)
        for data in _followed(machine, files[-1]) if follow else ():
            write(data)


def _followed(machine: MachinePaths, current: BinaryIO) -> Iterator[bytes]:
    """What comes, file after file, until the machine's directory is gone."""
    while True:
        if os.fstat(current.fileno()).st_size < current.tell():
            current.seek(0)  # somebody has emptied it
        newer = _newer(machine, current)
        # It was looked for before this one's end is read: what was renamed is not written to any more.
        yield from chunks([current])
        if newer:
            current.close()
            *whole, current = newer
            yield from chunks(whole)
            for each in whole:
                each.close()
            continue
        if not machine.root.exists():
            current.close()
            return
        time.sleep(LOOK_SECONDS)


def _newer(machine: MachinePaths, current: BinaryIO) -> list[BinaryIO]:
    """The files that were begun after this one, oldest first; opened."""
    known = os.fstat(current.fileno()).st_ino
    with suppress(FileNotFoundError):
        if machine.console_log.stat().st_ino == known:
            return []
    found = parts(machine)
    inodes = [os.fstat(each.fileno()).st_ino for each in found]
    newer = found[inodes.index(known) + 1 :] if known in inodes else found
    for each in found:
        if each not in newer:
            each.close()
    return newer
