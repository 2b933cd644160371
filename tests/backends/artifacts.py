"""What is in a registry: ironcore's OCI artifacts, container images with a disk, indices; and how it gets there.

What a registry is does not belong here; nor does reading from one, which is what is tested. What nobody would make in
earnest is put together from `push_blob` and `push_manifest`.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import http.client
import io
import json
import re
import shutil
import ssl
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal
from urllib.parse import urlencode, urlsplit

from tests.backends.daemon import START_SECONDS
from tests.backends.registry import Registry

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Generation = Literal["onmetal", "legacy", "current"]
Packing = Literal["gzip", "zstd", ""]
Descriptor = dict[str, Any]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
MANIFESTS = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)

TYPES: Mapping[Generation, Mapping[str, str]] = {
    "onmetal": {
        "config": "application/vnd.onmetal.image.config.v1alpha1+json",
        "rootfs": "application/vnd.onmetal.image.rootfs.v1alpha1.rootfs",
        "initramfs": "application/vnd.onmetal.image.initramfs.v1alpha1.initramfs",
        "kernel": "application/vnd.onmetal.image.vmlinuz.v1alpha1.vmlinuz",
    },
    "legacy": {
        "config": "application/vnd.ironcore.image.config.v1alpha1+json",
        "rootfs": "application/vnd.ironcore.image.rootfs.v1alpha1.rootfs",
        "initramfs": "application/vnd.ironcore.image.initramfs.v1alpha1.initramfs",
        "kernel": "application/vnd.ironcore.image.vmlinuz.v1alpha1.vmlinuz",
        "squashfs": "application/vnd.ironcore.image.squashfs.v1alpha1.squashfs",
    },
    "current": {
        "config": "application/vnd.ironcore.image.config.v1+json",
        "rootfs": "application/vnd.ironcore.image.rootfs",
        "initramfs": "application/vnd.ironcore.image.initramfs",
        "kernel": "application/vnd.ironcore.image.kernel",
        "squashfs": "application/vnd.ironcore.image.squashfs",
        "uki": "application/vnd.ironcore.image.uki",
        "iso": "application/vnd.ironcore.image.iso",
        "disk": "application/vnd.ironcore.image.disk.img",
    },
}
"""What each part is called, by generation of ironcore's images."""

QEMU = 107
"""The user and group that own the disk of a container image, as KubeVirt wants it."""

_BLOCK = 1 << 20
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


# Into a registry.


@dataclass(frozen=True)
class Blob:
    """Bytes with a name for what they are; a file's are streamed."""

    media_type: str
    data: bytes | Path
    annotations: Mapping[str, str] = field(default_factory=dict)


def push_blob(registry: Registry, repository: str, blob: Blob) -> Descriptor:
    """Put a blob there unless it is; what a manifest calls it."""
    with _opened(blob.data) as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        session = _Session(registry, repository)
        if session.ask("HEAD", f"blobs/{digest}", may_fail=True).status != 200:
            # The empty request gets the token: what is long is sent once.
            where = urlsplit(session.ask("POST", "blobs/uploads/").headers["Location"])
            session.ask("PUT", f"{where.path}?{where.query}&{urlencode({'digest': digest})}", file, size)
    return _descriptor(blob.media_type, digest, size, blob.annotations)


def push_manifest(registry: Registry, repository: str, reference: str, manifest: bytes, media_type: str) -> str:
    """Put a manifest there under a tag, or under its own digest if there is no `reference`; its digest."""
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    session = _Session(registry, repository)
    path, headers = f"manifests/{reference or digest}", {"Content-Type": media_type}
    session.ask("PUT", path, io.BytesIO(manifest), len(manifest), headers)
    return digest


def manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    media_type: str = OCI_MANIFEST,
    more: Mapping[str, object] | None = None,
) -> bytes:
    """A manifest of what was pushed, with `more` that it says or says otherwise."""
    made = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": list(layers), **(more or {})}
    return json.dumps(made).encode()


# Ironcore's images.


