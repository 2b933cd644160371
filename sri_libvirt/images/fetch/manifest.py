"""What an artifact of a registry holds for a machine: read off its index, manifest and config. Pure.

Two kinds are told apart by the config's media type: artifacts of ironcore-image, of its three generations (contract
C.1), whose layers are the parts of a machine, raw and each of a media type of its own; and KubeVirt's containerDisks
(C.2), ordinary container images with one disk file in /disk. A fetcher alone reads such documents of strangers. How
their bytes come does not belong here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sri_libvirt import printable
from sri_libvirt.images.content import Blob, Content
from sri_libvirt.images.reference import DIGEST
from sri_libvirt.resources import byte_words

MANIFEST_BYTES = 4 << 20
"""The largest index, manifest or config that is read: what registries take at most."""

COMMAND_LINE_MOST = 2047
"""Linux on x86 keeps 2048 bytes, the NUL among them."""

KERNEL_MOST, INITRAMFS_MOST = 128 << 20, 512 << 20
"""Each machine has a copy, which its class does not pay for."""

_LAYERS_MOST = 128
_SIZE_MOST = 1 << 50

MANIFEST_TYPES = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
INDEX_TYPES = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)

_CONTAINER_CONFIGS = frozenset(
    {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
)
_PREFIX = "application/vnd."
_ARTIFACT_CONFIGS = frozenset(
    _PREFIX + each
    for each in (
        "onmetal.image.config.v1alpha1+json",
        "ironcore.image.config.v1alpha1+json",
        "ironcore.image.config.v1+json",
    )
)

Part = Literal["disk", "rootfs", "squashfs", "kernel", "initramfs", "uki", "iso"]

_PARTS: Mapping[str, Part] = {
    "ironcore.image.disk.img": "disk",
    "ironcore.image.rootfs": "rootfs",
    "ironcore.image.rootfs.v1alpha1.rootfs": "rootfs",
    "onmetal.image.rootfs.v1alpha1.rootfs": "rootfs",
    "ironcore.image.squashfs": "squashfs",
    "ironcore.image.squashfs.v1alpha1.squashfs": "squashfs",
    "ironcore.image.kernel": "kernel",
    "ironcore.image.vmlinuz.v1alpha1.vmlinuz": "kernel",
    "onmetal.image.vmlinuz.v1alpha1.vmlinuz": "kernel",
    "ironcore.image.initramfs": "initramfs",
    "ironcore.image.initramfs.v1alpha1.initramfs": "initramfs",
    "onmetal.image.initramfs.v1alpha1.initramfs": "initramfs",
    "ironcore.image.uki": "uki",
    "ironcore.image.iso": "iso",
}
"""Layers of an artifact, by what follows `application/vnd.`; others are ignored."""

_LAYERS: Mapping[str, str] = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
"""Layers of a containerDisk, and how each is packed."""

_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_WANTED = "virtualization"


class NotAnImage(ValueError):
    """An artifact that no machine can be made of; `str()` says why, of "it"."""


def media_type(document: Mapping[str, Any], header: str) -> str:
    """What an index or manifest is, by itself and by the header of the reply. Raises NotAnImage where they differ.

    One that says so nowhere in its text is what the header says: the specification leaves the field to its writer.
    """
    said, told = _text(document, "mediaType"), header.partition(";")[0].strip()
    if said and said != told:
        raise NotAnImage(f"the registry calls it {_quoted(told)}, and it calls itself {_quoted(said)}")
    is_index, is_manifest = "manifests" in document, "layers" in document or "config" in document
    if is_index and is_manifest:
        raise NotAnImage("it is an index and a manifest at once")
    if told not in (INDEX_TYPES if is_index else MANIFEST_TYPES):
        raise NotAnImage(f"it is neither an image nor an index of images (media type {_quoted(told)})")
    return told


def document(data: bytes) -> dict[str, Any]:
    """The JSON object of an index, manifest or config. Raises NotAnImage."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NotAnImage(f"its manifest or config is not JSON ({type(error).__name__})") from None
    if not isinstance(found, dict):
        raise NotAnImage("its manifest or config is not a JSON object")
    return found


def choose(index: Mapping[str, Any], machine: str) -> Blob:
    """The manifest of an index for hosts of this architecture (`uname -m`). Raises NotAnImage.

    Of several that fit the one that is annotated for virtualisation goes first, else the index's order counts. One
    without a platform fits where it is alone.
    """
    architecture = _ARCHITECTURES.get(machine, machine)
    entries = [each for each in _objects(index.get("manifests")) if _text(each, "mediaType") in MANIFEST_TYPES]
    fitting = [each for each in entries if _platform(each) == ("linux", architecture)]
    if not fitting and len(entries) == 1 and _platform(entries[0]) == ("", ""):
        fitting = entries
    if not fitting:
        offered = sorted({"/".join(_platform(each)) for each in entries} - {"/"})
        has = ", ".join(map(_quoted, offered[:5])) or "none"
        raise NotAnImage(f"its index has no image for linux/{architecture} (it has {has})")
    wanted = [each for each in fitting if _annotation(each, "variant") == _WANTED]
    return blob((wanted or fitting)[0])


