"""The one door to subprocesses: argument lists, a deadline that holds, bounded output, no shell.

A program has a session of its own, and all that is left of its process group is killed at its end. What it writes is
read as it comes and never kept beyond a bound, so that no program makes this process large. One that not even SIGKILL
ends (it hangs in the kernel, in the I/O of a dead disk or file system) is left behind at its deadline, and reaped when
it has ended after all; while many are left so, no more are begun.

Runs on lanes, never on the asyncio loop (a fork there stalls every RPC). Secrets are given by `stdin` or a descriptor
that is passed, never as an argument. What a program's answer means does not belong here.
"""

from __future__ import annotations

import errno
import os
import resource
import select
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from sri_libvirt import failpoints
from sri_libvirt.errors import SRIError

ANSWER_BYTES = 1 << 20
"""Standard output of a program that is wanted whole; one that writes more is ended."""

WORDS_BYTES = 1 << 12
"""The end of standard error that is kept; what comes before it is read and dropped."""

CHATTER_BYTES = 1 << 28
"""Standard error that is read at all: `qemu-img check` writes a line for each of a million lost clusters."""

KILLED_SECONDS = 1.0
"""How long the end of a program that was killed is waited for: longer means that it hangs in the kernel."""

MOST_LEFT = 16
"""Programs left behind that may hang at a time."""

_CHUNK = 1 << 16


_TETHER = ("setpriv", "--pdeathsig", "KILL", "--", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"')
"""Becomes the program that follows, after our process id. The kernel kills it when we end; if that was before it was
told to, we are its parent no more (prctl(2), PR_SET_PDEATHSIG)."""


class ProcessError(SRIError):
    """A program failed, is missing, wrote too much or passed its deadline; the message names it and ends with its own
    words.

    `words` is the end of its standard error, of several lines; `late` is set if the deadline ended it.
    """

    def __init__(self, message: str, returncode: int | None = None, *, words: str = "", late: bool = False) -> None:
        super().__init__(message)
        self.returncode = returncode
        self.words = words
        self.late = late


class Hanging(ProcessError):
    """A program was not begun, because others like it hang in the kernel."""


class Cancelled(ProcessError):
    """A program was ended, or not begun, because whoever wanted its answer wants it no more."""


class Cancel:
    """Ends programs from another thread: all that run with it, and those that would be begun. Thread-safe."""

    def __init__(self) -> None:
        self.cancelled = False
        self._fd = os.eventfd(0, os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._fd)

    def cancel(self) -> None:
        """Once and for all; again does no harm."""
        self.cancelled = True
        os.eventfd_write(self._fd, 1)

    def fileno(self) -> int:
        """A descriptor that can be read from once it is cancelled. Nobody reads it."""
        return self._fd


@dataclass(frozen=True, slots=True)
class Measured:
    """How a program ended and what it cost. `returncode` is minus the signal's number if one ended it.

    `late` is set when it was killed at the deadline; `message` is the last line of its standard error.
    """

    returncode: int
    cpu_seconds: float
    late: bool
    message: str


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    deadline: float,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cancel: Cancel | None = None,
    tethered: bool = False,
    place: str = "",
    on_line: Callable[[bytes], None] | None = None,
    called: str = "",
) -> bytes:
    """Run a program to its end and return its standard output, at most ANSWER_BYTES.

    `deadline` is in seconds; the program is killed when it passes. The environment is the caller's with LC_ALL=C, so
    that messages can be read, and `env` on top. It inherits `pass_fds`, under their numbers. `tethered`: it ends with
    this process, even if that is killed. `place` names a disk or file system that may hang: of one only one program
    is left behind. With `on_line` nothing is returned: each whole line goes there as it comes, on this thread, and the
    bound is of a line. `called` is its name in messages, where that of the program says little. Raises ProcessError;
    Cancelled once `cancel` is.
    """
    with failpoints.around(f"process.{called or Path(argv[0]).name}", ProcessError):
        if cancel and cancel.cancelled:
            raise Cancelled(f"{called or os.fspath(argv[0])} is not begun: it was cancelled")
        child = _Child(
            argv,
            env or {},
            answer=True,
            pass_fds=pass_fds,
            tethered=tethered,
            place=place,
            on_line=on_line,
            called=called,
        )
        try:
            child.serve(deadline, stdin, cancel)
        finally:
            child.end()
    if child.cancelled:
        raise Cancelled(f"{child.program} {child.broke}")
    if child.broke:
        raise ProcessError(f"{child.program} {child.broke}", words=child.words, late=child.late)
    if child.returncode:
        message = f"{child.program} failed with status {child.returncode}: {child.last_words or 'no message'}"
        raise ProcessError(message, child.returncode, words=child.words)
    return b"" if on_line else b"".join(child.answer)


