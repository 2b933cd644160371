"""A volume that a secret opens, on real libvirt and QEMU: libvirt has the secret for a call, nobody else sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests import luks, third_party
from tests.e2e.provider import Provider, spec, wait_for
from tests.e2e.test_restarts import expect_nothing_left, secrets

pytestmark = pytest.mark.e2e

KEY = b"planted-secret-of-a-tenant"
COMMANDS = (("machine", "get", "ID", "-o", "yaml"), ("machine", "why", "ID"), ("machine", "events", "ID"), ("sweep",))


def locked(provider: Provider, name: str, device: str, key: bytes = KEY) -> pb.Volume:
    """A volume of the third party's driver on a LUKS disk that is made for it, and that KEY opens."""
    path = provider.root / f"{name}.raw"
    if not path.exists():
        luks.make(path, KEY)
    attributes = {"path": str(path), "size": str(64 << 10)}
    connection = pb.VolumeConnection(
        driver="example-locked", handle=name, attributes=attributes, encryption_data={"key": key}
    )
    return pb.Volume(name=name, device=device, connection=connection)


def attach(provider: Provider, machine_id: str, volume: pb.Volume) -> None:
    provider.stub.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=10)


def attached(provider: Provider, machine_id: str, count: int) -> bool:
    machine = provider.get(machine_id)
    assert machine is not None
    return [each.state for each in machine.status.volumes] == [pb.VOLUME_ATTACHED] * count


def cli(provider: Provider, *argv: str) -> str:
    uri = ("--libvirt-uri", provider.libvirt.uri) if argv[0] == "sweep" else ()
    command = [sys.executable, "-m", "sri_libvirt", *argv, "--state-dir", str(provider.state), *uri]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_life_with_a_secret_that_is_nowhere_to_be_found(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(third_party.install(tmp_path / "site")))
    provider.start("--firmware", "bios", "--log-level", "debug", "--shutdown-grace", "1s")
    wanted = spec()
    wanted.volumes.append(locked(provider, "boot", "oda"))
    machine_id = provider.create(wanted).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    assert secrets(provider) == []

    # A wrong key is told of, and plugged nowhere; the right one is plugged, and outlives libvirtd without its secret.
    attach(provider, machine_id, locked(provider, "data", "odb", b"planted-secret-of-nobody"))
    wait_for("reason", lambda: "device-not-ready" in provider.reasons(machine_id))
    provider.stub.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name="data"), timeout=10)
    wait_for("the wrong one gone", lambda: attached(provider, machine_id, 1))
    attach(provider, machine_id, locked(provider, "data", "odb"))
    wait_for("both disks", lambda: attached(provider, machine_id, 2))
    pid = provider.qemu_pid(machine_id)
    provider.libvirt.kill()
    provider.libvirt.start()
    with provider.domain(machine_id) as domain:
        domain.reset(0)
    wait_for("both disks", lambda: attached(provider, machine_id, 2))
    assert provider.qemu_pid(machine_id) == pid

    # A managed save is restored with both.
    with provider.domain(machine_id) as domain:
        domain.managedSave(0)
    wait_for("restore", lambda: any(event.reason == "restored" for event in provider.events(machine_id)))
    wait_for("both disks", lambda: attached(provider, machine_id, 2))
    assert secrets(provider) == []

    assert found_by_whom(provider, machine_id) == []
    provider.delete(machine_id)
    expect_nothing_left(provider)


def found_by_whom(provider: Provider, machine_id: str) -> list[str]:
    """Where "planted" can be read: files but for the store's and its backups, which keep specs; arguments, XML, our
    output."""
    base = provider.libvirt.base
    others = [path for path in base.glob(f"{provider.root.name.partition('-')[0]}-*") if path != provider.root]
    files = (path for path in base.rglob("*") if path.is_file() and not any(map(path.is_relative_to, others)))
    texts = {str(path): path.read_bytes() for path in files}
    logs = [name for name in texts if name.endswith(("provider.log", f"{machine_id}.log"))]
    assert len(logs) == 2, "the logs are not where they are looked for"
    for pid in (provider.qemu_pid(machine_id), provider.process and provider.process.pid):
        texts[f"arguments of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
    with provider.domain(machine_id) as domain:
        for flags in (0, libvirt.VIR_DOMAIN_XML_SECURE, libvirt.VIR_DOMAIN_XML_INACTIVE):
            texts[f"XML {flags}"] = domain.XMLDesc(flags).encode()
    for command in COMMANDS:
        argv = [machine_id if word == "ID" else word for word in command]
        texts[" ".join(command)] = cli(provider, *argv).encode()
    return [name for name, text in texts.items() if b"planted" in text and "/state/store/" not in name]
