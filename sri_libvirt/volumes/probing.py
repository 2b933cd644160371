"""When a volume's backend is asked, and what it has answered: nothing is given to QEMU that was not opened just before.

While QEMU opens a disk its guest stands still, minutes for a dead Ceph monitor, so a child process opens it first
(`probe.py`), as a job. An answer is good for some seconds: by then another host may have the volume open. It is for
longer while those are answered that its machine wants with it, else a machine with many volumes would never have all of
them at once. A backend is asked one thing at a time. While it does not answer, one of those who wait asks for all,
later each time; once it has answered, all are woken.

That is so for whoever has the same credentials: a tenant's wrong key, to which some backends answer nothing, must not
hold up others. But all who ask at one place share a few threads, and those whom it has not answered cannot have all of
them; nor does a place that was silent last, or is new, get the last thread that there is.

Nothing of this is stored: after a restart every volume is asked for anew, at once. How one is asked does not belong
here, nor what a machine does meanwhile (that is the loop's).
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from sri_libvirt.devices import DiskSource, SecretPurpose
from sri_libvirt.errors import UNDER_WAY, NotReady
from sri_libvirt.jobs import Jobs
from sri_libvirt.process import Cancelled
from sri_libvirt.records import SECOND
from sri_libvirt.volumes.base import Found

FRESH = 5 * SECOND
"""How long an answer is good."""

KEPT = 60 * SECOND
"""How long it is at most while others of its machine, asked for meanwhile, are answered in turn."""

FIRST_PAUSE = 5 * SECOND
LONGEST_PAUSE = 60 * SECOND
"""The pause after a failure: it doubles up to the longest."""

PER_PLACE = 3
"""Probes at one place at a time: one for those whom it does not answer, one more for those who have not asked yet, and
one more for those whom it has answered."""

BACKSTOP = 60 * SECOND
"""Those who wait for others' answer, or for a job, look for themselves after that: a wake may be lost."""

ASKED = "the volume's backend is being asked for it"


class Probe(Protocol):
    """Opens a volume once; with `prove` by its key, with `alone` only if nobody else has it open. Raises NotReady."""

    def __call__(
        self, source: DiskSource, secrets: Mapping[SecretPurpose, bytes], /, *, prove: bool, alone: bool
    ) -> Found: ...


Key = tuple[Hashable, bool]
"""A volume, and whether a guest has it open."""


@dataclass(slots=True)
class _Tries:
    """What failed last, how often in a row, and until when nothing is tried again."""

    error: NotReady | None = None
    count: int = 0
    due: int = 0

    def failed(self, error: NotReady, now: int) -> None:
        pause = min(FIRST_PAUSE << min(self.count, 10), LONGEST_PAUSE)
        if error.code == "in-use":
            pause = FIRST_PAUSE  # it is being let go, as a rule: that is no fault that lasts
        self.error, self.count, self.due = error, self.count + 1, now + pause

    def succeeded(self) -> None:
        self.error, self.count, self.due = None, 0, 0


@dataclass(slots=True)
class _Backend:
    """One that is asked one thing at a time. `turn` is whose volume asks for all while it does not answer.

    `answered_at` and `silent_at` are when it last did and did not; 0: never yet.
    """

    place: Hashable
    answered_at: int = 0
    silent_at: int = 0
    tries: _Tries = field(default_factory=_Tries)
    turn: Key | None = None
    waiting: dict[Key, str] = field(default_factory=dict)


@dataclass(slots=True)
class _Volume:
    """What is known of a volume with these very credentials. `proved`: its key opens it. `told`: what its machine heard
    last of why it has to wait. `put_at` is when a job was begun for it last, `asked_at` when that asked which was
    answered last.
    """

    fingerprint: bytes
    backend: Hashable
    waiter: str
    tries: _Tries = field(default_factory=_Tries)
    found: Found | None = None
    found_at: int = 0
    put_at: int = 0
    asked_at: int = 0
    proved: bool = False
    told: str = ""


