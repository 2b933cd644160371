"""What an image is made of: what an artifact of a registry holds for a machine, and the parts that are fetched.

Plain data, which machines keep and fetchers are told. How it is read off a manifest does not belong here
(`fetch/manifest.py`), nor which parts an image has (`parts.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes of a registry by their digest, `sha256:…`. `packing` is how a containerDisk's layer is packed, "" else."""

    digest: str
    size: int
    media_type: str = ""
    packing: str = ""


@dataclass(frozen=True, slots=True)
class Content:
    """What a machine is made of: a raw or qcow2 disk, or the layers that hold one, or neither; and what it boots
    besides its firmware: a kernel with its initramfs and command line, or a unified kernel image."""

    disk: Blob | None = None
    layers: tuple[Blob, ...] = ()
    kernel: Blob | None = None
    initramfs: Blob | None = None
    uki: Blob | None = None
    command_line: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain data, of which `content_of` makes an equal content."""
        return asdict(self)


def content_of(data: Mapping[str, Any]) -> Content:
    """What `Content.to_json` gave."""
    single = {name: Blob(**data[name]) if data[name] else None for name in ("disk", "kernel", "initramfs", "uki")}
    return Content(**single, layers=tuple(Blob(**each) for each in data["layers"]), command_line=data["command_line"])


@dataclass(frozen=True, slots=True)
class Part:
    """One file: what it is made of, and whence. Of a registry `blobs`, of a web server `url` and `digest`. A "file" is
    none that is looked at: a kernel, or an initramfs."""

    name: str
    source: str
    registry: str = ""
    repository: str = ""
    blobs: tuple[Blob, ...] = ()
    layered: bool = False
    url: str = ""
    digest: str = ""
    validator: str = ""
    kind: Literal["disk", "file"] = "disk"

    @property
    def size(self) -> int:
        """The bytes that are fetched, as far as that is known."""
        return sum(blob.size for blob in self.blobs)

    @property
    def file(self) -> str:
        """What it is called while it is not whole, without an end."""
        digest = self.name.rpartition(":")[2]
        return digest if self.blobs else hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def fetched(self) -> tuple[str, ...]:
        """The same of files with which a later fetcher goes on; all others of it are of use to the one that runs."""
        if self.layered:
            return tuple(f"{self.file}.{number}" for number in range(len(self.blobs)))
        return (self.file,) if self.blobs or self.digest else ()
