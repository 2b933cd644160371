"""Connected volumes of guests that run: how they are asked for, what a guest writes meanwhile, what is left of them.

Backends are those of tests/backends; what a test does to them does not belong here.
"""

from __future__ import annotations

import base64
import itertools
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import libvirt

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets
from tests.backends.nbd import NbdServer
from tests.e2e.provider import Provider, spec, type_line, wait_for
from tests.e2e.test_sweep import sweep

MIB = 1 << 20

TOLD = 12.0
"""Seconds until a user is told why a volume waits."""

STILL = 1.0
"""A guest's console is never silent for as long."""

GRACE = 3.0

OPTIONS = ("--firmware", "bios", "--detach-settle", "0s", "--shutdown-grace", f"{GRACE:g}s")
"""Of a provider whose guests give volumes back at once, and end soon."""

_ESTABLISHED = "01"
"""TCP_ESTABLISHED in /proc/net/tcp (the kernel's include/net/tcp_states.h)."""


def connected(
    name: str,
    driver: str,
    attributes: Mapping[str, str],
    secrets: Mapping[str, bytes] | None = None,
    encryption: Mapping[str, bytes] | None = None,
    *,
    handle: str = "h",
    device: str = "odb",
) -> pb.Volume:
    """A volume of somebody else's storage."""
    connection = pb.VolumeConnection(
        driver=driver,
        handle=handle,
        attributes=attributes,
        secret_data=secrets or {},
        encryption_data=encryption or {},
    )
    return pb.Volume(name=name, device=device, connection=connection)


def nbd(server: NbdServer, name: str = "data", *, export: str = "e", **options: Any) -> pb.Volume:
    return connected(name, "nbd", {"address": f"{server.host}:{server.port}", "export": export}, **options)


def iscsi(targets: Targets, target: str, name: str = "data", **options: Any) -> pb.Volume:
    return connected(name, "iscsi", {"portal": targets.portal, "target": target, "lun": "1"}, **options)


def ceph_volume(
    ceph: Ceph, image: str, name: str = "data", *, user: str = "guest", key: str = "", **options: Any
) -> pb.Volume:
    given = {"userID": user.encode(), "userKey": key.encode() or base64.b64encode(ceph.key(user))}
    return connected(name, "ceph", {"monitors": ceph.monitors, "image": image}, given, **options)


def new_name() -> str:
    """A name that no image, target or user of a shared backend has."""
    return f"t{secrets.token_hex(4)}"


def zeroes(path: Path, size: int) -> Path:
    """A file of so many bytes, for a server to give out."""
    path.write_bytes(bytes(size))
    return path


def attach(provider: Provider, machine_id: str, volume: pb.Volume) -> None:
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)


def detach(provider: Provider, machine_id: str, name: str = "data") -> None:
    provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=name), timeout=10)


def volumes(provider: Provider, machine_id: str) -> dict[str, str]:
    """The state of each volume, as the poollet sees it."""
    machine = provider.get(machine_id)
    assert machine is not None
    return {each.name: pb.VolumeState.Name(each.state).removeprefix("VOLUME_") for each in machine.status.volumes}


