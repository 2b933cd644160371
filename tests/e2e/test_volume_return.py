"""Backends that go and come back under a guest that uses them, and devices that their key does not open.

Faults that every backend can have do not belong here (test_volume_faults.py).
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.volumes.nbd import RECONNECT_SINCE
from tests.backends import luks
from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets
from tests.backends.nbd import NbdServer
from tests.e2e.connected import (
    MIB,
    OPTIONS,
    STILL,
    TOLD,
    Pauses,
    attach,
    ceph_volume,
    expect_mended,
    expect_released,
    guest,
    iscsi,
    libvirt_version,
    nbd,
    new_name,
    tick,
    volumes,
    wait_reason,
    zeroes,
)
from tests.e2e.provider import Provider, type_line, wait_for
from tests.e2e.test_restarts import expect_nothing_left

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SIZE = 4 * MIB
BLOCK = 64 << 10
BLOCKS = SIZE // BLOCK
PROMPT = "tiny# "
PASSPHRASE = b"open, sesame"


# Gone, and back.


WORK = (
    f"(n=0; while [ ! -e /run/enough ]; do dd if=/dev/urandom of=/dev/vdb bs={BLOCK} count=1 seek=$((n%{BLOCKS})) "
    "conv=fsync 2>/dev/null; echo wrote $((n=n+1)); done; echo 3 >/proc/sys/vm/drop_caches; "
    "echo sum $(sha256sum </dev/vdb | cut -c 1-64)) &"
)
"""The guest writes its disk anew, block after block, until it is told to read all of it, past its cache."""


def said(provider: Provider, machine_id: str, line: str) -> list[str]:
    """Lines that the guest has written, be it after its shell's prompt."""
    return re.findall(rf"^(?:{PROMPT})*({line})$", provider.console(machine_id), re.MULTILINE)


def written(provider: Provider, machine_id: str) -> int:
    return len(said(provider, machine_id, "wrote [0-9]+"))


def expect_whole(
    provider: Provider,
    image: Path,
    volume: pb.Volume,
    go: Callable[[], None],
    back: Callable[[], None],
    content: Callable[[], bytes],
) -> None:
    """A guest goes on over the end of its disk's backend, and what it has written is there."""
    machine_id = guest(provider, image, disk=volume)
    tick(provider, machine_id)
    type_line(provider.libvirt.uri, machine_id, WORK, lambda: written(provider, machine_id) > 0)
    wait_for("all of the disk", lambda: written(provider, machine_id) > BLOCKS)
    with Pauses(provider, machine_id) as pauses:
        go()
        ticks = provider.console(machine_id).count("tick ")
        provider.wait_console(machine_id, "tick ", count=ticks + 10)
        before = written(provider, machine_id)
        provider.wait_console(machine_id, "tick ", count=ticks + 40)
        assert written(provider, machine_id) == before, "it waits"
        back()
        wait_for("writes", lambda: written(provider, machine_id) > before + BLOCKS)
    assert pauses.longest < STILL
    heard = "sum [0-9a-f]{64}"
    type_line(provider.libvirt.uri, machine_id, "touch /run/enough", lambda: bool(said(provider, machine_id, heard)))
    assert said(provider, machine_id, heard) == [f"sum {hashlib.sha256(content()).hexdigest()}"]
    assert provider.state_of(machine_id) == "MACHINE_RUNNING"
    assert not [event for event in provider.events(machine_id) if event.reason == "io-error"]
    provider.delete(machine_id)
    expect_nothing_left(provider)
    expect_released(provider)


def test_a_target_that_is_gone_and_back(provider: Provider, tiny_image: Path, targets: Targets, tmp_path: Path) -> None:
    file = zeroes(tmp_path / "lun.raw", SIZE)
    volume = iscsi(targets, targets.target(new_name(), [file]))
    provider.start(*OPTIONS)
    expect_whole(provider, tiny_image, volume, targets.daemon.kill, targets.start, file.read_bytes)


def test_a_ceph_that_is_gone_and_back(provider: Provider, tiny_image: Path, ceph: Ceph) -> None:
    image = ceph.image(new_name(), SIZE)

    def go() -> None:
        ceph.osd.stop()  # with its data
        ceph.monitor.kill()

    provider.start(*OPTIONS, "--ceph-conf", str(ceph.client_settings))
    expect_whole(provider, tiny_image, ceph_volume(ceph, image), go, ceph.start, lambda: ceph.read(image))


def test_an_nbd_server_that_is_gone_and_back(provider: Provider, tiny_image: Path, tmp_path: Path) -> None:
    if libvirt_version(provider) < RECONNECT_SINCE:
        pytest.skip("this libvirt has no word for a server that is waited for")
    file = zeroes(tmp_path / "disk.raw", SIZE)
    provider.start(*OPTIONS)
    with closing(NbdServer(file, "e", provider.libvirt.inside)) as server:
        server.start()
        expect_whole(provider, tiny_image, nbd(server), server.daemon.kill, server.start, file.read_bytes)


# Encrypted.


@pytest.mark.parametrize("header", [False, True], ids=["no header", "wrong passphrase"])
def test_a_device_that_its_key_does_not_open_is_left_as_it_is(
    provider: Provider, tiny_image: Path, tmp_path: Path, header: bool
) -> None:
    file = tmp_path / "locked.raw"
    luks.make(file, SIZE, b"another one", 1)
    if not header:
        file.write_bytes(secrets.token_bytes(file.stat().st_size))
    before = hashlib.sha256(file.read_bytes()).digest()
    provider.start(*OPTIONS)
    machine_id = guest(provider, tiny_image)
    tick(provider, machine_id)
    with closing(NbdServer(file, "e", provider.libvirt.inside)) as server, Pauses(provider, machine_id) as pauses:
        server.start()
        attach(provider, machine_id, nbd(server, encryption={"encryptionKey": PASSPHRASE}))
        told = wait_reason(provider, machine_id, "volume-refused", TOLD)
        assert ("does not open" if header else "has no LUKS header") in told
        assert volumes(provider, machine_id) == {"data": "PENDING"}
        assert hashlib.sha256(file.read_bytes()).digest() == before
        luks.make(file, SIZE, PASSPHRASE, 1)  # as its owner does
        provider.wait_console(machine_id, f"size={SIZE}")
        expect_mended(provider, machine_id)
    assert pauses.longest < STILL
