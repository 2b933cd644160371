"""What references mean, and the parts of images: asked for and fetched once for whoever needs them.

What a tag means is asked for each machine that is new, at most once a minute; what a digest means is kept for good
(`cache.py`). A part that is not in the cache is fetched by a job of its own, and all who wait for it are woken at its
end. How bytes come does not belong here (`fetching.py`), nor when a failure is tried again (`questions.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from sri_libvirt import failpoints, qcow2
from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import NotReady, Unavailable
from sri_libvirt.images.cache import Cache, Kind
from sri_libvirt.images.content import Part
from sri_libvirt.images.fetch.job import UNCHANGED, Failure, Pull, Pulled, Resolve, Resolved
from sri_libvirt.images.fetching import Need, Progress
from sri_libvirt.images.parts import digest_of, parts_of, pin_of_artifact, pin_of_file, unknown, validator_of
from sri_libvirt.images.questions import ADVICE, NO_ROOM, Key, Pace, Questions, under_way
from sri_libvirt.images.reference import Reference, WebFile
from sri_libvirt.images.rules import Rules
from sri_libvirt.jobs import Jobs
from sri_libvirt.process import Cancelled, ProcessError
from sri_libvirt.records import SECOND

log = structlog.get_logger(__name__)

MEANS = 60 * SECOND
"""How long what a tag means is good for the next machine."""


class Fetching(Protocol):
    """What does the jobs (`fetching.Fetcher`)."""

    def resolve(self, job: Resolve) -> Resolved: ...

    def pull(self, job: Pull, progress: Progress, need: Need) -> Pulled: ...


class Room(Protocol):
    """The file system of the cache, as machines share it."""

    def take(self, holder: str, amount: int) -> str:
        """Let a pull have so many bytes in place of what it had; "" when it has them, else what lacks, with the
        arithmetic."""

    def free(self) -> int:
        """The bytes that nobody has."""

    def give_back(self, holder: str) -> None:
        """It has ended; what it has written is in the files."""


class Pulling:
    """All of one process. Thread-safe. `questions` are jobs that are short, `pulls` those that are not; `machine` is
    this host's architecture (`uname -m`); `count` is told of each pull: what came of it, its bytes and seconds."""

    def __init__(
        self,
        cache: Cache,
        fetcher: Fetching,
        rules: Rules,
        room: Room,
        *,
        questions: Jobs,
        pulls: Jobs,
        clock: Callable[[], int],
        machine: str,
        count: Callable[[str, int, float], None] = lambda _outcome, _bytes, _seconds: None,
    ) -> None:
        self._cache = cache
        self._fetcher = fetcher
        self._rules = rules
        self._room = room
        self._questions = questions
        self._pulls = pulls
        self._machine = machine
        self._count = count
        self._asked = Questions(clock)

    def means(self, wanted: Reference | WebFile, waiter: str) -> ImagePin:
        """What a reference means now. Raises NotReady while that is being asked, and where it cannot be."""
        self._rules.check(wanted)
        if wanted.digest:
            if isinstance(wanted, WebFile):
                return pin_of_file(wanted, wanted.digest)
            if (known := self._cache.reference(wanted.at(wanted.digest))) is not None:
                return known
        key, source = _of_reference(wanted), str(wanted)
        if (pin := self._asked.answer(key, MEANS)) is not None:
            return pin
        if isinstance(wanted, Reference):
            ask = partial(self._ask, wanted)
            self._asked.ask(self._questions, key, source, ask, waiter=waiter, group=wanted.registry)
        else:
            fetch = partial(self._fetch_unknown, key, wanted)
            self._asked.ask(self._pulls, key, source, fetch, waiter=waiter, group=key)
        raise self._asked.problem([key]) or under_way(source)

    def fetch(self, parts: Sequence[Part], waiter: str) -> NotReady:
        """Have parts fetched that are not in the cache, and say why one has to wait. Raises NotReady for what may not
        be."""
        for part in parts:
            self._rules.check(_wanted(part))
            key = _of_part(part)
            fetch = partial(self._fetch, key, part)
            self._asked.ask(self._pulls, key, part.source, fetch, waiter=waiter, group=key)
        return self._asked.problem([_of_part(part) for part in parts]) or under_way(parts[0].source)

    def busy_until(self, wanted: Reference | WebFile, pin: ImagePin | None, heard: str) -> int | None:
        """Until when it is of no use to ask again for what a machine waits for, which `heard` this last; None where it
        is to hear something else, or nothing is known."""
        keys = [_of_reference(wanted)] if pin is None else [_of_part(part) for part in parts_of(pin).values()]
        return self._asked.busy_until(keys, heard)

    def forgive(self) -> None:
        """Forget what has failed: what is asked for from now on is tried at once."""
        self._asked.forgive()

    def pace(self) -> list[Pace]:
        """What is being fetched."""
        return self._asked.pace()

    # The jobs. What they raise is kept with the question.

    def _ask(self, wanted: Reference) -> ImagePin:
        access = self._rules.access(wanted)
        job = Resolve(wanted.registry, wanted.repository, wanted.version, self._machine, access)
        found = self._fetcher.resolve(job)
        pin = pin_of_artifact(wanted, found.digest, found.content)
        self._cache.keep_reference(pin.reference, pin)
        if wanted.digest:
            self._cache.keep_reference(wanted.at(wanted.digest), pin)  # which may be an index's
        return pin

    def _fetch_unknown(self, key: Key, wanted: WebFile) -> ImagePin:
        """A file of a web server whose digest nobody has named: it is fetched to know it."""
        known = self._cache.reference(wanted.url)
        here = known if known is not None and self._is_here(known) else None
        part = unknown(wanted, validator_of(here) if here else "")
        with self._room_for(key, part):
            pulled = self._pulled(key, part)
            if pulled == UNCHANGED and here is not None:
                return pin_of_file(wanted, digest_of(here))
            pin = pin_of_file(wanted, pulled.fetched)
            self._keep(pin.reference, pulled, pin.reference, "disk", final=False)
        self._cache.keep_reference(wanted.url, pin_of_file(wanted, pulled.fetched, pulled.validator))
        return pin

    def _is_here(self, pin: ImagePin) -> bool:
        try:
            return self._cache.find(pin.parts[0]) is not None
        except NotReady:
            return False  # somebody has written to it

    def _fetch(self, key: Key, part: Part) -> None:
        with self._room_for(key, part):
            pulled = self._pulled(key, part)
            self._keep(part.name, pulled, part.source, part.kind, final=True)

    @contextmanager
    def _room_for(self, key: Key, part: Part) -> Iterator[None]:
        """What is to come of a part has its room until it is named: then the whole of it is measured. Raises NotReady.

        What has come before is measured as others': less is for sale meanwhile, never more. What turns out to come
        besides (`_grow`) has room from then on.
        """
        if lacking := self._room.take(str(key), max(0, part.size - self._cache.part_bytes(part.file))):
            self._count(NO_ROOM, 0, 0.0)
            raise _no_room(part, lacking)
        try:
            yield
        finally:
            self._room.give_back(str(key))

    def _grow(self, key: Key, part: Part, more: int) -> None:
        """A pull is about to write so many bytes more. Raises NotReady, which ends it."""
        with failpoints.around("images.room", Unavailable):
            lacking = self._room.take(str(key), more)
        if lacking:
            raise _no_room(part, lacking)

    def _pulled(self, key: Key, part: Part) -> Pulled:
        """A part that is whole. Raises Failure, NotReady, Cancelled."""
        begun = time.monotonic()
        outcome, size = "ok", 0
        try:
            self._asked.begun(key, part.size)
            pulled = self._within_bounds(key, part)
            size = pulled.size
            log.info("fetched", source=part.source, bytes=size, seconds=round(time.monotonic() - begun, 1))
        except Cancelled:
            outcome = "cancelled"
            raise
        except (Failure, NotReady) as error:
            outcome = error.code or "refused"
            if outcome == NO_ROOM:
                # Where the file system itself is full nothing of it stays: machines need what room there is.
                self._cache.drop_parts_of(part.file, part.fetched if isinstance(error, NotReady) else ())
            log.warning("not fetched", source=part.source, code=outcome, error=str(error))
            raise
        finally:
            self._asked.ended(key)
            self._count(outcome, size, time.monotonic() - begun)
        return pulled

    def _within_bounds(self, key: Key, part: Part) -> Pulled:
        """What `_pulled` gives, from a fetcher that writes no more than could be had if everything made way."""
        most = part.size + self._room.free() + self._cache.held()
        job = Pull(str(self._cache.directory), most, self._rules.access(_wanted(part)), part)
        try:
            return self._fetcher.pull(job, partial(self._asked.advanced, key), partial(self._grow, key, part))
        except Failure as error:
            if error.code == "too-large" and (lacking := self._room.take(str(key), most + 1)):
                raise _no_room(part, f"{error}; {lacking}") from error
            raise

    def _keep(self, name: str, pulled: Pulled, source: str, kind: Kind, *, final: bool) -> None:
        """Put it into the cache. Raises Failure for what is not fit for it, `final` if it is known by its digest."""
        try:
            self._cache.keep(name, Path(pulled.path), pulled.digest, source, kind)
        except NotReady as error:
            raise Failure("not-an-image", str(error), final=final) from error
        except ProcessError as error:
            raise Failure("damaged", str(error), final=final and error.returncode == qcow2.CORRUPT) from error


def _of_reference(wanted: Reference | WebFile) -> Key:
    return ("means", str(wanted))


def _of_part(part: Part) -> Key:
    return ("part", part.name)


def _no_room(part: Part, lacking: str) -> NotReady:
    return NotReady(f"the image {part.source} does not fit on this host: {lacking}", ADVICE["no-room"], NO_ROOM)


def _wanted(part: Part) -> Reference | WebFile:
    """Whence a part comes, as far as rules and passwords ask."""
    return WebFile(part.url, part.digest) if part.url else Reference(part.registry, part.repository)