class Probing:
    """All probes of one process. Thread-safe. `clock` is the loop's, `wake` is told of machines that may go on.

    `count` is told of each probe: of which driver's volume, what came of it ("ok", or the code of `NotReady`), seconds.
    """

    def __init__(
        self,
        jobs: Jobs,
        probe: Probe,
        clock: Callable[[], int],
        wake: Callable[[str], None],
        count: Callable[[str, str, float], None] = lambda _driver, _outcome, _seconds: None,
    ) -> None:
        self._count = count
        self._jobs = jobs
        self._probe = probe
        self._clock = clock
        self._wake = wake
        self._lock = threading.Lock()
        self._salt = os.urandom(16)
        self._volumes: dict[Key, _Volume] = {}
        self._backends: dict[Hashable, _Backend] = {}

    def ready(
        self,
        waiter: str,
        key: Hashable,
        source: DiskSource,
        secrets: Mapping[SecretPurpose, bytes],
        *,
        plugged: bool = False,
        since: int = 0,
    ) -> Found:
        """The answer for a volume, if there is a good one; else it is asked for as soon as it may be, and NotReady.

        `key` names the volume, `waiter` the machine that is woken when it may ask again. `busy_until` says when. Of one
        that is `plugged` already, so that its guest has it open, it is another question: nobody waits for its answer,
        and the machine is woken by one that is news. If it was put last before `since` it is put anew, at once.
        """
        return self._ready(waiter, (key, plugged), source, secrets, since)

    def _ready(
        self, waiter: str, key: Key, source: DiskSource, secrets: Mapping[SecretPurpose, bytes], since: int
    ) -> Found:
        now = self._clock()
        with self._lock:
            volume = self._volume(waiter, key, source, secrets)
            backend = self._backends[volume.backend]
            anew = volume.asked_at < since
            if volume.found and not anew and self._is_good(key, volume, now):
                return volume.found
            if not key[1]:
                backend.waiting[key] = waiter
            if not self._jobs.is_under_way(key) and (anew or now >= self._due(key, volume, backend)):
                self._begin(key, volume, source, secrets)
            known = None if anew else volume.tries.error or backend.tries.error
            error = known or NotReady(ASKED, code=UNDER_WAY)
            volume.told = str(error)
            raise NotReady(volume.told, error.advice, error.code)

    def _begin(self, key: Key, volume: _Volume, source: DiskSource, secrets: Mapping[SecretPurpose, bytes]) -> None:
        """Have a volume asked for, as a job. The caller holds the lock."""
        backend = self._backends[volume.backend]
        failing = backend.tries.error is not None
        if failing and not key[1]:
            backend.turn = key
        volume.put_at = self._clock()
        given, prove = dict(secrets), not (volume.proved or key[1])  # what a guest has open was opened by its key
        self._jobs.begin(
            key,
            lambda: self._ask(key, volume, source, given, prove, failing),
            waiter="" if key[1] else volume.waiter,
            group=volume.backend,
            bounds=_bounds(backend),
            doubtful=failing or not self._answers(backend.place),
        )

    def _answers(self, place: Hashable) -> bool:
        """Whether a place has answered whoever asked last. The caller holds the lock."""
        there = [each for each in self._backends.values() if each.place == place]
        return max(each.answered_at for each in there) > max(each.silent_at for each in there)

    def busy_until(self, key: Hashable) -> int | None:
        """Until when it is of no use to ask for a volume; None where nothing is known of it."""
        with self._lock:
            volume = self._volumes.get((key, False))
            if volume is None:
                return None
            if self._jobs.is_under_way((key, False)):
                return self._clock() + BACKSTOP
            backend = self._backends[volume.backend]
            error = volume.tries.error or backend.tries.error
            if error is not None and str(error) != volume.told:
                return None  # its machine is to hear of it
            return self._due((key, False), volume, backend)

    def size_of(self, key: Hashable) -> int:
        """The bytes that the last look at a plugged volume found; 0 if there was none."""
        with self._lock:
            volume = self._volumes.get((key, True))
            return volume.found.size if volume and volume.found else 0

    def forget(self, key: Hashable) -> None:
        """Nobody needs the volume any more. Idempotent."""
        with self._lock:
            others = self._drop((key, False)) + self._drop((key, True))
        for each in others:
            self._wake(each)

    def waiting(self) -> int:
        """How many volumes that are to be plugged wait for an answer that is good."""
        with self._lock:
            return len({key for backend in self._backends.values() for key in backend.waiting})

    def _volume(self, waiter: str, key: Key, source: DiskSource, secrets: Mapping[SecretPurpose, bytes]) -> _Volume:
        """What is known of it, or a blank. The caller holds the lock."""
        fingerprint = self._digest(repr(source).encode(), *(secrets[each] for each in sorted(secrets)))
        volume = self._volumes.get(key)
        if volume is None or volume.fingerprint != fingerprint:
            self._drop(key)
            place = _place(source)
            backend = (place, source.user, self._digest(secrets.get("auth", b"")))
            volume = self._volumes[key] = _Volume(fingerprint, backend, waiter)
            self._backends.setdefault(backend, _Backend(place))
        return volume

    def _digest(self, *parts: bytes) -> bytes:
        """Stands for secrets without being of use to who reads this process's memory dump."""
        found = hashlib.blake2b(key=self._salt, digest_size=16)
        for part in parts:
            found.update(len(part).to_bytes(8, "big") + part)
        return found.digest()

    def _is_good(self, key: Key, volume: _Volume, now: int) -> bool:
        """Whether its answer may still be given. The caller holds the lock."""
        age = now - volume.found_at
        if volume.tries.error or age > KEPT:
            return False
        if age <= FRESH:
            return True
        return self._backends[volume.backend].tries.error is None and any(
            each.waiter == volume.waiter
            and plugged == key[1]
            and each.put_at <= volume.found_at + FRESH
            and now <= each.found_at + FRESH
            for (_, plugged), each in self._volumes.items()
        )

    def _due(self, key: Key, volume: _Volume, backend: _Backend) -> int:
        """From when on a volume may be asked for. The caller holds the lock."""
        due = volume.tries.due
        if backend.tries.error:
            others = BACKSTOP if backend.turn not in (None, key) else 0
            due = max(due, backend.tries.due + others)
        return due

    def _ask(
        self,
        key: Key,
        volume: _Volume,
        source: DiskSource,
        secrets: Mapping[SecretPurpose, bytes],
        prove: bool,
        failing: bool,
    ) -> None:
        """The job: ask, and keep the answer."""
        with self._lock:
            backend = self._backends.get(volume.backend)
            if backend is None or (backend.tries.error and not failing):
                return  # it has begun to fail while this one waited for its turn
        asked_at, begun = self._clock(), time.monotonic()
        found: Found | None = None
        error: NotReady | None = None
        try:
            found = self._probe(source, secrets, prove=prove, alone=not key[1])
        except NotReady as refused:
            error = refused
        except Cancelled:
            return  # the provider is being stopped
        outcome = (error.code or "failed") if error else "ok"
        self._count(source.handle.partition("/")[0], outcome, time.monotonic() - begun)
        with self._lock:
            if volume.backend not in self._backends:
                return
            before = self._known(volume)
            volume.asked_at = asked_at
            woken = self._keep(key, volume, found, error)
            if key[1] and self._known(volume) != before:
                woken.append(volume.waiter)
        for each in woken:
            self._wake(each)

    def _known(self, volume: _Volume) -> tuple[Found | None, str]:
        """What can be news of a volume that is plugged. The caller holds the lock."""
        error = volume.tries.error or self._backends[volume.backend].tries.error
        return volume.found, str(error) if error else ""

    def _keep(self, key: Key, volume: _Volume, found: Found | None, error: NotReady | None) -> list[str]:
        """Keep an answer; who may go on now, besides who asked. The caller holds the lock."""
        backend, now, woken = self._backends[volume.backend], self._clock(), list[str]()
        if error is not None and error.code == "backend-silent":
            backend.tries.failed(error, now)
            backend.silent_at = now
            if not key[1]:
                backend.turn = key
            volume.tries.error = None  # it is the backend's fault until that answers
            return woken
        if backend.tries.error:
            woken = [waiter for each, waiter in backend.waiting.items() if each != key]
        backend.tries.succeeded()
        backend.answered_at, backend.turn = now, None
        if error is not None:
            volume.tries.failed(error, now)
        else:
            volume.tries.succeeded()
            volume.found, volume.found_at, volume.proved = found, now, True
            backend.waiting.pop(key, None)
        return woken

    def _drop(self, key: Key) -> list[str]:
        """Forget a volume; who waits for its turn to come, if it had that. The caller holds the lock."""
        volume = self._volumes.pop(key, None)
        if volume is None:
            return []
        backend = self._backends[volume.backend]
        backend.waiting.pop(key, None)
        if not any(each.backend == volume.backend for each in self._volumes.values()):
            del self._backends[volume.backend]
            return []
        if backend.turn != key:
            return []
        backend.turn = None
        return list(backend.waiting.values())[:1]


def _place(source: DiskSource) -> Hashable:
    """What answers for a volume or does not: servers, a directory's file system; a device for itself alone."""
    if source.kind == "block":
        return source.path
    hosts = frozenset(str(host.by(source.protocol)) for host in source.hosts)
    return source.protocol, hosts or source.path.rpartition("/")[0]


def _bounds(backend: _Backend) -> dict[Hashable, int]:
    """How many probes may run at once with one of a backend, at its place."""
    failing = backend.tries.error is not None
    bounds: dict[Hashable, int] = {("place", backend.place): PER_PLACE}
    if failing or not backend.answered_at:
        bounds["unproven", backend.place] = PER_PLACE - 1
    if failing:
        bounds["failing", backend.place] = PER_PLACE - 2
    return bounds
