"""Kernel and initramfs of an image that has them: each machine boots copies of its own.

libvirt gives the files of `<kernel>` and `<initrd>` to QEMU's user while a guest runs, and takes no seclabel there: of
the cache's own files it would make one tenant's what all share. How a kernel is booted does not belong here (domain/).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sri_libvirt.errors import NotReady
from sri_libvirt.images.base import Base
from sri_libvirt.paths import MachinePaths, install, unfinished


def copy(base: Base, paths: MachinePaths) -> None:
    """Have the machine's copies, made unless they are there. Raises NotReady."""
    for source, path in ((base.kernel, paths.kernel), (base.initramfs, paths.initramfs)):
        if source is not None and not path.exists():
            _copy(source, path)


def remove(paths: MachinePaths) -> None:
    """Idempotent."""
    for path in (paths.kernel, paths.initramfs):
        path.unlink(missing_ok=True)


def _copy(source: Path, path: Path) -> None:
    made = unfinished(path)
    try:
        shutil.copyfile(source, made)
        install(made, path)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise NotReady(f"{path} cannot be made: {error.strerror}") from error
