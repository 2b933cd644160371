"""Direct kernel boot: what the firmware is given where the machine's image has a kernel.

Whether it has one is in the profile, so that it never drifts. Where the files come from does not belong here.
"""

from __future__ import annotations

from sri_libvirt.devices import ImagePin
from sri_libvirt.domain.spec import Kernel
from sri_libvirt.paths import MachinePaths
from sri_libvirt.records import Profile


def build(profile: Profile, image: ImagePin | None, paths: MachinePaths) -> Kernel | None:
    """The kernel of a machine by its profile and its image; None where a disk is booted."""
    if profile.boot == "disk" or image is None:
        return None
    return Kernel(
        path=str(paths.kernel),
        initramfs=str(paths.initramfs) if image.initramfs else "",
        command_line=image.command_line,
    )
