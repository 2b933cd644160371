"""What a plan can ask for. Each action has one idempotent performer in `perform.py`.

How an action is carried out does not belong here, nor when it is wanted (that is `plan.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from sri_libvirt.records import Key, StopCause


@dataclass(frozen=True, slots=True)
class PrepareDevice:
    """Make a device's backing ready, or verify that it still is. A failure is kept with the attachment.

    `plugged`: the guest has the device, and the record of what it has was lost.
    """

    key: Key
    plugged: bool = False


@dataclass(frozen=True, slots=True)
class ResolveImage:
    """Learn what the machine's image reference means, once: neither its hardware nor its disk is made before."""

    key: Key


@dataclass(frozen=True, slots=True)
class ChooseProfile:
    """Choose, once, the hardware that must not drift."""


@dataclass(frozen=True, slots=True)
class AssignPorts:
    """Give a root port to every wanted device that has none, as far as ports go; only then is it prepared."""


@dataclass(frozen=True, slots=True)
class Define:
    """Write the persistent domain. With `new_run` a run begins: its uuid goes into the metadata."""

    new_run: bool


@dataclass(frozen=True, slots=True)
class Start:
    """Start the guest. With `restore` the managed save is restored, else one that exists is dropped.

    `drops_save` is why one that exists is dropped (a word of `reasons.SAVE_DROPPED`).
    """

    restore: bool = False
    drops_save: str = ""


@dataclass(frozen=True, slots=True)
class SetClock:
    """Set the clock of a guest that was restored, or tell that it stands behind."""


@dataclass(frozen=True, slots=True)
class PlugDevice:
    """Plug a prepared device into the running guest, at its port."""

    key: Key


@dataclass(frozen=True, slots=True)
class UnplugDevice:
    """Ask the running guest to let a device go; with `again` one that is wanted and is to be plugged anew."""

    key: Key
    again: bool = False


@dataclass(frozen=True, slots=True)
class FollowDisk:
    """Let the persistent domain name the file that the guest writes to since somebody has moved it."""

    key: Key


@dataclass(frozen=True, slots=True)
class ResizeDisk:
    """Let the running guest see as much of a volume as the latest look at its backend has found, which is more."""

    key: Key
    size: int


@dataclass(frozen=True, slots=True)
class UnplugStranger:
    """Ask the running guest to let a device go that no row knows."""

    alias: str


@dataclass(frozen=True, slots=True)
class PressButton:
    """Press the guest's ACPI power button. `first` begins the grace time."""

    first: bool


@dataclass(frozen=True, slots=True)
class Resume:
    """Let a guest run on that is paused, or `wake` one that sleeps: for the `resumes`th time in a row."""

    wake: bool = False
    resumes: int = 1


@dataclass(frozen=True, slots=True)
class Destroy:
    """End the guest's QEMU at once. `cause` is why the guest has stopped before; None: it stops because of this."""

    cause: StopCause | None = None


@dataclass(frozen=True, slots=True)
class Undefine:
    """Forget the domain with its NVRAM and managed save."""


@dataclass(frozen=True, slots=True)
class ReleaseDevice:
    """Undo the prepare of a device that no domain XML holds any more, and drop its row."""

    key: Key
    final: bool


@dataclass(frozen=True, slots=True)
class RemoveFiles:
    """Remove the machine's directory."""


@dataclass(frozen=True, slots=True)
class Forget:
    """Remove the machine from the store. The last action of a machine's life."""


Action = (
    PrepareDevice
    | ResolveImage
    | ChooseProfile
    | AssignPorts
    | Define
    | Start
    | SetClock
    | PlugDevice
    | UnplugDevice
    | UnplugStranger
    | FollowDisk
    | ResizeDisk
    | PressButton
    | Resume
    | Destroy
    | Undefine
    | ReleaseDevice
    | RemoveFiles
    | Forget
)

OfDevice = PrepareDevice | ResolveImage | PlugDevice | UnplugDevice | FollowDisk | ResizeDisk | ReleaseDevice
"""Actions on one device of the machine; all others are on the machine as a whole."""