def ironcore(
    registry: Registry,
    repository: str,
    tag: str,
    *,
    parts: Mapping[str, bytes | Path],
    generation: Generation = "current",
    command_line: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> str:
    """An artifact with these parts (the keys of TYPES) as its layers, in this order; the digest of its manifest.

    Tag "": it has its digest alone, as what an index names.
    """
    types = TYPES[generation]
    told = {} if command_line is None else {"commandLine": command_line}
    config = push_blob(registry, repository, Blob(types["config"], json.dumps(told).encode()))
    layers = [push_blob(registry, repository, Blob(types[part], data)) for part, data in parts.items()]
    more = {"annotations": dict(annotations)} if annotations else {}
    return push_manifest(registry, repository, tag, manifest(config, layers, more=more), OCI_MANIFEST)


# Container images.


@dataclass(frozen=True)
class Entry:
    """A member of a layer's tar."""

    name: str
    data: bytes | Path = b""
    kind: bytes = tarfile.REGTYPE
    """As tarfile calls it."""
    target: str = ""
    """Of a link."""
    mode: int = 0o440
    owner: int = QEMU


Layer = bytes | Path | Sequence[Entry]
"""A tar, or what shall be in one."""


def disk(data: bytes | Path, name: str = "disk.img") -> list[Entry]:
    """The layer of an image that has nothing but a disk, made as `ADD --chown=107:107 FILE /disk/`."""
    return [Entry("disk/", kind=tarfile.DIRTYPE, mode=0o555), Entry(f"disk/{name}", data)]


def container_disk(
    registry: Registry,
    repository: str,
    tag: str,
    *,
    layers: Sequence[Layer],
    packing: Packing = "gzip",
    docker: bool = False,
    architecture: str = "amd64",
    labels: Mapping[str, str] | None = None,
) -> str:
    """A container image FROM scratch of these layers; the digest of its manifest.

    `docker`: by the names that Docker had before OCI. Tag "": it has its digest alone.
    """
    assert not (docker and packing == "zstd"), "Docker's names have none for that"
    separator = "." if docker else "+"
    layer_type = (DOCKER_LAYER if docker else OCI_LAYER) + (f"{separator}{packing}" if packing else "")
    described, unpacked = [], []
    for layer in layers:
        with _packed(layer, packing, registry.directory) as (file, digest):
            described.append(push_blob(registry, repository, Blob(layer_type, file)))
            unpacked.append(digest)
    told = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Labels": dict(labels or {})},
        "rootfs": {"type": "layers", "diff_ids": unpacked},
        "history": [{"created_by": "a test"} for _ in layers],
    }
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    config_type = DOCKER_CONFIG if docker else OCI_CONFIG
    config = push_blob(registry, repository, Blob(config_type, json.dumps(told).encode()))
    return push_manifest(registry, repository, tag, manifest(config, described, media_type), media_type)


def tar(entries: Sequence[Entry]) -> bytes:
    """A small tar, to be spoilt and given as a layer."""
    file = io.BytesIO()
    _write_tar(file, entries)
    return file.getvalue()


# Indices.


@dataclass(frozen=True)
class Listed:
    """What an index says of one manifest. Size and media type are the registry's own words unless they are given."""

    digest: str
    size: int | None = None
    platform: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    media_type: str = ""


