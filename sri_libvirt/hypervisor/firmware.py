"""UEFI builds of this host, from QEMU's firmware descriptors (QEMU's docs/interop/firmware.json).

Descriptors of all directories are ordered by file name; one in an operator's directory replaces the distribution's of
the same name, and an empty one hides it. Only what a q35 machine of x86_64 can boot from two flash devices is kept.
Which firmware a machine gets does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt.errors import HypervisorError
from sri_libvirt.hypervisor.base import Firmware

log = structlog.get_logger(__name__)

DIRECTORIES = (Path("/usr/share/qemu/firmware"), Path("/etc/qemu/firmware"))
"""From the lowest precedence to the highest."""

_SECURE_BOOT = frozenset({"enrolled-keys", "requires-smm", "secure-boot"})


def parse(descriptor: str) -> Firmware | None:
    """One descriptor; None when it describes something else. Raises ValueError when it is no descriptor."""
    try:
        return _parse(json.loads(descriptor))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a firmware descriptor: {error!r}") from error


def _parse(data: Mapping[str, Any]) -> Firmware | None:
    mapping, features = data["mapping"], frozenset(data["features"])
    if "uefi" not in data["interface-types"] or mapping["device"] != "flash" or mapping.get("mode", "split") != "split":
        return None
    patterns = tuple(
        pattern
        for target in data["targets"]
        if target["architecture"] == "x86_64"
        for pattern in target["machines"]
        if "q35" in pattern
    )
    code, variables = mapping["executable"], mapping["nvram-template"]
    if not patterns or code["format"] not in ("raw", "qcow2") or variables["format"] != code["format"]:
        return None
    return Firmware(
        loader=code["filename"],
        loader_format=code["format"],
        nvram_template=variables["filename"],
        secure_boot=bool(features & _SECURE_BOOT),
        machine_patterns=patterns,
    )


def merge(directories: Iterable[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Names and texts of the descriptors that count, in their order. From the lowest precedence to the highest."""
    merged: dict[str, str] = {}
    for directory in directories:
        merged.update(directory)
    return [(name, text) for name, text in sorted(merged.items()) if text.strip()]


def read(directories: Sequence[Path] = DIRECTORIES) -> tuple[Firmware, ...]:
    """The usable firmware of this host, best first as its distribution orders it. Bad descriptors are logged.

    Raises HypervisorError when what is there cannot be read: a machine keeps the firmware that it is made with, so one
    made meanwhile would have BIOS for ever.
    """
    found = []
    try:
        descriptors = merge([_texts(directory) for directory in directories])
    except OSError as error:
        raise HypervisorError(f"firmware descriptors cannot be read: {error.filename}: {error.strerror}") from error
    for name, text in descriptors:
        try:
            firmware = parse(text)
        except ValueError as error:
            log.warning("firmware descriptor is not understood", file=name, error=str(error))
            continue
        if firmware and Path(firmware.loader).is_file() and Path(firmware.nvram_template).is_file():
            found.append(firmware)
    return tuple(found)


def _texts(directory: Path) -> dict[str, str]:
    """The descriptors of a directory by their names; none where there is none. Raises OSError."""
    found = {}
    with suppress(FileNotFoundError):
        # not glob(), for which a directory that cannot be read is an empty one
        for file in sorted(directory.iterdir()):
            # not is_file(): an operator hides a descriptor by a link to /dev/null
            if file.suffix == ".json" and not file.is_dir():
                found[file.name] = _text(file)
    return found


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return ""  # a link to nothing hides as one to /dev/null does
