"""Doing a job: from what the provider asks for to a file that is whole and synced, beside those of the cache.

What is not whole yet is called by the job's name and `.part`: there a later fetcher goes on. Names in the cache are not
given here, nor is a file looked at for what it is: the provider does that before it gives it one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from urllib3.response import BaseHTTPResponse

from sri_libvirt import failpoints
from sri_libvirt.errors import Unavailable
from sri_libvirt.images.content import Blob
from sri_libvirt.images.fetch.download import Need, Tell, Wanted, download, validator_of
from sri_libvirt.images.fetch.job import UNCHANGED, Failure, Pull, Pulled, Resolve, Resolved
from sri_libvirt.images.fetch.layers import Layer, extract_disk
from sri_libvirt.images.fetch.registry import Registry
from sri_libvirt.images.fetch.sparse import write_sparse
from sri_libvirt.images.fetch.unpack import HEAD_BYTES, Packing, needing, packing_of, unpacked
from sri_libvirt.images.fetch.web import Web, status_failure
from sri_libvirt.images.identity import digest_of
from sri_libvirt.images.reference import WebFile


class _Unchanged(Exception):
    """The server says that what is here is still right."""


def resolve(job: Resolve) -> Resolved:
    """Ask a registry what a reference means. Raises Failure."""
    registry = Registry(Web(job.access), job.access, job.registry, job.repository)
    return registry.resolve(job.version, job.machine)


def pull(job: Pull, tell: Tell, need: Need) -> Pulled:
    """Fetch one file. Raises Failure, or OSError where this host has no room for it.

    The bytes of a part's blobs it needs from the beginning; those that turn up later `need` is told of.
    """
    if job.part.url:
        return _web_file(job, tell, need)
    if len(job.part.blobs) == 1 and not job.part.layered:
        return _blob(job, job.part.blobs[0], tell)
    return _layers(job, tell, need)


def _blob(job: Pull, blob: Blob, tell: Tell) -> Pulled:
    part = _part(job, job.part.file)
    found = _fetch(job, blob, part, job.most, tell)
    return Pulled(str(part), found, blob.size, found)


def _layers(job: Pull, tell: Tell, need: Need) -> Pulled:
    """The disk in the layers of a containerDisk. The layers are gone in the end; they stay where one is missing, and
    where the disk waits for room."""
    total, left = sum(blob.size for blob in job.part.blobs), job.most
    layers: list[Layer] = []
    before = 0
    for name, blob in zip(job.part.fetched, job.part.blobs, strict=True):
        part = _part(job, name)

        def tell_all(done: int, _: int | None, before: int = before) -> None:
            tell(before + done, total)

        _fetch(job, blob, part, left, tell_all)
        layers.append(Layer(part, cast(Packing, blob.packing)))
        before += blob.size
        left -= blob.size
    part, waits = _part(job, job.part.file), False
    try:
        with failpoints.around("fetch.unpack", Unavailable), _anew(part) as out:
            size = extract_disk(layers, out, left, need)
            out.flush()
            os.fsync(out.fileno())
    except Failure as error:
        part.unlink(missing_ok=True)
        waits = error.code == "too-large"
        # The layers are what their digests say.
        raise Failure(error.code, str(error), final=error.code in ("not-an-image", "damaged")) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    finally:
        for layer in () if waits else layers:
            layer.path.unlink(missing_ok=True)
    return Pulled(str(part), digest_of(part), size, job.part.file)


def _web_file(job: Pull, tell: Tell, need: Need) -> Pulled:
    web, file = Web(job.access), WebFile(job.part.url, job.part.digest)
    what = "the file"
    said = ""

    def ask(offset: int, validator: str) -> BaseHTTPResponse:
        nonlocal said
        headers = {"If-None-Match": job.part.validator} if job.part.validator and not offset else {}
        if offset and (job.part.digest or validator):
            headers["Range"] = f"bytes={offset}-"
            if validator and not job.part.digest:
                headers["If-Range"] = validator
        response = web.get(job.part.url, authorization=web.basic(), headers=headers)
        if response.status == 304 and job.part.validator:
            response.close()
            raise _Unchanged
        if response.status == 200:
            said = validator_of(response)
        if response.status not in (200, 206, 416):
            response.close()
            raise status_failure(response, file.host, what)
        return response

    part = _part(job, job.part.file)
    try:
        fetched = download(ask, part, Wanted(None, job.part.digest, job.most, file.host), tell, need)
    except _Unchanged:
        part.unlink(missing_ok=True)
        return UNCHANGED
    with part.open("rb") as reading:
        packing = packing_of(reading.read(HEAD_BYTES))
    size = part.stat().st_size
    if not packing:
        return Pulled(str(part), fetched, size, fetched, said)
    disk = _part(job, f"{job.part.file}.disk")
    try:
        with failpoints.around("fetch.unpack", Unavailable), part.open("rb") as packed, _anew(disk) as out:
            digest, size = _keep(needing(unpacked(packed, packing, job.most - size), need), out)
    except BaseException:
        disk.unlink(missing_ok=True)
        raise
    finally:
        part.unlink(missing_ok=True)
    return Pulled(str(disk), digest, size, fetched, said)


def _fetch(job: Pull, blob: Blob, part: Path, most: int, tell: Tell) -> str:
    registry = Registry(Web(job.access), job.access, job.part.registry, job.part.repository)

    def ask(offset: int, _: str) -> BaseHTTPResponse:
        return registry.blob(blob.digest, offset)

    return download(ask, part, Wanted(blob.size, blob.digest, most, job.part.registry), tell)


def _keep(pieces: Iterator[bytes], out: BinaryIO) -> tuple[str, int]:
    found = hashlib.sha256()

    def hashed() -> Iterator[bytes]:
        for piece in pieces:
            found.update(piece)
            yield piece

    size = write_sparse(hashed(), out)
    out.flush()
    os.fsync(out.fileno())
    return f"sha256:{found.hexdigest()}", size


def _part(job: Pull, name: str) -> Path:
    return Path(job.directory) / f"{name.rpartition(':')[2]}.part"


def _anew(path: Path) -> BinaryIO:
    """An empty file for writing; nobody's link is followed."""
    with suppress(FileNotFoundError):
        path.unlink()
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b")