def index(registry: Registry, repository: str, tag: str, listed: Sequence[Listed], *, docker: bool = False) -> str:
    """An index, or one of Docker's lists, over what is in the same repository; its digest."""
    manifests = []
    for each in listed:
        media_type, size = each.media_type, each.size
        if not media_type or size is None:
            session = _Session(registry, repository)
            found = session.ask("HEAD", f"manifests/{each.digest}", headers={"Accept": ", ".join(MANIFESTS)}).headers
            media_type = media_type or found["Content-Type"]
            size = int(found["Content-Length"]) if size is None else size
        described = _descriptor(media_type, each.digest, size, each.annotations)
        manifests.append({**described, "platform": dict(each.platform)} if each.platform else described)
    media_type = DOCKER_LIST if docker else OCI_INDEX
    made = {"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}
    return push_manifest(registry, repository, tag, json.dumps(made).encode(), media_type)


# How.


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


class _Session:
    """Requests for one repository; who is asked for a token gets one, and shows it from then on."""

    def __init__(self, registry: Registry, repository: str) -> None:
        self._registry = registry
        self._prefix = f"/v2/{repository}/"
        self._context = ssl.create_default_context(cafile=str(registry.ca)) if registry.ca else None
        self._authorization: dict[str, str] = {}
        if registry.login and not registry.tokens:
            self._authorization = self._basic()

    def ask(
        self,
        method: str,
        path: str,
        body: BinaryIO | None = None,
        size: int = 0,
        headers: Mapping[str, str] | None = None,
        may_fail: bool = False,
    ) -> _Answer:
        """An answer from the registry; AssertionError, with its words, unless it is a good one or may be none."""
        url = self._registry.url + (path if path.startswith("/") else self._prefix + path)
        told = {"Content-Length": str(size), **(headers or {})}
        answer = self._exchange(method, url, body, {**told, **self._authorization})
        challenge = answer.headers.get("WWW-Authenticate", "")
        if answer.status == 401 and challenge.startswith("Bearer ") and not self._authorization:
            self._authorization = {"Authorization": f"Bearer {self._token(challenge)}"}
            if body:
                body.seek(0)
            answer = self._exchange(method, url, body, {**told, **self._authorization})
        assert may_fail or answer.status < 300, f"{method} {url}: {answer.status} {answer.body.decode()}"
        return answer

    def _exchange(self, method: str, url: str, body: BinaryIO | None, headers: Mapping[str, str]) -> _Answer:
        split = urlsplit(url)
        connection = (
            http.client.HTTPSConnection(split.netloc, timeout=START_SECONDS, blocksize=_BLOCK, context=self._context)
            if split.scheme == "https"
            else http.client.HTTPConnection(split.netloc, timeout=START_SECONDS, blocksize=_BLOCK)
        )
        try:
            target = split.path + (f"?{split.query}" if split.query else "")
            connection.request(method, target, body, dict(headers))
            response = connection.getresponse()
            return _Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def _token(self, challenge: str) -> str:
        # Pushing is asked for at once: what comes first is only a look.
        said = dict(_CHALLENGE.findall(challenge))
        repository = self._prefix.removeprefix("/v2/").rstrip("/")
        query = urlencode({"service": said["service"], "scope": f"repository:{repository}:pull,push"})
        answer = self._exchange("GET", f"{said['realm']}?{query}", None, self._basic() if self._registry.login else {})
        assert answer.status == 200, f"no token: {answer.status} {answer.body.decode()}"
        token: str = json.loads(answer.body)["token"]
        return token

    def _basic(self) -> dict[str, str]:
        assert self._registry.login is not None
        return {"Authorization": f"Basic {base64.b64encode(':'.join(self._registry.login).encode()).decode()}"}


def _descriptor(media_type: str, digest: str, size: int, annotations: Mapping[str, str]) -> Descriptor:
    described = {"mediaType": media_type, "digest": digest, "size": size}
    return {**described, "annotations": dict(annotations)} if annotations else described


def _opened(data: bytes | Path) -> io.BytesIO | io.BufferedReader:
    return data.open("rb") if isinstance(data, Path) else io.BytesIO(data)


@contextmanager
def _packed(layer: Layer, packing: Packing, directory: Path) -> Iterator[tuple[Path, str]]:
    """A file with a layer as it is pushed, and the digest of the tar in it. /tmp may be memory."""
    with tempfile.TemporaryDirectory(dir=directory) as work:
        plain, packed = Path(work, "tar"), Path(work, "packed")
        if isinstance(layer, Path):
            plain = layer
        elif isinstance(layer, bytes):
            plain.write_bytes(layer)
        else:
            with plain.open("wb") as file:
                _write_tar(file, layer)
        with plain.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
            file.seek(0)
            if packing == "gzip":
                # The same every time: no time of its own, and of levels the one that is quick.
                with packed.open("wb") as raw, gzip.GzipFile("", "wb", 1, raw, 0) as target:
                    shutil.copyfileobj(file, target, _BLOCK)
            elif packing == "zstd":
                with zstd.open(packed, "wb") as target:
                    shutil.copyfileobj(file, target, _BLOCK)
        yield (packed if packing else plain), digest


def _write_tar(file: BinaryIO, entries: Sequence[Entry]) -> None:
    with tarfile.open(fileobj=file, mode="w") as archive:
        for entry in entries:
            with _opened(entry.data) as data:
                info = tarfile.TarInfo(entry.name)
                info.type, info.linkname, info.mode = entry.kind, entry.target, entry.mode
                info.uid = info.gid = entry.owner
                info.size = data.seek(0, io.SEEK_END)
                data.seek(0)
                archive.addfile(info, data)
