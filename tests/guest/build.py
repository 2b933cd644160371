"""Builds the tiny guest: a disk image that BIOS and UEFI boot in seconds, from Debian's packages alone.

One FAT file system without a partition table holds kernel, initial RAM disk, syslinux for BIOS and systemd-boot for
UEFI. What goes into the image is downloaded by apt and unpacked, never installed: a kernel would become a boot entry of
this host, busybox-static would put out its busybox. No root, no loop device. What the guest says and obeys is told at
the top of `init`, beside this file. How guests are started does not belong here.
"""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

SIZE = 24 << 20
"""Bytes of the image; a FAT of this size has clusters enough to be FAT16, which every firmware reads."""

KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual")
"""Packages that depend on the current kernel for guests: Debian's, Ubuntu's."""

CONTENTS = ("busybox-static", "systemd-boot-efi")
SYSTEMD_BOOT = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
SYSTEMD_STUB = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"

EARLY = ("virtio_pci", "virtio_blk", "virtio_net", "button", "evdev", "qemu_fw_cfg", "isofs")
LATE = ("virtio-rng", "virtio_balloon", "virtio_console", "pvpanic-pci", "pvpanic-mmio")
"""Modules that a guest loads before and after it says that it is up."""

COMMANDS = ("changed", "dhcp", "facts", "hear-button", "deaf-button", "hear-unplug", "deaf-unplug")
"""Names under which `init` is a command of the guest."""

INIT = Path(__file__).with_name("init")

# Without the timer check: on a busy host an emulated timer can come too late for it, and the kernel then stops.
OPTIONS = "console=ttyS0 quiet no_timer_check"
SYSLINUX_CONFIG = (
    f"DEFAULT tiny\nPROMPT 0\nTIMEOUT 0\nLABEL tiny\nLINUX /vmlinuz\nINITRD /initrd.gz\nAPPEND {OPTIONS}\n"
)
LOADER_CONFIG = "timeout 0\ndefault tiny.conf\n"
LOADER_ENTRY = f"title tiny\nlinux /vmlinuz\ninitrd /initrd.gz\noptions {OPTIONS}\n"


class BuildError(Exception):
    """The guest cannot be built; the message names the program and what it said."""


def cache_directory() -> Path:
    """Where built images are kept: `$XDG_CACHE_HOME/sri-libvirt`, made if it is missing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    directory = Path(base) / "sri-libvirt"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def image() -> Path:
    """The tiny guest's raw image, built when it is not there yet; one builder at a time, others wait.

    Only for reading, and in a directory that QEMU's user may not enter: give guests a copy or an overlay of a copy.
    Raises BuildError.
    """
    path = cache_directory() / f"tiny-{_inputs()}.raw"
    if path.exists():
        return path
    with (cache_directory() / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            with tempfile.TemporaryDirectory(prefix="tiny-", dir=cache_directory()) as work:
                _build(Path(work)).replace(path)
    return path


def _inputs() -> str:
    """Stands for what this repository puts into the image; a newer package is no reason to build it again."""
    return hashlib.sha256(Path(__file__).read_bytes() + INIT.read_bytes()).hexdigest()[:16]


def _run(*argv: str | Path, cwd: Path | None = None, stdin: bytes = b"") -> str:
    # mtools: a small image has fewer tracks than its checks want.
    env = {**os.environ, "LC_ALL": "C", "MTOOLS_SKIP_CHECK": "1"}
    try:
        done = subprocess.run(argv, cwd=cwd, input=stdin, capture_output=True, env=env, check=False)
    except FileNotFoundError:
        raise BuildError(f"{argv[0]} is not installed: run `vagrant/provision.sh runtime`") from None
    if done.returncode:
        raise BuildError(f"{' '.join(map(str, argv))}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()


def _build(work: Path) -> Path:
    tree = work / "tree"
    _download([*_kernel_packages(), *CONTENTS], work)
    for archive in work.glob("*.deb"):
        _run("dpkg-deb", "-x", archive, tree)
    kernel = next((tree / "boot").glob("vmlinuz-*"))
    initrd = work / "initrd.gz"
    initrd.write_bytes(_initrd(work / "root", tree, kernel.name.removeprefix("vmlinuz-")))
    return _disk(work, kernel, initrd, tree / SYSTEMD_BOOT, tree / SYSTEMD_STUB)


def _kernel_packages() -> list[str]:
    """Names of the current kernel's packages: the image and, where it is a package of its own (Ubuntu), its modules."""
    for meta in KERNELS:
        images = _dependencies(meta, r"linux-image-[0-9]\S*")
        if images:
            return images[:1] + _dependencies(images[0], r"linux-modules-[0-9]\S*")
    raise BuildError(f"apt knows none of {', '.join(KERNELS)}: run `apt-get update`")


