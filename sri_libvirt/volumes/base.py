"""The contract of a volume driver: from a Volume of the spec to a disk source.

1. `supports(volume)` is a pure look at the message. Exactly one registered driver must say yes.
2. `validate(volume)` raises `InvalidSpec`, its path relative to the volume, for what is wrong in itself. Pure; called
   in the RPC.
3. `handle(machine_id, volume)` is what the status reports, also before the volume is prepared. Pure, stable,
   never empty; one of more than 256 bytes is shown cut, with a digest (`devices.shown_handle`). Volumes of one handle
   are one volume, which one machine has at a time.
4. `prepare(...)` is idempotent and called before every cold start and every attach; raises `NotReady`.
5. `release(...)` undoes prepare once the device is gone from the guest, or was never there. Idempotent. `final` is
   set when the machine is being deleted: data that survives a detach (an empty disk's, contract G.4) goes only then.

A driver may also have `claims(volume)`, pure: what the volume takes of the host while it is attached, as claims of
`resources.py`; one whose holder it names is kept until the machine is gone, as its data is. A volume whose claims do
not fit is not prepared. Without that method it takes nothing. A driver that names holders may have
`kept(volume, paths)`, too, asked when the volume leaves: without such data these claims end as the others do.

A driver may have `look(machine_id, volume, since)`: how a volume is that a guest has open, as `Found`, or `NotReady`;
what was asked before the time `since` does not count. And then `size_of(machine_id, volume)`, pure: the bytes that the
last such look found, 0 if there was none. And `prepare_plugged(machine_id, volume)`: what `prepare` gives, of a volume
that the machine's guest has open, so that its backend says that it is in use; asked where the record of it was lost.

A driver of storage that others keep (`connected.py` has what ours have in common) may also have
- `source(machine_id, volume)`, pure: where the volume is, as far as its message says, of size 0; a planner shows it;
- `secrets(volume)`, pure: what it is opened with by purpose, decoded; asked for at the moment of use, kept nowhere. The
  `DiskSource` holds references to them alone;
- `cold_only(volume)`, pure: why a running guest cannot be given the volume by this host's libvirt, so that its next
  cold start brings it; "" when it can be.

A driver that has others ask for its volumes (`Asking`) raises `NotReady` from prepare at once while that goes on, with
a code of `jobs.TIMED`, and has `busy_until(machine_id, volume)`, pure: until when it is of no use to prepare it again,
None if nothing of the kind is known. The machine is woken when it is earlier.

A disk that is opened with secrets names them by purpose and UUID (`names.secret_uuid`), for what `prepare` gives is
stored and shown. Its driver has `secrets(volume)`, the values by purpose, decoded and never empty, of the message
alone. It is asked just before each start, restore and plug. A value is in no error, log, file or argument of a program.

Drivers hand out plain data (`DiskSource`) and no domain XML, and keep no state of their own about machines.
Third parties register a driver under the entry point group `sri_libvirt.volumes`: a callable without arguments.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, Encryption, SecretPurpose
from sri_libvirt.paths import MachinePaths


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe found: the bytes that a guest will see, and how the header says that they are encrypted."""

    size: int
    encryption: Encryption | None = None


class Asking(Protocol):
    """Who asks backends for drivers, as `probing.py` does: nothing is given to QEMU that was not opened just before."""

    def ready(
        self,
        waiter: str,
        key: Hashable,
        source: DiskSource,
        secrets: Mapping[SecretPurpose, bytes],
        *,
        plugged: bool = False,
        since: int = 0,
    ) -> Found: ...

    def busy_until(self, key: Hashable) -> int | None: ...

    def size_of(self, key: Hashable) -> int: ...

    def forget(self, key: Hashable) -> None: ...


class VolumeDriver(Protocol):
    """One kind of volume."""

    name: str

    def supports(self, volume: pb.Volume) -> bool: ...

    def validate(self, volume: pb.Volume) -> None: ...

    def handle(self, machine_id: str, volume: pb.Volume) -> str: ...

    def prepare(self, machine_id: str, volume: pb.Volume, paths: MachinePaths) -> DiskSource: ...

    def release(self, machine_id: str, volume: pb.Volume, paths: MachinePaths, *, final: bool) -> None: ...
