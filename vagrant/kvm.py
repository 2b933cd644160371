"""Says "kvm" if virtual machines can run by KVM on this host, "qemu" if they must be emulated; why, on standard error.

The verdict is the provider's own: a device and what libvirt advertises prove nothing. Needs no package but QEMU.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sri_libvirt.host import kvm

if __name__ == "__main__":
    # Whether QEMU's user may open the device is libvirt's concern at the start; the question here is what it can do.
    verdict = kvm.probe(user=lambda: None)
    print(verdict.detail, file=sys.stderr)
    print("kvm" if verdict.works else "qemu")
