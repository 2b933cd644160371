"""The figures of guests on a terminal, drawn anew, sorted by what is typed. What they are does not belong here."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sri_libvirt import printable
from sri_libvirt.cli import output as out

Draw = Callable[[str], tuple[Sequence[str], Sequence[Sequence[str]], str]]
"""Headings, rows and a note, in the order that is asked for."""


def watch(draw: Draw, seconds: float, order: str, times: int | None, keys: Mapping[str, str]) -> None:
    """Draw until q or Ctrl-C, or so many times."""
    console = Console(highlight=False, markup=False, emoji=False)
    drawn = 0
    with _each_key(sys.stdin.fileno()), Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while times is None or drawn < times:
            headings, rows, note = draw(order)
            said = note or f"by {order}; other orders: {', '.join(keys)}; the end: q"
            title = Text(printable.line(said), style="dim")
            lines = "\n".join(out.aligned(headings, rows))
            live.update(Group(title, Text(lines, no_wrap=True, overflow="crop")), refresh=True)
            drawn += 1
            key = _key(sys.stdin.fileno(), seconds)
            if key == "q":
                return
            order = keys.get(key, order)


def _key(terminal: int, seconds: float) -> str:
    """What is typed within so long, "" for nothing."""
    ready, _, _ = select.select([terminal], [], [], seconds)
    return os.read(terminal, 1).decode(errors="replace") if ready else ""


@contextmanager
def _each_key(terminal: int) -> Iterator[None]:
    """Keys come one by one, and are not shown; Ctrl-C is one still."""
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
