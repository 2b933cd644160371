"""The tiny guest in parts, taken out of its disk: kernel, initial RAM disk, and both in one program of UEFI.

How the disk is built does not belong here (`build.py`).
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.guest import build

_GAP = 1 << 20
"""Between the sections that are added to the stub, and its own."""


def kernel(directory: Path) -> Path:
    """The kernel, in a file below the directory."""
    return _copied("vmlinuz", directory)


def initramfs(directory: Path) -> Path:
    """The initial RAM disk, which is the whole guest."""
    return _copied("initrd.gz", directory)


def uki(directory: Path, options: str = build.OPTIONS) -> Path:
    """A unified kernel image: systemd's stub with kernel, RAM disk and command line as sections of it."""
    stub, path = _copied("stub.efi", directory), directory / "tiny.efi"
    line = directory / "cmdline"
    line.write_text(options)
    release = directory / "os-release"
    release.write_text("ID=tiny\n")
    sections = {
        ".osrel": release,
        ".cmdline": line,
        ".linux": kernel(directory),
        ".initrd": initramfs(directory),
    }
    argv: list[str | Path] = ["objcopy"]
    at = _end(stub)
    for name, file in sections.items():
        argv += ["--add-section", f"{name}={file}", "--change-section-vma", f"{name}={at:#x}"]
        at += -(-file.stat().st_size // _GAP) * _GAP + _GAP
    subprocess.run([*argv, stub, path], check=True, capture_output=True)
    return path


def _end(stub: Path) -> int:
    """Where a program of UEFI ends in memory, rounded up: by its sections, as objdump lists them."""
    listed = subprocess.run(["objdump", "-h", stub], check=True, capture_output=True, text=True).stdout
    ends = [
        int(size, 16) + int(at, 16) for size, at in re.findall(r"^ +[0-9]+ \S+ +(\w+) +(\w+)", listed, re.MULTILINE)
    ]
    return -(-max(ends) // _GAP) * _GAP + _GAP


def _copied(name: str, directory: Path) -> Path:
    path = directory / name
    # mtools: a small image has fewer tracks than its checks want.
    env = {**os.environ, "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(
        ["mcopy", "-n", "-o", "-i", build.image(), f"::/{name}", path], check=True, capture_output=True, env=env
    )
    return path
