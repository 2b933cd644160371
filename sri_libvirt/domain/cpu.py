"""CPU: vCPUs, model, and the bandwidth of a class that is no whole number of cores.

vCPUs and model come from the profile, where they were fixed; how they were chosen does not belong here.
"""

from __future__ import annotations

from sri_libvirt.domain.spec import Cpu
from sri_libvirt.records import Profile

PERIOD_US = 100_000


def vcpus(cpu_millis: int) -> int:
    """vCPUs of that many thousandths of a core: rounded up."""
    return -(-cpu_millis // 1000)


def build(profile: Profile) -> Cpu:
    """The CPU of a profile. All threads of the domain share the quota, QEMU's own too."""
    whole = profile.cpu_millis % 1000 == 0
    return Cpu(
        mode=profile.cpu_mode,
        model=profile.cpu_model,
        vcpus=profile.vcpus,
        period_us=0 if whole else PERIOD_US,
        quota_us=0 if whole else PERIOD_US * profile.cpu_millis // 1000,
    )
