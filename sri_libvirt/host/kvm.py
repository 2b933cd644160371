"""Does KVM really work here? /dev/kvm and what libvirt advertises do not prove it; a small guest does.

A child QEMU starts a boot sector that enters long mode, counts to 2,000,000, runs one SSE instruction and writes to
isa-debug-exit. A kernel that emulates such guests (kvm_pvm does, at a million instructions a second) passes a shorter
one, so the child is judged by its CPU time: some tenths of a second where KVM works. A host that is itself emulated
needs many seconds for it, and for everything else: the time granted follows from this host's pace. The child starts
with `-cpu host`, then with a plain 64-bit model; each is tried three times before the answer is no, but for one that
took too long: the next would too.
What follows for machines does not belong here, nor does the memory of what this host once could.
"""

from __future__ import annotations

import grp
import math
import os
import pwd
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sri_libvirt import process
from sri_libvirt.process import Measured, ProcessError

DEVICE = Path("/dev/kvm")
_CPUINFO = Path("/proc/cpuinfo")
PLAIN_MODEL = "qemu64"
TRIES = 3
CPU_SECONDS = 2
"""Ten times what QEMU, its firmware and the loop use on real KVM, and less than half of what an emulation takes."""

PACES = 60
"""CPU seconds granted for each that `pace` took, where that is more. Real KVM takes 7 for one on common hosts and 15 in
an emulated one (TCG); kvm_pvm's emulation takes 160 and more."""

WALL_SECONDS = 10.0
"""For a host so busy that the child hardly runs; five times the CPU time where that is more."""

BOOT_SECONDS = 120.0
"""How long a host boots at most until its kernel has KVM's modules and udev has set the device's mode."""

BOOT_PATIENCE = 30.0
"""How long a device is waited for in that time: a machine made meanwhile would be emulated for life."""

_POLL_SECONDS = 0.2

PASSED = 0x10 << 1 | 1
"""isa-debug-exit ends QEMU with twice the byte that was written, plus one."""

_EMULATORS = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm")
_QEMU_USERS = ("libvirt-qemu", "qemu")

_CODE = bytes.fromhex(
    # 16 bits, loaded at 0x7c00
    "fa 31c0 8ed8 8ec0"  # cli; xor ax, ax; mov ds, ax; mov es, ax
    "bf0010 b90018 fc f3ab"  # clear 12 KiB at 0x1000 for three page tables: di, cx; cld; rep stosw
    "66c706 0010 03200000"  # level 4, first entry: the table at 0x2000, present and writable
    "66c706 0020 03300000"  # level 3, first entry: the table at 0x3000
    "66c706 0030 83000000"  # level 2, first entry: the first 2 MiB, one large page
    "0f0116 8b7c"  # lgdt [0x7c8b]
    "0f20e0 660d20060000 0f22e0"  # cr4 |= PAE, OSFXSR, OSXMMEXCPT
    "66b800100000 0f22d8"  # cr3 = 0x1000
    "66b9800000c0 0f32 660d00010000 0f30"  # EFER |= LME
    "0f20c0 6683e0fb 660d03000080 0f22c0"  # cr0 &= ~EM; cr0 |= PG, MP, PE: long mode
    "ea 6a7c 0800"  # jmp 8:0x7c6a
    # 64 bits, at 0x7c6a
    "31c0 b980841e00"  # xor eax, eax; mov ecx, 2000000
    "48ffc0 48ffc9 75f8"  # turn: inc rax; dec rcx; jnz turn
    "660fefc0"  # pxor xmm0, xmm0
    "3d80841e00 7504"  # cmp eax, 2000000; jne stop
    "b010 e6f4"  # mov al, 0x10; out 0xf4, al
    "f4 ebfd"  # stop: hlt; jmp stop
    # at 0x7c8b: the descriptor table's size and address, then no segment and one of 64-bit code
    "0f00 917c0000"
    "0000000000000000 00000000009a2000"
)


@dataclass(frozen=True, slots=True)
class KvmVerdict:
    """Whether guests run under KVM, and whether they can have the host's own CPU model; `detail` says why (not)."""

    works: bool
    host_passthrough: bool
    detail: str


@dataclass(frozen=True, slots=True)
class User:
    """Whom libvirt runs QEMU as."""

    name: str
    uid: int
    groups: frozenset[int]


class Runner(Protocol):
    """See `process.measure`."""

    def __call__(self, argv: Sequence[str], *, deadline: float, cpu_seconds: int) -> Measured: ...


class _TooLong(Exception):
    """The guest used all the CPU time that it was given; to try again changes nothing."""


def pace() -> float:
    """CPU seconds that this host takes to count to a million three times, the slowest of them: 0.03 on common hosts."""
    slowest = 0.0
    for _ in range(3):
        begun = time.thread_time()
        left = 1_000_000
        while left:
            left -= 1
        slowest = max(slowest, time.thread_time() - begun)
    return slowest


def boot_disk() -> bytes:
    """The probe's disk: the boot sector, and zeros up to the least size that the firmware boots from."""
    return (_CODE.ljust(510, b"\0") + b"\x55\xaa").ljust(1 << 20, b"\0")


def qemu_user() -> User | None:
    """QEMU's user as distributions name it; None when there is none (then libvirt runs elsewhere)."""
    for name in _QEMU_USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return User(name, entry.pw_uid, frozenset(os.getgrouplist(name, entry.pw_gid)))
    return None


