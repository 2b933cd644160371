"""What backends of volumes do to guests that run, and what they do not: each row of the fault table, on NBD servers.

An NBD server is the simplest that hangs, refuses, freezes and goes. What Ceph and iSCSI alone can do is in tests of
their own.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.records import Attachment
from tests.backends.daemon import freeze
from tests.backends.nbd import NbdServer
from tests.e2e.connected import (
    GRACE,
    MIB,
    OPTIONS,
    STILL,
    TOLD,
    Pauses,
    attach,
    connections,
    detach,
    expect_released,
    guest,
    keep_writing,
    nbd,
    tick,
    volumes,
    wait_reason,
    wait_volumes,
)
from tests.e2e.provider import Provider, spec, type_line, wait_for
from tests.e2e.test_restarts import expect_nothing_left

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

KILLED = 15.0
"""Seconds of libvirt's to end a QEMU that does not hear, over the grace time."""


@pytest.fixture
def server(provider: Provider, tmp_path: Path) -> Iterator[NbdServer]:
    """An NBD server of one export, `e`, of 16 MiB."""
    file = tmp_path / "disk.raw"
    file.write_bytes(bytes(16 * MIB))
    with closing(NbdServer(file, "e", provider.libvirt.inside)) as made:
        made.start()
        yield made


@dataclass(frozen=True)
class Fault:
    """What is done to a server before it is asked, and to mend it; what a user is told."""

    harm: Callable[[NbdServer], None]
    mend: Callable[[NbdServer], None]
    code: str
    words: str
    export: str = "e"


FAULTS = {
    "hangs": Fault(lambda s: s.daemon.freeze(), lambda s: s.daemon.thaw(), "backend-silent", "within 10 s"),
    "refuses": Fault(lambda s: s.close(), lambda s: s.start(), "backend-silent", "no answer from"),
    "has no such export": Fault(lambda s: s.serve("other"), lambda s: s.serve("e"), "volume-refused", "no such export"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_guest_never_waits_for_a_backend_that_fails_and_has_its_volume_once_that_is_mended(
    provider: Provider, tiny_image: Path, server: NbdServer, fault: Fault
) -> None:
    provider.start(*OPTIONS)
    machine_id = guest(provider, tiny_image)
    tick(provider, machine_id)
    with Pauses(provider, machine_id) as pauses:
        fault.harm(server)
        begun = time.monotonic()
        attach(provider, machine_id, nbd(server))
        told = wait_reason(provider, machine_id, fault.code)
        assert time.monotonic() - begun < TOLD
        assert fault.words in told
        assert volumes(provider, machine_id) == {"data": "PENDING"}
        fault.mend(server)
        provider.wait_console(machine_id, "serial=odb-")
        wait_volumes(provider, machine_id, {"data": "ATTACHED"})
        wait_for("no reason", lambda: not provider.reasons(machine_id))
    assert pauses.longest < STILL
    detach(provider, machine_id)
    provider.wait_console(machine_id, "gone")
    wait_volumes(provider, machine_id, {})
    expect_released(provider, (server.host, server.port))


@pytest.mark.parametrize("end", ["off", "delete", "detach and off"])
def test_a_guest_with_a_frozen_disk_ends_in_time_and_delays_no_other(
    provider: Provider, tiny_image: Path, server: NbdServer, end: str
) -> None:
    provider.start(*OPTIONS)
    machine_id = guest(provider, tiny_image, disk=nbd(server))
    first, alone = _start(provider)
    keep_writing(provider, machine_id, "vdb")
    tick(provider, machine_id)
    with Pauses(provider, machine_id) as pauses:
        server.daemon.freeze()
        if end.startswith("detach"):
            detach(provider, machine_id)
            wait_reason(provider, machine_id, "unplugging")
            assert connections(provider, server.host, server.port) == 1
        written = _standing(provider, machine_id)
    assert pauses.longest < STILL
    begun = time.monotonic()
    if end == "delete":
        provider.delete(machine_id)
    else:
        provider.power(machine_id, pb.POWER_OFF)
    second, beside = _start(provider)
    assert beside < 2 * alone + 1
    provider.wait_state(machine_id, "GONE" if end == "delete" else "MACHINE_SUSPENDED")
    assert time.monotonic() - begun < GRACE + KILLED
    if end != "delete":
        assert provider.console(machine_id).count("wrote ") == written
        server.daemon.thaw()
        provider.delete(machine_id)
    provider.delete(first)
    provider.delete(second)
    expect_nothing_left(provider)
    server.close()
    expect_released(provider)


def _start(provider: Provider) -> tuple[str, float]:
    """Another machine, and the seconds until its guest runs."""
    begun = time.monotonic()
    machine_id = provider.create(spec(), "other").metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    return machine_id, time.monotonic() - begun


def _standing(provider: Provider, machine_id: str) -> int:
    """Wait until the guest writes to its disk no more, and still ticks; how often it has written."""
    latest = [-1, -1]

    def stands() -> bool:
        console = provider.console(machine_id)
        if console.count("wrote ") != latest[0]:
            latest[:] = console.count("wrote "), console.count("tick ")
        return console.count("tick ") >= latest[1] + 20

    wait_for("standing writes", stands)
    return latest[0]


def test_a_frozen_disk_that_thaws_goes_on(provider: Provider, tiny_image: Path, server: NbdServer) -> None:
    provider.start(*OPTIONS)
    machine_id = guest(provider, tiny_image, disk=nbd(server))
    keep_writing(provider, machine_id, "vdb")
    tick(provider, machine_id)
    server.daemon.freeze()
    written = _standing(provider, machine_id)
    server.daemon.thaw()
    provider.wait_console(machine_id, "wrote ", count=written + 2)
    assert provider.state_of(machine_id) == "MACHINE_RUNNING"

    pid = provider.qemu_pid(machine_id)
    assert pid is not None
    with Pauses(provider, machine_id) as pauses:  # which are seen, where there are any
        freeze(pid)
        time.sleep(STILL)
        os.kill(pid, signal.SIGCONT)
    assert pauses.longest >= STILL


def test_a_volume_waits_for_the_machine_that_has_it(provider: Provider, tiny_image: Path, server: NbdServer) -> None:
    provider.start(*OPTIONS)
    words = b'{"tiny.deaf-unplug": 1}'
    first = guest(provider, tiny_image, words, disk=nbd(server))
    provider.wait_console(first, "tiny: deaf to unplug")
    second = guest(provider, tiny_image)
    attach(provider, second, nbd(server))
    assert first in wait_reason(provider, second, "held", TOLD)

    detach(provider, first)  # which the guest does not hear
    wait_reason(provider, first, "unplugging")
    asked = _row(provider, first).unplug_at
    wait_for("asked again", lambda: _row(provider, first).unplug_at > asked)
    assert provider.reasons(second) == {"held"}
    assert connections(provider, server.host, server.port) == 1
    assert _row(provider, first).backing is not None
    assert volumes(provider, second) == {"data": "PENDING"}

    console = provider.console
    type_line(provider.libvirt.uri, first, "hear-unplug", lambda: "disk vdb gone" in console(first))
    provider.wait_console(second, "serial=odb-")
    wait_volumes(provider, second, {"data": "ATTACHED"})
    assert volumes(provider, first) == {}
    for each in (first, second):
        provider.delete(each)
    expect_nothing_left(provider)
    expect_released(provider, (server.host, server.port))


def _row(provider: Provider, machine_id: str) -> Attachment:
    """What is kept of its volume."""
    (row,) = [row for row in provider.record(machine_id).attachments if row.name == "data"]
    return row
