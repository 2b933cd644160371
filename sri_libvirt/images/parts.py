"""What is fetched for an image: its parts, each a file of the cache, and the pin by which a machine keeps them. Pure.

A part has a name before it is fetched, of which it can be found again: a blob its digest, the layers that hold a disk
a digest of theirs, a file of a web server its URL with its digest. Fetching does not belong here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from sri_libvirt.devices import ImagePin
from sri_libvirt.images.content import Blob, Content, Part, content_of
from sri_libvirt.images.reference import Reference, WebFile

Role = Literal["disk", "kernel", "initramfs", "uki"]


def pin_of_artifact(reference: Reference, digest: str, content: Content) -> ImagePin:
    """What a machine keeps of an artifact: `digest` is that of its manifest."""
    named = reference.at(digest)
    fields = {"registry": reference.registry, "repository": reference.repository, "holds": content.to_json()}
    parts = _of_artifact(named, fields)
    return ImagePin(
        reference=named,
        boot="kernel" if content.kernel else "uki" if content.uki else "disk",
        initramfs=content.initramfs is not None,
        command_line=content.command_line,
        parts=tuple(part.name for part in parts.values()),
        content=json.dumps(fields),
    )


def pin_of_file(file: WebFile, digest: str, validator: str = "") -> ImagePin:
    """What a machine keeps of a file of a web server: `digest` is that of what the server gave, `validator` what it has
    called it."""
    named = file.at(digest)
    fields = {"url": file.url, "digest": digest, "validator": validator}
    return ImagePin(reference=named, parts=(named,), content=json.dumps(fields))


def digest_of(pin: ImagePin) -> str:
    """That of what a web server gave."""
    found: str = json.loads(pin.content)["digest"]
    return found


def validator_of(pin: ImagePin) -> str:
    """What a web server has called its file, "" where it had no word for it."""
    found: str = json.loads(pin.content).get("validator", "")
    return found


def parts_of(pin: ImagePin) -> dict[Role, Part]:
    """The parts that a pin names, by what they are for."""
    fields: Mapping[str, Any] = json.loads(pin.content)
    if "url" in fields:
        name = pin.reference
        return {"disk": Part(name, pin.reference, url=fields["url"], digest=fields["digest"])}
    return _of_artifact(pin.reference, fields)


def unknown(file: WebFile, validator: str) -> Part:
    """A file of which nobody knows the digest before it is fetched; `validator` is of the one that is here."""
    return Part(file.url, file.url, url=file.url, validator=validator)


def _of_artifact(named: str, fields: Mapping[str, Any]) -> dict[Role, Part]:
    content = content_of(fields["holds"])
    registry, repository = fields["registry"], fields["repository"]
    roles: tuple[tuple[Role, Blob | None], ...] = (
        ("disk", content.disk),
        ("kernel", content.kernel),
        ("initramfs", content.initramfs),
        ("uki", content.uki),
    )
    found: dict[Role, Part] = {
        role: Part(blob.digest, named, registry, repository, (blob,), kind="disk" if role == "disk" else "file")
        for role, blob in roles
        if blob is not None
    }
    if content.layers:
        joined = " ".join(blob.digest for blob in content.layers)
        name = f"layers:{hashlib.sha256(joined.encode()).hexdigest()}"
        found["disk"] = Part(name, named, registry, repository, content.layers, layered=True)
    return found