def wait_volumes(provider: Provider, machine_id: str, wanted: Mapping[str, str], seconds: float = 120) -> None:
    try:
        wait_for(f"volumes {wanted}", lambda: volumes(provider, machine_id) == wanted, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{provider.why(machine_id)}\n{provider.log()}") from None


def wait_reason(provider: Provider, machine_id: str, code: str, seconds: float = 60) -> str:
    """Wait until the machine gives that reason; its words."""

    def words() -> str:
        return "".join(each.message for each in provider.record(machine_id).reasons if each.code == code)

    try:
        return wait_for(f"reason {code}", words, seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{provider.why(machine_id)}\n{provider.log()}") from None


# What a guest does.


def guest(provider: Provider, image: Path, words: bytes = b"", *, disk: pb.Volume | None = None) -> str:
    """A tiny guest that is up; its machine's id."""
    made = spec(image=image, ignition=words)
    if disk is not None:
        made.volumes.append(disk)
    machine_id = provider.create(made).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    return machine_id


def tick(provider: Provider, machine_id: str) -> None:
    """From now on the guest writes its uptime on its console ten times a second."""
    loop = "while :; do read up rest </proc/uptime; echo tick $((n=n+1)) $up; sleep 0.1; done &"
    type_line(provider.libvirt.uri, machine_id, loop, lambda: len(_ticks(provider, machine_id)) > 2)


def _ticks(provider: Provider, machine_id: str) -> list[float]:
    """The guest's uptime at each of its ticks."""
    return [float(up) for up in re.findall(r"^tick \d+ (\d+\.\d+)$", provider.console(machine_id), re.MULTILINE)]


def keep_writing(provider: Provider, machine_id: str, disk: str) -> None:
    """From now on the guest writes to a disk, past its cache, and tells how often it has."""
    write = f"dd if=/dev/zero of=/dev/{disk} bs=65536 count=16 conv=fsync 2>/dev/null"
    loop = f"while {write}; do echo wrote $((w=w+1)); done &"
    type_line(provider.libvirt.uri, machine_id, loop, lambda: "\nwrote 2\n" in provider.console(machine_id))


class Pauses:
    """How long a guest that ticks has written nothing, at the longest, while the context lasts.

    By the guest's own clock, which goes on while its QEMU stands: who reads the console may be late. The guest has a
    CPU before all others meanwhile: how busy the tests' host is is not measured.
    """

    def __init__(self, provider: Provider, machine_id: str) -> None:
        self._provider = provider
        self._machine_id = machine_id
        self.longest = 0.0

    def __enter__(self) -> Pauses:
        self._favour()
        self._before = len(_ticks(self._provider, self._machine_id))
        return self

    def __exit__(self, *_: object) -> None:
        until = len(_ticks(self._provider, self._machine_id))
        wait_for("tick", lambda: len(_ticks(self._provider, self._machine_id)) > until + 1)
        ticks = _ticks(self._provider, self._machine_id)[self._before - 1 :]
        self.longest = max(later - earlier for earlier, later in itertools.pairwise(ticks))

    def _favour(self) -> None:
        """Let the guest's threads run before all others, out of the control group in which they share a CPU."""
        pid = self._provider.qemu_pid(self._machine_id)
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                Path("/sys/fs/cgroup/cpu/tasks").write_text(task.name)
            with suppress(PermissionError):
                os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(1))


# What is left.


def connections(provider: Provider, host: str, port: int) -> int:
    """How many connections to a backend there are where guests run, as its clients see them."""
    where = ":".join((_little_endian(host), f"{port:04X}"))
    lines = provider.libvirt.run(["cat", "/proc/net/tcp"]).splitlines()[1:]
    return sum(line.split()[2] == where and line.split()[3] == _ESTABLISHED for line in lines)


def _little_endian(host: str) -> str:
    return "".join(f"{int(byte):02X}" for byte in reversed(host.split(".")))


def libvirt_version(provider: Provider) -> int:
    """9.2.0 is 9_002_000."""
    connection = libvirt.open(provider.libvirt.uri)
    try:
        version: int = connection.getLibVersion()
        return version
    finally:
        connection.close()


def secrets_left(provider: Provider) -> list[str]:
    connection = libvirt.open(provider.libvirt.uri)
    try:
        return [secret.usageID() for secret in connection.listAllSecrets()]
    finally:
        connection.close()


def expect_released(provider: Provider, *backends: tuple[str, int]) -> None:
    """Nothing is left of volumes that were given back: no connection, no secret, nothing for a sweep."""
    for host, port in backends:
        wait_for("end of connections", lambda at=(host, port): connections(provider, *at) == 0, 30)  # type: ignore[misc]
    assert secrets_left(provider) == []
    assert sweep(provider) == []


def expect_mended(provider: Provider, machine_id: str) -> None:
    """The volume comes by itself, and goes when it is to, with nothing left."""
    provider.wait_console(machine_id, "serial=odb-")
    wait_volumes(provider, machine_id, {"data": "ATTACHED"})
    wait_for("no reason", lambda: not provider.reasons(machine_id))
    detach(provider, machine_id)
    provider.wait_console(machine_id, "gone")
    wait_volumes(provider, machine_id, {})
    expect_released(provider)
