"""A distribution of somebody else with drivers for `connection` volumes and for networks, found by entry points.

`install` puts it below a directory as an installer would: the module and its metadata. Our own drivers do not belong
here.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE = "example_sri_drivers"

_ENTRY_POINTS = f"""\
[sri_libvirt.volumes]
example-file = {MODULE}:FileVolumes
example-locked = {MODULE}:LockedVolumes

[sri_libvirt.nics]
example-link = {MODULE}:Links
"""


def install(target: Path) -> Path:
    """Install it into a directory that is, or will be, on sys.path; the directory."""
    target.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("drivers.py")
    shutil.copyfile(source, target / f"{MODULE}.py")
    metadata = target / f"{MODULE}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {MODULE}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(_ENTRY_POINTS)
    (metadata / "RECORD").write_text(f"{MODULE}.py,,\n{MODULE}-1.0.dist-info/entry_points.txt,,\n")
    return target


@contextmanager
def installed(target: Path) -> Iterator[None]:
    """It is found within, in this directory; for those who have no fixture."""
    if not target.exists():
        install(target)
    sys.path.insert(0, str(target))
    try:
        yield
    finally:
        sys.path.remove(str(target))
