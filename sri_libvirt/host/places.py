"""Whether the paths of the settings name the same thing here, for libvirt and QEMU, and for the operator.

What lies there does not belong here.
"""

from __future__ import annotations

from pathlib import Path

from sri_libvirt import printable
from sri_libvirt.config import Settings
from sri_libvirt.errors import ConfigError
from sri_libvirt.host import storage
from sri_libvirt.paths import NOT_BY_FW_CFG, unspeakable


def check(settings: Settings, mountinfo: str) -> None:
    """Refuse paths that name one thing here and another for libvirt and the operator. Raises ConfigError."""
    places = [("--state-dir", settings.state_dir), ("--machine-classes", settings.machine_classes)]
    places += [("--network-map", settings.network_map)]
    places += [("--template-dir", settings.template_dir), ("--ceph-conf", settings.ceph_conf)]
    places += _named_directories(settings)
    for flag, path in places:
        if path is not None and storage.is_private(mountinfo, str(path)):
            raise ConfigError(
                f"{flag} {path}: this service has a directory of its own there (PrivateTmp=), which libvirt and you do "
                "not see: choose a path that is neither below /tmp nor below /var/tmp"
            )


def check_names(settings: Settings) -> None:
    """Refuse paths that libvirt cannot be told so that QEMU opens them. Raises ConfigError."""
    places = [
        ("--state-dir", settings.state_dir, NOT_BY_FW_CFG),
        *((flag, path, "") for flag, path in _named_directories(settings)),
        ("--ceph-conf", settings.ceph_conf, ""),
    ]
    for flag, path, more in places:
        if found := unspeakable(path, more):
            raise ConfigError(
                f"{flag} {printable.quote(str(path))} holds {found}: libvirt would hand QEMU another path; "
                "choose one without it"
            )


def _named_directories(settings: Settings) -> list[tuple[str, Path]]:
    """Those of the operator's in which others name files, each with its flag."""
    return [
        *(("--image-dir", each) for each in settings.image_dir),
        *(("--file-dir", each) for each in settings.file_dir),
        *(("--nbd-socket-dir", each) for each in settings.nbd_socket_dir),
    ]
