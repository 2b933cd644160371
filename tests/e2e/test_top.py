"""`sri-libvirt top` with real guests: what one does is seen, and a QEMU or a libvirt that hangs is told of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, type_line
from tests.terminal.person import Person

pytestmark = pytest.mark.e2e


def argv(provider: Provider, libvirt: PrivateLibvirt, *words: str) -> list[str]:
    places = ["--state-dir", str(provider.state), "--libvirt-uri", libvirt.uri]
    return [sys.executable, "-m", "sri_libvirt", "top", *words, *places]


def samples(provider: Provider, libvirt: PrivateLibvirt, *words: str) -> list[dict[str, Any]]:
    """What it prints as JSON, document by document."""
    said = subprocess.run(
        argv(provider, libvirt, "-o", "json", *words), capture_output=True, text=True, timeout=120, check=True
    ).stdout
    found, at, decoder = [], 0, json.JSONDecoder()
    while at < len(said):
        document, at = decoder.raw_decode(said, at)
        found.append(document)
        at += 1
    return found


def of(sample: dict[str, Any], machine_id: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in sample["machines"] if each["id"] == machine_id)
    return found


def test_what_guests_use(provider: Provider, private_libvirt: PrivateLibvirt, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    busy, idle = (provider.create(spec(image=tiny_image)).metadata.id for _ in range(2))
    for each in (busy, idle):
        provider.wait_console(each, "tiny: up")
    type_line(
        private_libvirt.uri,
        busy,
        "dd if=/dev/vda of=/dev/null bs=64k count=64; echo bus''y; while :; do :; done",
        lambda: "busy" in provider.console(busy),
    )
    (first, last) = samples(provider, private_libvirt, "-n", "2", "-d", "2")
    assert first["problem"] is None
    assert last["age_seconds"] < 2
    one, other = of(last, busy), of(last, idle)
    assert one["cpus"] > 4 * other["cpus"]
    assert one["cpus"] > 0.2
    assert one["cpu_share"] == pytest.approx(one["cpus"]), "its class has one CPU"
    assert one["resident_bytes"] > 32 << 20
    assert last["machines"][0]["id"] == busy, "who uses most comes first"
    assert min(one["disk_read_bytes_per_second"], one["network_sent_bytes_per_second"], one["steal_cpus"]) >= 0

    person = Person(argv(provider, private_libvirt, "-d", "0.5"))
    try:
        person.expect("by cpu")
        person.expect("RUNNING")
        person.type("m")
        person.expect("by memory")
        person.type("q")
        assert person.status() == 0
    finally:
        person.close()

    qemu = next(each for each in psutil.process_iter(["cmdline"]) if f"guest={idle}," in " ".join(each.info["cmdline"]))
    os.kill(qemu.pid, signal.SIGSTOP)
    try:
        table = subprocess.run(
            argv(provider, private_libvirt, "-b", "-n", "2", "-d", "0.5"), capture_output=True, text=True, timeout=60
        )
    finally:
        os.kill(qemu.pid, signal.SIGCONT)
    assert table.returncode == 0
    assert "libvirt does not answer: there are no figures yet" in table.stdout
    assert busy in table.stdout, "what the store knows is shown all the same"
    private_libvirt.kill()
    try:
        gone = subprocess.run(
            argv(provider, private_libvirt, "-b", "-n", "1"), capture_output=True, text=True, timeout=60
        )
    finally:
        private_libvirt.start()
    assert gone.returncode == 1
    assert "libvirt cannot be reached" in gone.stderr
