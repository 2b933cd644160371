"""Bytes of a server into a file, hashed while they come, resumed where they broke off.

What is in the file already, of this process or of one that was killed, is hashed anew and asked for no more, where the
digest says in the end whether the whole is right. Runs of zeroes take no room. What the bytes are does not belong here,
nor how a server is asked.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from urllib3.exceptions import HTTPError
from urllib3.response import BaseHTTPResponse

from sri_libvirt.images.fetch.job import Failure
from sri_libvirt.images.fetch.sparse import put
from sri_libvirt.images.fetch.web import failure_of
from sri_libvirt.resources import byte_words

PIECE = 1 << 20
TRIES = 4
"""How often in a row a server may break off without having given anything."""

_READ_BYTES = 1 << 16
"""Little is read at a time: what of it has come is lost where a connection is reset, falls silent, or we are killed."""

_TELL_SECONDS = 0.5
_NUMBER = r"[0-9]{1,18}"
_RANGE = re.compile(rf"bytes ({_NUMBER})-({_NUMBER})/({_NUMBER}|\*)")

Ask = Callable[[int, str], BaseHTTPResponse]
"""Asks for the bytes from an offset on, if they are still those of a validator ("": whatever they are)."""

Tell = Callable[[int, int | None], None]
"""Is told how many bytes of how many are there."""

Need = Callable[[int], None]
"""Is told how many bytes more are to be written, before they are."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to come: `size` None and `digest` "" where nobody knows; at most `most` bytes."""

    size: int | None
    digest: str
    most: int
    host: str


def download(
    ask: Ask,
    part: Path,
    wanted: Wanted,
    tell: Tell,
    need: Need = lambda _: None,
    pause: Callable[[float], None] = time.sleep,
) -> str:
    """Have the whole of it in the file `part`, synced, and return its digest. Raises Failure, OSError.

    What has come stays where the server breaks off, if a later try can use it: where the digest is known.
    """
    if wanted.size is not None and wanted.size > wanted.most:
        raise _too_large(wanted.size, wanted)
    fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "r+b") as out:
        coming = _Coming(out, wanted, tell, need)
        try:
            coming.begin()
            _until_whole(ask, coming, pause)
        except (Failure, OSError):
            if not wanted.digest:
                part.unlink(missing_ok=True)
            raise
        out.truncate(coming.done)
        out.flush()
        os.fsync(out.fileno())
        found = coming.digest
    if wanted.digest and found != wanted.digest:
        part.unlink(missing_ok=True)
        raise Failure("digest-wrong", f"{wanted.host} gives other bytes for {wanted.digest}: they have {found}")
    return found


def _until_whole(ask: Ask, coming: _Coming, pause: Callable[[float], None]) -> None:
    tries = 0
    while not coming.whole:
        before = coming.done
        try:
            coming.take(ask(coming.done, coming.validator))
            tries = 0
        except (HTTPError, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError | ssl.SSLError):
                raise  # of the file, not of the server
            tries = 1 if coming.done > before else tries + 1
            if tries >= TRIES:
                raise failure_of(error, coming.wanted.host) from error
            pause(min(0.5 * 2**tries, 8.0))


class _Coming:
    """What has come so far."""

    def __init__(self, out: BinaryIO, wanted: Wanted, tell: Tell, need: Need) -> None:
        self.wanted = wanted
        self.done = 0
        self.whole = False
        self.validator = ""
        self._out = out
        self._hash = hashlib.sha256()
        self._total = wanted.size
        self._tell = tell
        self._need = need
        self._told = 0.0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def begin(self) -> None:
        """Go on from what is in the file, where it is of use."""
        there = os.fstat(self._out.fileno()).st_size
        if not self.wanted.digest or (self._total is not None and there > self._total):
            self._anew()
            return
        self._out.seek(0)
        while piece := self._out.read(PIECE):
            self._hash.update(piece)
            self.done += len(piece)
        self.whole = self.digest == self.wanted.digest
        if not self.whole and self.done == self._total:
            self._anew()

    def take(self, response: BaseHTTPResponse) -> None:
        """Keep what an answer gives. Raises Failure; HTTPError or OSError where it breaks off."""
        try:
            end = self._place(response)
            if end is None:
                return
            for piece in response.stream(_READ_BYTES, decode_content=False):
                self._keep(piece)
        finally:
            response.close()
        if self.done != end:
            raise ConnectionError("it broke off")
        self.whole = True

    def _place(self, response: BaseHTTPResponse) -> int | None:
        """Where the bytes of an answer belong: how many there are when it has ended; None if it is of no use."""
        if response.status == 416:
            if not self.done:
                raise Failure("refused", f"{self.wanted.host} gives nothing of it")
            self._anew()
            return None
        if response.status == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range") or "")
            if not found or int(found[1]) != self.done:
                raise Failure("refused", f"{self.wanted.host} gives another part of it than it was asked for")
            total = None if found[3] == "*" else int(found[3])
        else:
            if self.done:
                self._anew()
            length = response.headers.get("Content-Length") or ""
            total = int(length) if re.fullmatch(_NUMBER, length) else None
        self.validator = validator_of(response) or response.headers.get("Last-Modified") or ""
        return self._expect(total)

    def _expect(self, total: int | None) -> int:
        if self.wanted.size is not None and total not in (None, self.wanted.size):
            raise Failure(
                "digest-wrong", f"{self.wanted.host} has {total} bytes, and the manifest says {self.wanted.size}"
            )
        total = total if self.wanted.size is None else self.wanted.size
        if total is None:
            raise Failure("refused", f"{self.wanted.host} does not say how many bytes it has, so nobody sees the end")
        self._need(total - self.done)
        if total > self.wanted.most:
            raise _too_large(total, self.wanted)
        self._total = total
        return total

    def _keep(self, piece: bytes) -> None:
        if self._total is not None and self.done + len(piece) > self._total:
            raise Failure("digest-wrong", f"{self.wanted.host} gives more bytes than there are: {self._total}")
        self._hash.update(piece)
        put(self._out, self.done, piece)
        self.done += len(piece)
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            self._tell(self.done, self._total)

    def _anew(self) -> None:
        self._out.truncate(0)
        self._hash, self.done = hashlib.sha256(), 0


def validator_of(response: BaseHTTPResponse) -> str:
    """The strong entity tag of an answer (RFC 9110, 8.8.3), which no other bytes have; "" without one."""
    tag = response.headers.get("ETag") or ""
    return tag if tag.startswith('"') and tag.isascii() and tag.isprintable() and len(tag) <= 256 else ""


def _too_large(size: int, wanted: Wanted) -> Failure:
    return Failure(
        "too-large", f"it has {byte_words(size)}, more than the {byte_words(wanted.most)} that it may have here"
    )