def blob(descriptor: object) -> Blob:
    """A descriptor's digest, size and media type. Raises NotAnImage for one that is damaged or of another hash."""
    fields = descriptor if isinstance(descriptor, dict) else {}
    digest, size, kind = fields.get("digest"), fields.get("size"), fields.get("mediaType", "")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise NotAnImage(f"a part of it has no sha256 digest ({_quoted(str(digest))})")
    if type(size) is not int or not 0 <= size <= _SIZE_MOST:
        raise NotAnImage(f"its part {digest} has no size")
    if not isinstance(kind, str):
        raise NotAnImage(f"its part {digest} has no media type")
    return Blob(digest, size, kind)


def config_of(manifest: Mapping[str, Any]) -> Blob | None:
    """The config that has to be read for `read`, None where nothing in it counts. Raises NotAnImage."""
    config = blob(manifest.get("config"))
    if config.media_type in _ARTIFACT_CONFIGS and config.size > MANIFEST_BYTES:
        raise NotAnImage(f"its config has {config.size} bytes, more than {MANIFEST_BYTES}")
    return config if config.media_type in _ARTIFACT_CONFIGS else None


def read(manifest: Mapping[str, Any], config: Mapping[str, Any] | None) -> Content:
    """What a manifest's artifact holds; `config` is that of `config_of`. Raises NotAnImage."""
    layers = [blob(each) for each in _objects(manifest.get("layers"))]
    if not layers:
        raise NotAnImage("it has no layers")
    if len(layers) > _LAYERS_MOST:
        raise NotAnImage(f"it has {len(layers)} layers, more than {_LAYERS_MOST}")
    kind = blob(manifest.get("config")).media_type
    if kind in _CONTAINER_CONFIGS:
        return Content(layers=tuple(_layer(each) for each in layers))
    if kind not in _ARTIFACT_CONFIGS and not any(_part(each) for each in layers):
        raise NotAnImage(
            f"it is neither an ironcore-image nor a containerDisk (its config is {_quoted(kind or 'of no type')})"
        )
    return _artifact(layers, _command_line(config or {}))


def _artifact(layers: Iterable[Blob], command_line: str) -> Content:
    parts = {part: each for each in layers if (part := _part(each))}
    disk = parts.get("disk") or parts.get("rootfs") or parts.get("squashfs")
    kernel, uki = parts.get("kernel"), parts.get("uki")
    if "disk" in parts:  # a whole disk boots by itself
        return Content(disk=disk)
    if not disk and not kernel and not uki:
        if "iso" in parts:
            raise NotAnImage("it holds an ISO image, which installs a machine and is not one: push an installed disk")
        raise NotAnImage("it holds no disk and no kernel")
    for name, boots, most in (
        ("kernel", kernel, KERNEL_MOST),
        ("initramfs", parts.get("initramfs"), INITRAMFS_MOST),
        ("unified kernel image", uki, KERNEL_MOST + INITRAMFS_MOST),
    ):
        if boots and boots.size > most:
            raise NotAnImage(f"its {name} has {byte_words(boots.size)}, more than {byte_words(most)}")
    if kernel:
        return Content(disk=disk, kernel=kernel, initramfs=parts.get("initramfs"), command_line=command_line)
    return Content(disk=disk, uki=uki)


def _part(layer: Blob) -> Part | None:
    return _PARTS.get(layer.media_type.removeprefix(_PREFIX)) if layer.media_type.startswith(_PREFIX) else None


def _layer(layer: Blob) -> Blob:
    if layer.media_type not in _LAYERS:
        raise NotAnImage(f"a layer of it is {_quoted(layer.media_type)}, which is not known")
    return Blob(layer.digest, layer.size, layer.media_type, _LAYERS[layer.media_type])


def _command_line(config: Mapping[str, Any]) -> str:
    found = config.get("commandLine") or ""
    if not isinstance(found, str) or len(found.encode(errors="surrogatepass")) > COMMAND_LINE_MOST:
        raise NotAnImage(f"its kernel's command line is not a text of at most {COMMAND_LINE_MOST} bytes")
    if not found.isprintable() or re.search("[\ud800-\udfff]", found):
        raise NotAnImage("its kernel's command line holds characters that are none of a line of text")
    return found


def _objects(value: object) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _text(fields: Mapping[str, Any], name: str) -> str:
    """A text, "" of what is absent; what is none is shown as it is, and is equal to no text of ours."""
    value = fields.get(name)
    return value if isinstance(value, str) else "" if value is None else repr(value)


def _platform(entry: Mapping[str, Any]) -> tuple[str, str]:
    platform = entry.get("platform")
    fields = platform if isinstance(platform, dict) else {}
    return str(fields.get("os") or ""), str(fields.get("architecture") or "")


def _annotation(entry: Mapping[str, Any], name: str) -> object:
    annotations = entry.get("annotations")
    return annotations.get(name) if isinstance(annotations, dict) else None


def _quoted(text: str) -> str:
    return printable.quote(text[:120])