def may_open(user: User, mode: int, uid: int, gid: int) -> bool:
    """Whether the mode bits let a user read and write."""
    if user.uid == uid:
        wanted = stat.S_IRUSR | stat.S_IWUSR
    elif gid in user.groups:
        wanted = stat.S_IRGRP | stat.S_IWGRP
    else:
        wanted = stat.S_IROTH | stat.S_IWOTH
    return mode & wanted == wanted


def boot_patience() -> float:
    """Seconds that /dev/kvm may still take: none unless the host has just booted and its CPU can run guests."""
    left = BOOT_SECONDS - time.clock_gettime(time.CLOCK_BOOTTIME)
    if left <= 0 or not re.search(r"^flags\b.* (?:vmx|svm)\b", _CPUINFO.read_text(errors="replace"), re.M):
        return 0.0
    return min(left, BOOT_PATIENCE)


def appearance(device: Path = DEVICE) -> tuple[int, int, int, int] | None:
    """What of the device decides who may open it; None where there is none. In a boot it comes in two steps."""
    try:
        found = device.stat()
    except OSError:
        return None
    return found.st_rdev, found.st_mode, found.st_uid, found.st_gid


def probe(
    *,
    device: Path = DEVICE,
    emulator: str = "",
    run: Runner = process.measure,
    user: Callable[[], User | None] = qemu_user,
    pace: Callable[[], float] = pace,
    patience: Callable[[], float] = boot_patience,
) -> KvmVerdict:
    """Find out whether KVM works; takes half a second where it does and some seconds where it does not.

    In a host that is itself emulated it takes ten seconds and more. While a host boots its device is waited for.
    """
    hindrance = _cannot_open(device, user())
    end = time.monotonic() + (patience() if hindrance else 0.0)
    while hindrance and time.monotonic() < end:
        time.sleep(_POLL_SECONDS)
        hindrance = _cannot_open(device, user())
    if hindrance:
        return KvmVerdict(works=False, host_passthrough=False, detail=hindrance)
    emulator = emulator or next((found for name in _EMULATORS if (found := shutil.which(name))), "")
    if not emulator:
        return KvmVerdict(works=False, host_passthrough=False, detail="QEMU is not installed (qemu-system-x86_64)")
    with tempfile.NamedTemporaryFile(prefix="sri-libvirt-kvm-", suffix=".raw") as disk:
        disk.write(boot_disk())
        disk.flush()
        granted = max(CPU_SECONDS, math.ceil(PACES * pace()))
        host = _try(run, _command(emulator, disk.name, "host"), granted)
        if not host:
            return KvmVerdict(works=True, host_passthrough=True, detail="a guest with the host's CPU model runs")
        plain = _try(run, _command(emulator, disk.name, PLAIN_MODEL), granted)
    said = f"with -cpu host: {host}"
    if not plain:
        return KvmVerdict(works=True, host_passthrough=False, detail=f"a guest with -cpu {PLAIN_MODEL} runs; {said}")
    return KvmVerdict(works=False, host_passthrough=False, detail=f"{said}; with -cpu {PLAIN_MODEL}: {plain}")


def _cannot_open(device: Path, user: User | None) -> str:
    try:
        found = device.stat()
    except OSError as error:
        return f"{device}: {error.strerror} (is virtualisation on in the BIOS, and kvm_intel or kvm_amd loaded?)"
    if user is None or may_open(user, found.st_mode, found.st_uid, found.st_gid):
        return ""
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    return (
        f"{device} has mode {mode}, user {found.st_uid} and group {_group(found.st_gid)}, so "
        f"QEMU's user {user.name} cannot open it: do as udev's rule does, chgrp kvm {device} && chmod 660 {device}"
    )


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _command(emulator: str, disk: str, cpu: str) -> list[str]:
    return [
        emulator,
        *("-machine", "q35,accel=kvm", "-cpu", cpu, "-m", "32"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-drive", f"file={disk},format=raw,if=ide,snapshot=on"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=1"),
    ]


def _try(run: Runner, argv: list[str], granted: int) -> str:
    """Why the guest did not run, in the last of the tries; "" when one of them passed."""
    problem = ""
    for _ in range(TRIES):
        wall = max(WALL_SECONDS, 5.0 * granted)
        try:
            ended = run(argv, deadline=wall, cpu_seconds=granted)
            problem = _judge(ended, granted, wall)
        except (ProcessError, _TooLong) as error:
            return str(error)
        if not problem:
            return ""
    return problem


def _judge(ended: Measured, granted: int, wall: float) -> str:
    # The limit is kept in ticks, which may miss a fifth of what an emulation in the kernel uses.
    if ended.cpu_seconds >= granted * 0.8:
        raise _TooLong(
            f"it used {granted} s of CPU time where some tenths of that are enough, so KVM only emulates it "
            "(nested virtualisation without hardware support?)"
        )
    if ended.late:
        return f"it did not end within {wall:g} s"
    if ended.returncode == PASSED:
        return ""
    how = f"signal {-ended.returncode}" if ended.returncode < 0 else f"status {ended.returncode}"
    return f"QEMU ended with {how}: {ended.message or 'no message'}"
