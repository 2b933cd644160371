"""Points at which a test makes the provider fail, hang or die: before and after each thing that it does.

A point is registered where the thing is defined: every performer (`perform.Start`), call of the hypervisor
(`libvirt.start`), work of the store (`store.Performer._start`) and program (`process.qemu-img`) passes `around`, so a
new one has its two points without being listed anywhere. Nothing is armed in production: `around` is one comparison
then. What a test expects of a point does not belong here.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from sri_libvirt.errors import ConfigError, SRIError

Trap = Callable[[str, type[SRIError]], None]
"""Called with the name of a point that is passed, and with the error that a failure there has to be; it may raise it,
and must be safe from any thread."""

_trap: Trap | None = None
_NOTHING = nullcontext()


def arm(trap: Trap | None) -> None:
    """From now on call the trap at every point; None disarms. For tests, and for the start of a process under test."""
    global _trap
    _trap = trap


def around(what: str, error: type[SRIError]) -> AbstractContextManager[None]:
    """Pass the points "before `what`" and, unless it fails by itself, "after `what`". A failure there is an `error`."""
    return _NOTHING if _trap is None else _around(_trap, what, error)


def reach(point: str, error: type[SRIError]) -> None:
    """Pass one point, where what is done cannot be wrapped."""
    if _trap is not None:
        _trap(point, error)


@contextmanager
def _around(trap: Trap, what: str, error: type[SRIError]) -> Iterator[None]:
    trap(f"before {what}", error)
    yield
    trap(f"after {what}", error)


def work_name(work: Callable[..., object]) -> str:
    """What a work of the store is called: the function that made it."""
    name: str = getattr(work, "__qualname__", type(work).__name__)
    return name.partition(".<locals>")[0]


@dataclass
class Once:
    """A trap that does its `kind` of harm when a point is passed for the `nth` time, and keeps all names it was told.

    "fail" raises the point's error, "kill" ends the process as SIGKILL does, "hang" waits for `release`. The harm is
    told on standard error: who meets it may rightly keep it to itself.
    """

    kind: str
    point: str
    nth: int = 1
    passed: list[str] = field(default_factory=list)
    release: threading.Event = field(default_factory=threading.Event)

    def __call__(self, point: str, error: type[SRIError]) -> None:
        self.passed.append(point)
        if point == self.point and self.passed.count(point) == self.nth:
            sys.stderr.write(f"a failpoint does its harm: {self.kind} {point}\n")
            sys.stderr.flush()
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.kind == "hang":
                self.release.wait()
            else:
                raise error(f"a test lets it fail: {point}")


@dataclass
class Record:
    """A trap that writes the name of every point that is passed into a file, a line each."""

    path: Path

    def __call__(self, point: str, _error: type[SRIError]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{point}\n")


def armed_by(text: str) -> Trap:
    """The trap of a text: `record FILE`, or `fail|hang|kill NTH POINT`. Raises ConfigError."""
    match text.split(" ", 2):
        case ["record", *rest] if rest:
            return Record(Path(" ".join(rest)))
        case ["fail" | "hang" | "kill" as kind, nth, point] if nth.isdecimal():
            return Once(kind, point, int(nth))
    raise ConfigError(f"{text!r} is not a failpoint: `record FILE`, or `fail|hang|kill NTH POINT`")
