"""What a guest configures itself from: a NoCloud seed disk, or a payload for fw_cfg.

Both hold secrets and are 0600; libvirt hands them to QEMU's user while the guest runs. Which of the two a machine's
ignition data becomes does not belong here (`userdata.py`), nor do disks with an operating system on them.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

from sri_libvirt import printable, userdata
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import NotReady
from sri_libvirt.paths import MachinePaths, install, unfinished

HANDLE = "seed"

LABEL = "cidata"
"""The volume label by which cloud-init's NoCloud source knows its disk."""


def write_seed(paths: MachinePaths, user_data: bytes, instance_id: str, name: str) -> DiskSource:
    """Write the NoCloud seed of the machine of this name, anew each time; it may lack a hostname. Raises NotReady."""
    meta = {"instance-id": instance_id}
    if hostname := userdata.hostname(name):
        meta["local-hostname"] = hostname
    # JSON is YAML, and every string is quoted in it.
    image = iso9660({"user-data": user_data, "meta-data": json.dumps(meta).encode() + b"\n"})
    _write(paths.seed, image)
    note = _hostname_note(name, hostname)
    return DiskSource(handle=HANDLE, path=str(paths.seed), format="raw", size=len(image), read_only=True, note=note)


def write_ignition(paths: MachinePaths, data: bytes) -> None:
    """Write the fw_cfg payload, unless it is there. Raises NotReady.

    Written anew without need it would keep a device in the domain while the file system is full.
    """
    if not _holds(paths.ignition, data):
        _write(paths.ignition, data)


def iso9660(files: dict[str, bytes]) -> bytes:
    """An ISO 9660 image labelled `cidata` with these files in its root, by Rock Ridge and Joliet names too."""
    import pycdlib  # slow to import, and most guests need no seed

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for number, (name, data) in enumerate(files.items()):
        iso.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return out.getvalue()


def _hostname_note(name: str, hostname: str) -> str:
    if hostname or not name:
        most = userdata.HOSTNAME_MOST
        cut = f"the guest is called {hostname}: a hostname has at most {most} characters, fewer than the machine's name"
        return cut if len(name) > most else ""
    return f"the guest gets no hostname: the machine's name {printable.quote(name)} is none"


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    made = unfinished(path)
    try:
        made.unlink(missing_ok=True)
        fd = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        install(made, path)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise NotReady(f"{path} cannot be written: {error.strerror}") from error
