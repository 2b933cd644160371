"""Where the time of a real guest's start goes: the provider's and libvirt's, and the guest's own to its first byte."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.reconcile.firstbyte import NAME
from tests.e2e.provider import Provider, spec, wait_for

pytestmark = pytest.mark.e2e


def traced(provider: Provider, machine_id: str) -> dict[str, Any]:
    argv = [sys.executable, "-m", "sri_libvirt", "machine", "trace", machine_id, "--state-dir", str(provider.state)]
    done = subprocess.run([*argv, "-o", "json"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def expect_heard(provider: Provider, machine_id: str, cause: str) -> None:
    wait_for("first byte", lambda: traced(provider, machine_id)["first_bytes"])
    found = traced(provider, machine_id)
    assert found["cause"] == cause
    (heard,) = found["first_bytes"]
    (start,) = (each for each in found["calls"] if each["name"] == "start")
    assert heard["after_seconds"] == pytest.approx(start["after_seconds"] + start["seconds"], abs=0.01)
    assert sum(each["seconds"] for each in found["spans"]) == pytest.approx(found["total_seconds"])
    assert heard["after_seconds"] + heard["seconds"] <= found["total_seconds"] + 0.001
    assert NAME in [each["name"] for each in found["spans"]], "a guest takes longer than what is done meanwhile"


def test_the_first_byte_of_each_start_is_in_its_trace(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image)).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    expect_heard(provider, machine_id, "CreateMachine")
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    assert traced(provider, machine_id)["first_bytes"] == [], "that was before"
    provider.power(machine_id, pb.POWER_ON)
    expect_heard(provider, machine_id, "UpdateMachinePower")