def _dependencies(package: str, pattern: str) -> list[str]:
    known = _run("apt-cache", "show", "--no-all-versions", package) if _run("apt-cache", "pkgnames", package) else ""
    depends = re.search(r"^Depends: (.*)$", known, re.MULTILINE)
    words = re.split(r"[,|]\s*", depends[1]) if depends else []
    return [name for word in words if re.fullmatch(pattern, name := word.split()[0])]


def _download(packages: Sequence[str], work: Path) -> None:
    # apt's own sandbox user cannot write here.
    download = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *packages)
    try:
        _run(*download, cwd=work)
    except BuildError:
        if os.geteuid() != 0:
            raise
        _run("apt-get", "-q", "update")  # the lists are older than what the mirror holds
        _run(*download, cwd=work)


def _initrd(root: Path, tree: Path, version: str) -> bytes:
    """The initial RAM disk, which is the whole guest: busybox, `init`, the modules."""
    for name in ("bin", "dev", "etc/acpi/PWRF", "mnt", "modules", "proc", "run", "sys"):
        (root / name).mkdir(parents=True)
    # Its place differs: bin/ in Debian 12, usr/bin/ since.
    busybox = shutil.copy(next(tree.glob("**/bin/busybox")), root / "bin/busybox")
    for applet in _run(busybox, "--list").split():
        if applet != "busybox":
            (root / "bin" / applet.rpartition("/")[2]).symlink_to("busybox")
    shutil.copy(INIT, root / "init")
    (root / "init").chmod(0o755)
    for command in (*(f"bin/{name}" for name in COMMANDS), "etc/acpi/PWRF/00000080"):
        (root / command).unlink(missing_ok=True)
        (root / command).symlink_to("/init")
    (root / "etc/profile").write_text("PS1='tiny# '\n")
    _modules(root / "modules", tree, version)
    names = "\n".join(sorted(str(path.relative_to(root)) for path in root.rglob("*")))
    archive = subprocess.run(
        ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "--reproducible"],
        cwd=root, input=names.encode(), stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return gzip.compress(archive.stdout, mtime=0)


def _modules(target: Path, tree: Path, version: str) -> None:
    """Unpack the modules that a guest needs and write the order of loading to `early` and `late`."""
    usr_merged = tree / "usr/lib/modules"
    base = usr_merged.parents[1] if usr_merged.exists() else tree
    _run("depmod", "-b", base, version)
    loaded: list[str] = []
    for stage, wanted in (("early", EARLY), ("late", LATE)):
        order: list[str] = []
        for file in _load_order(base, version, wanted):
            name = file.name.partition(".")[0]
            if name not in loaded:
                (target / f"{name}.ko").write_bytes(_unpack(file))
                loaded.append(name)
                order.append(name)
        (target / stage).write_text(" ".join(order) + "\n")


def _load_order(base: Path, version: str, modules: Sequence[str]) -> list[Path]:
    """Files of the modules, each after what it depends on; a module that is built into the kernel has none."""
    directory = base / "lib/modules" / version
    files: dict[str, list[Path]] = {}
    for line in (directory / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        name = Path(path).name.partition(".")[0].replace("-", "_")
        # modules.dep names what must be loaded last to first.
        files[name] = [directory / need for need in (*reversed(needs.split()), path)]
    builtin = (directory / "modules.builtin").read_text().replace("-", "_")
    order: list[Path] = []
    for module in modules:
        name = module.replace("-", "_")
        if name not in files and f"/{name}.ko" not in builtin:
            raise BuildError(f"kernel {version} has no module {module}")
        order += files.get(name, [])
    return order


def _unpack(module: Path) -> bytes:
    match module.suffix:
        case ".ko":
            return module.read_bytes()
        case ".xz":
            return lzma.decompress(module.read_bytes())
        case ".gz":
            return gzip.decompress(module.read_bytes())
        case ".zst":
            return subprocess.run(["zstd", "-dcq", module], capture_output=True, check=True).stdout
        case other:
            raise BuildError(f"{module.name}: modules packed as {other} are not known")


def _disk(work: Path, kernel: Path, initrd: Path, systemd_boot: Path, systemd_stub: Path) -> Path:
    disk = work / "tiny.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    _run("mformat", "-i", disk, "-v", "TINY", "::")
    for directory in ("EFI", "EFI/BOOT", "loader", "loader/entries"):
        _run("mmd", "-i", disk, f"::/{directory}")
    files = {"vmlinuz": kernel, "initrd.gz": initrd, "EFI/BOOT/BOOTX64.EFI": systemd_boot, "stub.efi": systemd_stub}
    for name, source in files.items():
        _run("mcopy", "-i", disk, source, f"::/{name}")
    for name, text in (
        ("syslinux.cfg", SYSLINUX_CONFIG),
        ("loader/loader.conf", LOADER_CONFIG),
        ("loader/entries/tiny.conf", LOADER_ENTRY),
    ):
        _run("mcopy", "-i", disk, "-", f"::/{name}", stdin=text.encode())
    _run("syslinux", "--install", disk)
    disk.chmod(0o444)
    return disk
