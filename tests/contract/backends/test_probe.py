"""The probe on real backends: what it finds, what a user is told, and what it leaves behind, which is nothing."""

from __future__ import annotations

import base64
import fcntl
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from sri_libvirt import process
from sri_libvirt.devices import DiskHost, DiskSource, Encryption, SecretPurpose, to_json
from sri_libvirt.errors import NotReady
from sri_libvirt.volumes import blockdev, refusals
from sri_libvirt.volumes import probe as probing
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.probe import probe
from tests.backends import luks
from tests.backends.ceph import Ceph
from tests.backends.daemon import loopback, run, wait_until
from tests.backends.faults import (
    CHAP,
    FAULTS,
    MIB,
    QEMU_LUKS,
    Backends,
    Volume,
    encrypted,
    local,
    nbd,
    new_name,
)
from tests.backends.iscsi import Targets
from tests.backends.loop import LoopDevice
from tests.backends.nbd import NbdServer, certificates
from tests.contract import hung

RECORDED = Path(__file__).parents[2] / "unit" / "volumes" / "recorded"


@pytest.fixture
def backends(ceph: Ceph, targets: Targets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backends:
    found = Backends(ceph, targets, tmp_path)
    monkeypatch.setattr(blockdev, "host_tls_directory", lambda: str(found.pki))
    return found


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A probe leaves no descriptor and no child behind."""
    before = sorted(each.name for each in Path("/proc/self/fd").iterdir())
    yield
    gc.collect()  # a Cancel lives as long as the last who may be ended by it
    assert sorted(each.name for each in Path("/proc/self/fd").iterdir()) == before
    assert process.left_behind() == 0


def ask(volume: Volume, *, prove: bool = True, alone: bool = True) -> Found:
    return probe(volume.source, volume.secrets, deadline=volume.seconds, prove=prove, alone=alone)


def refusal(volume: Volume, *, prove: bool = True, alone: bool = True) -> NotReady:
    with pytest.raises(NotReady) as refused:
        ask(volume, prove=prove, alone=alone)
    return refused.value


# What is wrong, and what is said of it.


@pytest.mark.parametrize(
    ("name", "alone"), [(name, alone) for name in FAULTS for alone in (True, False) if alone or name.startswith("ceph")]
)
def test_a_user_is_told_what_is_wrong(
    name: str, alone: bool, backends: Backends, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """By rbd, where that is asked first who else has it open, and by QEMU."""
    heard: list[tuple[str, int]] = []
    explain = refusals.explain

    def listen(source: DiskSource, words: str, status: int) -> NotReady:
        heard.append((words, status))
        return explain(source, words, status)

    monkeypatch.setattr(refusals, "explain", listen)
    fault = FAULTS[name]
    with fault.made(backends) as volume:
        before = volume.content()
        begun = time.monotonic()
        error = refusal(volume, alone=alone)
        took = time.monotonic() - begun
        after = volume.content()
    assert (error.code, str(error)[: len(fault.told(volume.source))]) == (fault.code, fault.told(volume.source))
    assert took < volume.seconds + 2
    assert after == before
    for value in volume.secrets.values():
        assert not shows(value, f"{error} {error.advice} {error!r} {error.__cause__!r} {error.__context__!r}")
    if request.config.getoption("--regenerate-golden") and heard:
        record(f"{name}{'' if alone else ' without rbd'}", volume.source, *heard[-1])


def shows(secret: bytes, text: str) -> bool:
    base64 = json.dumps(secret.decode(errors="replace"))[1:-1]
    return base64 in text or secret.hex() in text


def record(name: str, source: DiskSource, words: str, status: int) -> None:
    """Keep what the programs of this release said, for the pure test of the table."""
    version = run(["qemu-img", "--version"]).split()[2].decode().rpartition(".")[0]
    with (RECORDED / f"qemu-{version}.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # against the other workers
        file.seek(0)
        known = json.loads(file.read() or "{}")
        known[name] = {"source": json.loads(to_json(source)), "words": words, "status": status}
        file.truncate(0)
        file.write(json.dumps(known, indent=1, sort_keys=True) + "\n")


# What it finds.


@pytest.mark.parametrize("port", [3300, 6789])
def test_the_size_of_a_ceph_image_is_found_by_either_port(backends: Backends, port: int) -> None:
    image = backends.new_image()
    volume = backends.ceph_volume(image, hosts=(DiskHost(loopback(), port), DiskHost(backends.ceph.address, port)))
    assert ask(volume) == Found(4 * MIB)
    backends.ceph.resize(image, 6 * MIB)
    assert ask(volume) == Found(6 * MIB)


@pytest.mark.parametrize("prove", [True, False])
@pytest.mark.parametrize("version", [1, 2])
def test_a_ceph_image_is_encrypted_as_its_header_says_and_its_size_is_the_guests(
    backends: Backends, version: luks.LuksVersion, prove: bool
) -> None:
    volume = backends.encrypted_image(backends.luks_image(version))
    before = volume.content()
    found = Found(4 * MIB, Encryption("librbd", "luks" if version == 1 else "luks2"))
    assert ask(volume, prove=prove) == found
    if not prove:  # the key is not even looked at
        assert ask(replace(volume, secrets={**volume.secrets, "encryption": b"wrong"}), prove=False) == found
    assert volume.content() == before


def test_an_encrypted_image_without_its_key_is_the_bytes_that_it_has(backends: Backends) -> None:
    assert ask(backends.ceph_volume(backends.luks_image(1))) == Found(4 * MIB + luks.OFFSET[1])


@pytest.mark.parametrize("tls", [False, True])
def test_an_nbd_export(backends: Backends, tls: bool) -> None:
    server = NbdServer(backends.file(3 * MIB), "export", tls=backends.pki if tls else None)
    certificates(backends.pki, server.host)
    with server:
        assert ask(Volume(nbd(server, tls=tls))) == Found(3 * MIB)


def test_an_nbd_export_by_socket_and_an_encrypted_one(backends: Backends) -> None:
    with NbdServer(backends.file(), "export", socket=backends.root / "a,b sock") as server:
        assert ask(Volume(nbd(server))) == Found(MIB)
    with NbdServer(backends.luks_file(), "") as server:
        assert ask(encrypted(Volume(nbd(server, "")), QEMU_LUKS)) == Found(MIB, QEMU_LUKS)


@pytest.mark.parametrize("chap", [False, True])
def test_a_lun(backends: Backends, chap: bool) -> None:
    user = new_name() if chap else ""
    luns = [backends.file(), backends.file(2 * MIB), backends.luks_file()]
    target = backends.targets.target(new_name(), luns, user=user, password=CHAP)
    secrets: dict[SecretPurpose, bytes] = {"auth": CHAP.encode()} if chap else {}
    assert ask(Volume(backends.iscsi(target, 2, user=user), secrets)) == Found(2 * MIB)
    volume = encrypted(Volume(backends.iscsi(target, 3, user=user), secrets), QEMU_LUKS)
    assert ask(volume) == ask(volume, prove=False) == Found(MIB, QEMU_LUKS)
    assert backends.targets.sessions() == 0


def test_a_target_for_one_initiator_alone(backends: Backends) -> None:
    target = backends.targets.target(new_name(), [backends.file()], initiator="iqn.2024-01.test:host")
    assert ask(Volume(backends.iscsi(target))) == Found(MIB)


def test_files_and_devices(backends: Backends) -> None:
    raw, qcow2 = backends.file(), backends.root / 'a "b", c\'s: {d}.qcow2'
    run(["qemu-img", "create", "-q", "-f", "qcow2", qcow2, "5M"])
    assert ask(Volume(local(raw))) == Found(MIB)
    assert ask(Volume(local(qcow2, format="qcow2"))) == Found(5 * MIB)
    as_raw = -(-qcow2.stat().st_size // 512) * 512
    assert ask(Volume(local(qcow2))) == Found(as_raw)  # its format is the message's, not the file's
    assert ask(encrypted(Volume(local(backends.luks_file())), QEMU_LUKS)) == Found(MIB, QEMU_LUKS)
    with LoopDevice(raw) as device:
        assert ask(Volume(local(device.path, kind="block"))) == Found(MIB)


def test_a_file_that_a_guest_writes_is_looked_at_all_the_same(backends: Backends) -> None:
    file = backends.file()
    node = json.dumps({"driver": "file", "filename": str(file), "node-name": "n"})
    with subprocess.Popen(
        ["qemu-storage-daemon", "--blockdev", node, "--chardev", "stdio,id=c", "--monitor", "c"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as guest:
        assert guest.stdout
        assert b"QMP" in guest.stdout.readline()
        try:
            assert ask(Volume(local(file))) == Found(MIB)
        finally:
            guest.kill()


def test_a_file_system_that_hangs_holds_nobody_up(backends: Backends) -> None:
    with hung.serving(backends.root, backends.root / "hung.raw") as file:
        volume = Volume(local(file.path), seconds=1)
        file.stop()
        error = refusal(volume)
        assert (error.code, str(error)) == ("backend-silent", f"no answer from the file {file.path} within 1 s")
        file.go_on()
        assert ask(replace(volume, seconds=60)) == Found(MIB)


def test_a_device_whose_reads_hang_holds_nobody_up(backends: Backends) -> None:
    """It can be opened, and says its size, all the same."""
    with (
        hung.serving(backends.root, backends.root / "hung-device.raw") as file,
        LoopDevice(file.path, read_only=True) as device,
    ):
        volume = Volume(local(device.path, kind="block"), seconds=2)
        assert ask(replace(volume, seconds=60)) == Found(MIB)
        with file.path.open("rb") as opened:  # what the kernel has read of it for the device it need not read again
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.stop()
        error = refusal(volume)
        file.go_on()
        assert (error.code, str(error)) == ("backend-silent", f"no answer from the device {device.path} within 2 s")
        wait_until(lambda: not process.left_behind(), "the end of what hung")
        assert ask(replace(volume, seconds=60)) == Found(MIB)


def test_nothing_is_begun_where_others_hang(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MOST_LEFT", 0)
    error = refusal(Volume(local(backends.file())))
    assert (error.code, "programs before it hang in the kernel" in str(error)) == ("backend-silent", True)


# Who has it open.


def test_an_image_that_is_open_elsewhere_is_told_of_with_its_address(backends: Backends) -> None:
    volume = backends.ceph_volume(backends.new_image())
    with backends.ceph.opened(volume.source.name) as address:
        error = refusal(volume)
        assert error.code == "in-use"
        assert str(error) == f"the Ceph image {volume.source.name} is open elsewhere, by {address.rpartition(':')[0]}"
        assert ask(volume, alone=False) == Found(4 * MIB)
    assert ask(volume) == Found(4 * MIB)


def test_a_probe_is_not_seen_as_a_user(backends: Backends) -> None:
    volume = backends.encrypted_image(backends.luks_image(1))
    ask(volume)
    assert backends.ceph.watchers(volume.source.name) == []


def test_without_rbd_nobody_asks_and_the_log_tells_so_once(backends: Backends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "_warned", threading.Event())
    volume = backends.ceph_volume(backends.new_image())
    programs = backends.root / "bin"
    programs.mkdir()
    for name in ("qemu-img", "qemu-io", "setpriv", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    with backends.ceph.opened(volume.source.name), monkeypatch.context() as host, capture_logs() as logs:
        host.setenv("PATH", str(programs))
        assert ask(volume) == ask(volume) == Found(4 * MIB)
    (warning,) = logs
    assert (warning["log_level"], "rbd is not installed" in warning["event"]) == ("warning", True)


# A host on which something is missing.


MISSING = """
import sys
from sri_libvirt.devices import from_json
from sri_libvirt.errors import NotReady
from sri_libvirt.volumes.probe import probe
try:
    probe(from_json(sys.argv[1]), {}, deadline=10)
except NotReady as error:
    print(error.code, error, error.advice, sep="|")
"""


@pytest.mark.parametrize("what", ["drivers", "qemu-img"])
def test_what_is_not_installed_is_named(backends: Backends, what: str) -> None:
    """qemu-block-extra's driver for iSCSI is one file, which QEMU loads when it is asked for."""
    (driver,) = Path("/usr/lib").glob("*/qemu/block-iscsi.so")
    hidden = f"mount -t tmpfs none {driver.parent}" if what == "drivers" else "PATH=/nowhere"
    source = backends.iscsi(backends.targets.target(new_name(), [backends.file()]))
    done = run(
        ["unshare", "--mount", "sh", "-c", f'{hidden}; exec "$@"', "sh", sys.executable, "-c", MISSING, to_json(source)]
    )
    code, problem, advice = done.decode().strip().split("|")
    assert code == "volume-refused"
    if what == "drivers":
        assert problem.startswith(f"QEMU cannot open LUN 1 of the iSCSI target {source.name[:-2]}")
        assert "apt-get install qemu-block-extra" in advice
    else:
        assert problem.endswith("was not asked for: qemu-img cannot be run: No such file or directory")


# Its end, and what is seen of it meanwhile.


@pytest.fixture
def hanging(backends: Backends) -> Iterator[Volume]:
    """A volume whose backend never answers, with two secrets."""
    user = new_name()
    target = backends.targets.target(new_name(), [backends.luks_file()], user=user, password=CHAP)
    backends.targets.daemon.freeze()
    yield encrypted(Volume(backends.iscsi(target, user=user), {"auth": CHAP.encode()}), QEMU_LUKS)
    backends.targets.daemon.thaw()


def test_a_stop_ends_a_probe_at_once_and_its_secrets_are_seen_nowhere(hanging: Volume) -> None:
    cancel = process.Cancel()
    with ThreadPoolExecutor() as threads, capture_logs() as logs:
        running = threads.submit(probe, hanging.source, hanging.secrets, deadline=600, cancel=cancel)
        wait_until(lambda: programs(os.getpid()), "it runs")
        (pid,) = programs(os.getpid())
        seen = cmdline(pid) + Path(f"/proc/{pid}/environ").read_bytes()
        begun = time.monotonic()
        cancel.cancel()
        with pytest.raises(NotReady, match="was cancelled") as cancelled:
            running.result()
        assert time.monotonic() - begun < 5
    assert not cmdline(pid)
    for value in hanging.secrets.values():
        assert value not in seen
        assert base64.b64encode(value) not in seen
        assert value.decode() not in f"{cancelled.value!r} {cancelled.value.__context__!r} {logs}"


def programs(provider: int) -> list[str]:
    """The process ids of qemu-img that a provider runs."""
    lists = [path.read_text().split() for path in Path(f"/proc/{provider}/task").glob("*/children")]
    return [pid for pids in lists for pid in pids if cmdline(pid).startswith(b"qemu-img")]


def cmdline(pid: str) -> bytes:
    """Of a process; nothing of one that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


KILLED = """
import sys
from sri_libvirt.devices import from_json
from sri_libvirt.volumes.probe import probe
probe(from_json(sys.argv[1]), {"auth": b"secret-of-twelve", "encryption": b"x"}, deadline=600)
"""


def test_a_killed_provider_leaves_no_probe(hanging: Volume) -> None:
    provider = subprocess.Popen([sys.executable, "-c", KILLED, to_json(hanging.source)])
    wait_until(lambda: programs(provider.pid), "it runs")
    (pid,) = programs(provider.pid)
    provider.kill()
    provider.wait()
    wait_until(lambda: not cmdline(pid), "it has ended")
