"""Questions that servers are asked for images: each by one job whoever wants its answer, and again after a pause.

A failure is tried again after a pause that grows, or is as long as the server asks for; what can never be otherwise is
not tried again. Nothing of this is stored: after a restart everything is asked for anew, at once. What is asked, and
how, does not belong here.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import structlog

from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import UNDER_WAY, NotReady, SRIError
from sri_libvirt.images.fetch.job import Code, Failure
from sri_libvirt.jobs import Jobs
from sri_libvirt.process import Cancelled
from sri_libvirt.records import SECOND

log = structlog.get_logger(__name__)

FIRST_PAUSE = 5 * SECOND
LONGEST_PAUSE = 60 * SECOND
"""The pause after a failure: it doubles up to the longest."""

LONG_PAUSE = 600 * SECOND
"""The longest where each try fetches everything before it fails."""

BACKSTOP = 60 * SECOND
"""Those who wait for a job look for themselves after that: a wake may be lost."""

FORGOTTEN = 3600 * SECOND
"""How long after anybody has asked for it a question is remembered."""

UNREACHABLE, REFUSED, NO_ROOM = "image-unreachable", "image-refused", "no-room"

_REASONS: dict[Code, str] = {
    "unreachable": UNREACHABLE,
    "certificate": UNREACHABLE,
    "no-room": NO_ROOM,
    "too-large": NO_ROOM,  # what it may have is what this host has for it
}
"""The code of the reason that a failure gives; of all others it is REFUSED."""

ADVICE: dict[Code, str] = {
    "not-found": "Push it there, or correct the reference; it is tried again every minute.",
    "unauthorised": "Give a user who may pull it: --registry-auth names the file (`skopeo login` makes one), which is "
    "read for each try.",
    "unreachable": "It is tried again every minute: see the server, the host's network and its proxy settings.",
    "certificate": "Name the authority that signed it by --registry-ca.",
    "not-allowed": "The operator of this host decides what is fetched: --image-source and --insecure-registry.",
    "digest-wrong": "What the server gives was changed on its way or in its storage: push it again.",
    "too-large": "Delete machines or give the host more room, or use a smaller image.",
    "no-room": "Delete machines, give the file system of the state directory more room, or use a smaller image.",
    "not-an-image": "Use an ironcore-image, a containerDisk, or a raw or qcow2 file.",
    "damaged": "Push it again, whole.",
    "refused": "It is tried again every minute; the provider's log may say more.",
}

_NEVER = 1 << 62

Key = tuple[str, str]
"""What is asked for: the meaning of a reference, or a part, by its name."""


@dataclass(slots=True)
class _Question:
    """How it stands with one: what failed last, how often in a row, and until when it is not asked again; or what came
    of it, and when. `done` of `of` bytes are there since `begun`, while it is a pull that runs.
    """

    source: str
    touched: int
    error: NotReady | None = None
    failures: int = 0
    due: int = 0
    pin: ImagePin | None = None
    answered_at: int = 0
    begun: int = 0
    done: int = 0
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Pace:
    """How far a pull is: bytes of how many (None: nobody knows), since when (steady nanoseconds)."""

    source: str
    done: int
    of: int | None
    since: int


class Questions:
    """All of one process. Thread-safe."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._asked: dict[Key, _Question] = {}
        self._jobs: dict[Key, Jobs] = {}

    def answer(self, key: Key, good_for: int) -> ImagePin | None:
        """What came of one, if that is no older than so many nanoseconds."""
        with self._lock:
            question = self._asked.get(key)
            fresh = question is not None and self._clock() - question.answered_at <= good_for
            return question.pin if question is not None and fresh else None

    def ask(
        self, jobs: Jobs, key: Key, source: str, work: Callable[[], ImagePin | None], *, waiter: str, group: Hashable
    ) -> None:
        """Have `work` done, or wait for it with the others, unless it is too early; `waiter` is woken at its end.

        It returns what is kept as the answer, and raises what is kept as a failure: Failure, NotReady, or any other.
        `source` is what people call it.
        """
        now = self._clock()
        with self._lock:
            self._forget(now)
            question = self._asked.setdefault(key, _Question(source, now))
            question.touched = now
            if jobs.is_under_way(key) or now >= question.due:
                self._jobs[key] = jobs
                doubtful = question.error is not None
                jobs.begin(key, lambda: self._do(key, work), waiter=waiter, group=group, doubtful=doubtful)

    def problem(self, keys: Sequence[Key]) -> NotReady | None:
        """Why who needs all of these has to wait; None where nothing is known."""
        with self._lock:
            return self._problem(keys)

    def busy_until(self, keys: Sequence[Key], heard: str) -> int | None:
        """Until when it is of no use to ask for these again, for one who heard last that; None where there is news, or
        nothing is known."""
        with self._lock:
            problem = self._problem(keys)
            if problem is None or str(problem) != heard:
                return None
            later = self._clock() + BACKSTOP
            if any(self._is_under_way(key) for key in keys):
                return later
            due = [each.due for each in self._of(keys) if each.error is not None]
            return min((*due, later))

    def forgive(self) -> None:
        """Forget what has failed: what is asked for from now on is tried at once."""
        with self._lock:
            for question in self._asked.values():
                question.error, question.failures, question.due = None, 0, 0

    def begun(self, key: Key, size: int) -> None:
        """A pull runs, of so many bytes (0: nobody knows)."""
        with self._lock:
            question = self._asked[key]
            question.begun, question.done, question.of = self._clock(), 0, size or None

    def advanced(self, key: Key, done: int, of: int | None) -> None:
        """So far it is."""
        with self._lock:
            self._asked[key].done, self._asked[key].of = done, of

    def ended(self, key: Key) -> None:
        """It runs no more."""
        with self._lock:
            self._asked[key].begun = 0

    def pace(self) -> list[Pace]:
        """What is being fetched."""
        with self._lock:
            return [Pace(each.source, each.done, each.of, each.begun) for each in self._asked.values() if each.begun]

    def _of(self, keys: Sequence[Key]) -> list[_Question]:
        return [self._asked[key] for key in keys if key in self._asked]

    def _problem(self, keys: Sequence[Key]) -> NotReady | None:
        for question in self._of(keys):
            if question.error is not None:
                return NotReady(str(question.error), question.error.advice, question.error.code)
        waiting = [self._asked[key].source for key in keys if self._is_under_way(key)]
        return under_way(waiting[0]) if waiting else None

    def _is_under_way(self, key: Key) -> bool:
        return key in self._asked and key in self._jobs and self._jobs[key].is_under_way(key)

    def _forget(self, now: int) -> None:
        old = [each for each, question in self._asked.items() if now - question.touched > FORGOTTEN]
        for each in old:
            if not self._is_under_way(each):
                del self._asked[each]
                self._jobs.pop(each, None)

    def _do(self, key: Key, work: Callable[[], ImagePin | None]) -> None:
        """The job: whatever comes of it is kept, so that nobody tries again at once."""
        try:
            pin = work()
        except Cancelled:
            return  # the provider is being stopped
        except (Failure, NotReady) as error:
            self._failed(key, error)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._failed(key, Failure("no-room" if full else "refused", error.strerror or str(error)))
        except SRIError as error:
            self._failed(key, Failure("refused", str(error)))
        except Exception as error:
            log.exception("a bug: an image could not be asked for")
            self._failed(key, Failure("refused", f"the provider met a bug of its own ({type(error).__name__})"))
        else:
            with self._lock:
                question = self._asked[key]
                question.error, question.failures, question.due = None, 0, 0
                question.pin, question.answered_at = pin, self._clock()

    def _failed(self, key: Key, error: Failure | NotReady) -> None:
        with self._lock:
            question = self._asked[key]
            pause = min(FIRST_PAUSE << min(question.failures, 10), LONGEST_PAUSE)
            if isinstance(error, Failure):
                if error.final:
                    pause = _NEVER
                elif error.code in ("too-large", "damaged", "not-an-image") and question.done:
                    pause = min(FIRST_PAUSE << min(question.failures + 3, 10), LONG_PAUSE)
                pause = max(pause, int(error.after * SECOND))
                code = _REASONS.get(error.code, REFUSED)
                problem, advice = f"the image {question.source} cannot be fetched: {error}", ADVICE[error.code]
                question.error = NotReady(problem, advice, code)
            else:
                if error.code == NO_ROOM and question.done:  # all of that would be fetched again
                    pause = min(FIRST_PAUSE << min(question.failures + 3, 10), LONG_PAUSE)
                problem = str(error) if error.code else f"the image {question.source} cannot be fetched: {error}"
                question.error = NotReady(problem, error.advice, error.code or REFUSED)
            question.failures, question.done = question.failures + 1, 0
            question.due = self._clock() + pause


def under_way(source: str) -> NotReady:
    """Why one waits for what is being asked for or fetched."""
    return NotReady(f"the image {source} is being fetched", "`sri-libvirt images list` shows how far it is.", UNDER_WAY)
