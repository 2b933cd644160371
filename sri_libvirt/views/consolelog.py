"""A machine's console log with the parts that virtlogd has put aside, in the order in which the guest printed them.

virtlogd renames `console.log` to `console.log.0` when it is full, that to `.1`, and so on. A terminal is given text and
line breaks only: what a guest prints can write to a terminal's clipboard, and worse. How it is printed and followed
does not belong here.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

from sri_libvirt import printable
from sri_libvirt.paths import MachinePaths

_CHUNK = 64 * 1024
_SEQUENCE = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|[]P^_X][^\x07\x1b]*(?:\x07|\x1b\\\\)|[ -/]*[0-Z\\\\^-~])")
"""Control sequences and strings (ECMA-48, 5.4 and 5.6; a bell ends xterm's)."""

_BEGUN = re.compile("\x1b(?:\\[[0-?]{0,99}[ -/]*|[]P^_X][^\x07\x1b]{0,9999}\x1b?|[ -/]{0,9})?\\Z")
_RETURNS = re.compile("\r+\n?")


class Text:
    """A guest's bytes as text for a terminal: sequences left out, what else it may not be given replaced."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""  # of a sequence
        self._returns = ""  # at the end of what was shown: with a line feed they are one line break

    def of(self, data: bytes) -> str:
        """What can be shown of this; what the next bytes decide about waits for them."""
        text, self._begun = _divided(self._begun + self._decoder.decode(data))
        text = self._returns + _SEQUENCE.sub("", text)
        shown = text.rstrip("\r")
        self._returns = text[len(shown) :]
        return "\t".join(printable.lines(each) for each in _RETURNS.sub("\n", shown).split("\t"))


def _divided(text: str) -> tuple[str, str]:
    """What is whole, and the sequence that has begun at its end."""
    found = _BEGUN.search(text)
    return (text[: found.start()], found.group()) if found else (text, "")


def parts(machine: MachinePaths) -> list[BinaryIO]:
    """The log's files, opened, oldest first. They are opened newest first, so that none is missed when virtlogd renames
    them meanwhile; the one that is then seen twice is opened once."""
    found: list[BinaryIO] = []
    seen: set[int] = set()
    path, number = machine.console_log, 0
    while True:
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            if number > 0:  # between a renaming and its new file there is no newest
                return found[::-1]
        else:
            inode = os.fstat(file.fileno()).st_ino
            if inode in seen:
                file.close()
            else:
                seen.add(inode)
                found.append(file)
        path, number = path.with_name(f"{machine.console_log.name}.{number}"), number + 1


def skip(files: list[BinaryIO], size: int) -> None:
    """Read of them what comes before their last `size` bytes, which takes no time."""
    for file in reversed(files):
        length = os.fstat(file.fileno()).st_size
        file.seek(max(length - size, 0))
        size = max(size - length, 0)


def last(count: int, files: list[BinaryIO]) -> Iterator[bytes]:
    """The last lines, the last of which may have no end yet."""
    kept: deque[bytes] = deque(maxlen=count)
    open_line = b""
    for chunk in chunks(files):
        *whole, open_line = (open_line + chunk).split(b"\n")
        kept.extend(each + b"\n" for each in whole)
    if open_line:
        kept.append(open_line)
    yield from kept


def chunks(files: list[BinaryIO]) -> Iterator[bytes]:
    """What is in them from where each was read to."""
    for file in files:
        while data := file.read(_CHUNK):
            yield data
