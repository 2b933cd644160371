"""This process's terminal while a guest has it: every key goes to the guest, and whatever ends the process gives the
terminal back as it was.

What goes over it does not belong here.
"""

from __future__ import annotations

import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

_DEADLY = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_RESTED = b"\x1b[?47l\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?2004l\x1b[!p\x1b[0m"
"""xterm's control sequences: the usual screen, no reports of mouse and paste, a soft reset. A guest's full-screen
program that was left in the middle has set others."""

_Handler = Callable[[int, FrameType | None], Any] | int | None


class Signalled(SystemExit):
    """A signal that ends the process, once it has tidied up."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)


@contextmanager
def raw(keyboard: int, screen: int) -> Iterator[None]:
    """While inside, the terminal (if `keyboard` is one) passes every key on, unseen; afterwards it is as before.

    Signals that end a process raise Signalled inside. One that is stopped (SIGTSTP) gives the terminal back meanwhile.
    """
    before = termios.tcgetattr(keyboard) if os.isatty(keyboard) else None

    def restore() -> None:
        if before is None:
            return
        with suppress(OSError, termios.error):  # the terminal is gone
            termios.tcsetattr(keyboard, termios.TCSAFLUSH, before)
            if os.isatty(screen):
                os.write(screen, _RESTED)

    def take() -> None:
        if before is not None:
            tty.setraw(keyboard, termios.TCSADRAIN)  # what was typed before is for the guest

    def die(number: int, _frame: FrameType | None) -> NoReturn:
        raise Signalled(number)

    def pause(_number: int, _frame: FrameType | None) -> None:
        restore()
        os.kill(os.getpid(), signal.SIGSTOP)
        take()

    handlers: dict[int, _Handler] = {each: signal.signal(each, die) for each in _DEADLY}
    handlers[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, pause)
    try:
        take()
        yield
    finally:
        restore()
        for number, handler in handlers.items():
            signal.signal(number, handler)