def measure(argv: Sequence[str | os.PathLike[str]], *, deadline: float, cpu_seconds: int) -> Measured:
    """Run a program to its end and return how it ended and the CPU time it used, in user and kernel together.

    It is killed after `deadline` seconds of wall time or `cpu_seconds` of CPU time, which a busy host does not make
    shorter. It leaves no core dump, and its standard output is dropped. Raises ProcessError only when it cannot be
    started.
    """
    child = _Child(argv, {}, answer=False)
    try:
        with suppress(ProcessLookupError):  # it ended before it could be limited
            resource.prlimit(child.pid, resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
            resource.prlimit(child.pid, resource.RLIMIT_CORE, (0, 0))
        child.serve(deadline, b"")
    finally:
        child.end()
    return Measured(child.returncode, child.cpu_seconds, child.late, child.last_words)


def left_behind() -> int:
    """How many programs that were killed have not ended yet, because they hang in the kernel."""
    return _left.count()


@dataclass
class _Left:
    """Programs that not even SIGKILL has ended."""

    _children: list[tuple[subprocess.Popen[bytes], str]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, child: subprocess.Popen[bytes], place: str) -> None:
        with self._lock:
            self._children.append((child, place))

    def count(self) -> int:
        """Those that hang still; the others are reaped."""
        return len(self._hanging())

    def refuse(self, program: str, place: str) -> None:
        """Raise Hanging if a program is not to be begun."""
        places = self._hanging()
        if place and place in places:
            raise Hanging(f"{program} is not begun: one before it hangs in the kernel, at {place}")
        if len(places) >= MOST_LEFT:
            raise Hanging(f"{program} is not begun: {len(places)} programs before it hang in the kernel")

    def _hanging(self) -> list[str]:
        with self._lock:
            self._children = [(child, place) for child, place in self._children if child.poll() is None]
            return [place for _, place in self._children]


_left = _Left()


class _Child:
    """A program that runs: started by the constructor, fed and read by `serve`, over after `end`.

    `broke` says why it was ended before its time, "" if it ended by itself; `late` if that was the deadline.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        env: Mapping[str, str],
        *,
        answer: bool,
        pass_fds: Sequence[int] = (),
        tethered: bool = False,
        place: str = "",
        on_line: Callable[[bytes], None] | None = None,
        called: str = "",
    ) -> None:
        self._on_line = on_line
        self.program = called or os.fspath(argv[0])
        self.answer: list[bytes] = []
        self.broke = ""
        self.late = False
        self.cancelled = False
        self.returncode = -signal.SIGKILL
        self.cpu_seconds = 0.0
        self._words: deque[bytes] = deque()
        self._read = {"answer": 0, "words": 0}
        self._place = place
        _left.refuse(self.program, place)
        if tethered and not shutil.which(argv[0]):
            raise ProcessError(f"{self.program} cannot be run: {os.strerror(errno.ENOENT)}")
        try:
            self._popen = subprocess.Popen(
                [*((*_TETHER, str(os.getpid())) if tethered else ()), *(os.fspath(word) for word in argv)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if answer else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, "LC_ALL": "C", **env},
                start_new_session=True,
                pass_fds=pass_fds,
                bufsize=0,
            )
        except OSError as error:
            raise ProcessError(f"{self.program} cannot be run: {error.strerror}") from error
        self.pid = self._popen.pid
        self._pid_fd = os.pidfd_open(self.pid)

    @property
    def words(self) -> str:
        """The end of its standard error."""
        return b"".join(self._words)[-WORDS_BYTES:].decode(errors="replace").strip()

    @property
    def last_words(self) -> str:
        """The last line of its standard error."""
        lines = self.words.splitlines()
        return lines[-1][:500] if lines else ""

    def serve(self, deadline: float, stdin: bytes, cancel: Cancel | None = None) -> None:
        """Give it its input and take what it writes until it has ended, wrote too much, is late or cancelled.

        What a process that it leaves behind would write is not waited for.
        """
        end = time.monotonic() + deadline
        poll = select.poll()
        poll.register(self._pid_fd, select.POLLIN)
        if cancel:
            poll.register(cancel, select.POLLIN)
        outputs = {pipe.fileno(): (pipe, name) for pipe, name in self._outputs()}
        for descriptor in outputs:
            os.set_blocking(descriptor, False)
            poll.register(descriptor, select.POLLIN)
        unsent = memoryview(stdin)
        inlet = self._popen.stdin
        assert inlet is not None
        os.set_blocking(inlet.fileno(), False)
        poll.register(inlet.fileno(), select.POLLOUT)
        while not self.broke:
            ready = dict(poll.poll(max(0.0, end - time.monotonic()) * 1000))
            if not inlet.closed and inlet.fileno() in ready:
                unsent = _send(inlet, unsent)
                if not unsent:
                    poll.unregister(inlet.fileno())
                    inlet.close()
            ended = self._pid_fd in ready
            for descriptor in list(outputs) if ended else outputs.keys() & ready.keys():
                if not self._take(*outputs[descriptor], rest=ended):
                    poll.unregister(descriptor)
                    del outputs[descriptor]
            if ended:
                return
            if cancel and cancel.fileno() in ready:
                self.cancelled, self.broke = True, "was cancelled"
            elif time.monotonic() >= end:
                self.late, self.broke = True, self.broke or f"did not end within {deadline:g} s"

    def end(self) -> None:
        """Kill what is left of it and its process group, and reap it; if that cannot be, leave it behind."""
        poll = select.poll()
        poll.register(self._pid_fd, select.POLLIN)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # its number is not reused: it is not reaped yet
        gone = poll.poll(KILLED_SECONDS * 1000)
        os.close(self._pid_fd)
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe:
                pipe.close()
        if not gone:
            self.broke += ", and cannot be ended: it hangs in the kernel (is its disk or file system dead?)"
            _left.add(self._popen, self._place)
            return
        _, status, usage = os.wait4(self.pid, 0)
        self.returncode = self._popen.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = usage.ru_utime + usage.ru_stime

    def _outputs(self) -> list[tuple[IO[bytes], str]]:
        pairs = [(self._popen.stdout, "answer"), (self._popen.stderr, "words")]
        return [(pipe, name) for pipe, name in pairs if pipe]

    def _take(self, pipe: IO[bytes], name: str, *, rest: bool) -> bool:
        """Read what is there, all of it if that is the `rest`. False once nothing more will come."""
        limit = ANSWER_BYTES if name == "answer" else CHATTER_BYTES
        while True:
            data = pipe.read(_CHUNK)
            if not data:
                return data is None
            self._read[name] += len(data)
            if self._read[name] > limit:
                self.broke = f"wrote more than {limit >> 20} MiB and was ended"
                return False
            if name == "answer":
                self._keep_answer(data)
            else:
                self._words.append(data[-WORDS_BYTES:])
                while len(self._words) > 1 and sum(map(len, self._words)) - len(self._words[0]) >= WORDS_BYTES:
                    self._words.popleft()
            if not rest:
                return True

    def _keep_answer(self, data: bytes) -> None:
        if self._on_line is None:
            self.answer.append(data)
            return
        *lines, rest = b"".join((*self.answer, data)).split(b"\n")
        self.answer = [rest]
        self._read["answer"] = len(rest)
        for line in lines:
            self._on_line(line)


def _send(inlet: IO[bytes], unsent: memoryview) -> memoryview:
    """What is still to be sent; nothing to a program that takes no more."""
    try:
        return unsent[os.write(inlet.fileno(), unsent[:_CHUNK]) :] if unsent else unsent
    except BlockingIOError:
        return unsent
    except BrokenPipeError:
        return unsent[:0]
