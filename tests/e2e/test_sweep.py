"""Sweep on real guests: a machine that a restored backup does not know runs on until it is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import libvirt
import pytest

from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e


def cli(provider: Provider, *argv: str, status: int = 0) -> str:
    command = [sys.executable, "-m", "sri_libvirt", *argv, "--state-dir", str(provider.state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status, f"{argv}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def sweep(provider: Provider, *argv: str, status: int = 0) -> list[dict[str, Any]]:
    command = ("sweep", *argv, "-o", "json", "--libvirt-uri", provider.libvirt.uri)
    text = cli(provider, *command, status=status)
    entries: list[dict[str, Any]] = json.JSONDecoder().raw_decode(text)[0]
    return entries


def clone(provider: Provider, machine_id: str) -> str:
    """What virt-clone makes of a guest of ours: our marks under another UUID. Returns that."""
    other = "99999999-0000-4000-8000-000000000009"
    connection = libvirt.open(provider.libvirt.uri)
    try:
        xml = connection.lookupByUUIDString(machine_id).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        named = xml.replace(f"<name>{machine_id}", "<name>clone").replace(f"<uuid>{machine_id}", f"<uuid>{other}")
        assert connection.defineXML(named).UUIDString() == other
    finally:
        connection.close()
    return other


def test_a_guest_that_the_backup_does_not_know(provider: Provider, tmp_path: Path) -> None:
    provider.start()
    kept = provider.create(spec(), "kept").metadata.id
    provider.wait_state(kept, "MACHINE_RUNNING")
    cli(provider, "store", "backup", str(tmp_path / "copy.sqlite"))
    since = provider.create(spec(disks={"data": "oda"}), "since").metadata.id
    provider.wait_state(since, "MACHINE_RUNNING")
    pids = [provider.qemu_pid(each) for each in (kept, since)]
    provider.stop()
    cli(provider, "store", "restore", str(tmp_path / "copy.sqlite"))
    provider.witness.forget()
    provider.start()
    wait_for("the kept machine", lambda: [each.metadata.id for each in provider.machines()] == [kept])

    # Through the daemon: named as an orphan, never removed by a bare --yes.
    (entry,) = sweep(provider)
    assert (entry["id"], entry["domain"], entry["directory"], entry["by_name"]) == (since, "running", True, True)
    (entry,) = sweep(provider, "--yes", "--running", status=1)
    assert "name it to remove it" in entry["outcome"]
    assert [provider.qemu_pid(each) for each in (kept, since)] == pids

    # Without the daemon, by name; the clone that somebody made of it holds the files that it uses.
    provider.stop()
    other = clone(provider, since)
    (entry,) = sweep(provider, since, "--yes", "--running", status=1)
    assert f"the domain {other}" in entry["outcome"]
    with provider.domain(other) as domain:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    (entry,) = sweep(provider, since, "--yes", status=1)
    assert "--running ends it" in entry["outcome"]
    (entry,) = sweep(provider, since, "--yes", "--running")
    assert entry["outcome"] == "removed"
    assert provider.qemu_pid(since) is None
    assert [path.name for path in (provider.state / "machines").iterdir()] == [kept]
    assert provider.qemu_pid(kept) == pids[0]
    assert sweep(provider) == []


def test_a_purge_of_real_guests(provider: Provider) -> None:
    provider.start()
    ours = provider.create(spec(disks={"data": "oda"}), "ours").metadata.id
    provider.wait_state(ours, "MACHINE_RUNNING")
    pid = provider.qemu_pid(ours)
    uri = ("--libvirt-uri", provider.libvirt.uri)
    assert "another provider runs" in cli(provider, "purge", "--yes", *uri, status=1)
    assert ours in cli(provider, "purge", *uri)
    provider.stop()

    # A clone with our marks uses its files: nothing goes. Nor does it while libvirt is away.
    other = clone(provider, ours)
    assert f"the domain {other}" in cli(provider, "purge", "--yes", *uri, status=1)
    with provider.domain(other) as domain:
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    nowhere = ("--libvirt-uri", "qemu+unix:///system?socket=/nowhere")
    assert "cannot be reached" in cli(provider, "purge", "--yes", *nowhere, status=1)
    assert provider.qemu_pid(ours) == pid

    assert "removed" in cli(provider, "purge", "--yes", *uri)
    assert provider.qemu_pid(ours) is None
    assert list((provider.state / "machines").iterdir()) == []
    provider.witness.forget()
    provider.start()
    assert provider.machines() == []
