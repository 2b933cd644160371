"""What udev tells of hardware that is not here: umockdev shows a server with an SR-IOV card, a bond and a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
SERVER = HERE / "server.umockdev"
CHILD = ("umockdev-wrapper", sys.executable, HERE / "umocked.py")
GPU = "/sys/devices/pci0000:85/0000:86:00.0"
DEADLINE = 120


def run(argv: Sequence[str | Path]) -> Any:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def inventory() -> Any:
    return run([*CHILD, "read", SERVER, GPU, "ID_MODEL_FROM_DATABASE"])


def named(devices: Sequence[dict[str, Any]], key: str, name: str) -> dict[str, Any]:
    (found,) = (device for device in devices if device[key] == name)
    return found


def test_sriov_card(inventory: Any) -> None:
    card = named(inventory["nics"], "name", "ens1f0")
    assert (card["driver"], card["pci"], card["numa"], card["speed_mbps"]) == ("ixgbe", "0000:3b:00.0", 1, 10000)
    assert (card["carrier"], card["master"], card["mtu"]) == (True, "bond0", 9000)
    sriov = card["sriov"]
    assert (sriov["total"], sriov["configured"], sriov["free"]) == (63, 2, 2)
    bound, free = sriov["functions"]
    assert (bound["pci"], bound["driver"], bound["iommu_group"], bound["free"]) == (
        "0000:3b:10.0",
        "vfio-pci",
        40,
        True,  # for a guest: nobody has it yet
    )
    assert (free["pci"], free["driver"], free["free"]) == ("0000:3b:10.2", None, True)


def test_bond(inventory: Any) -> None:
    bond = named(inventory["nics"], "name", "bond0")
    assert (bond["kind"], bond["ports"], bond["lower"], bond["pci"]) == ("bond", ["ens1f0"], ["ens1f0"], None)


def test_only_udev_knows_the_driver_of_a_virtual_interface(inventory: Any) -> None:
    port = named(inventory["nics"], "name", "br-int")
    assert (port["kind"], port["driver"], port["carrier"]) == ("ovs", "openvswitch", None)


def test_names_of_devices(inventory: Any) -> None:
    card = named(inventory["pci"], "address", "0000:3b:00.0")
    assert (card["vendor"], card["vendor_name"], card["iommu_group"]) == ("8086", "Intel Corporation", 17)
    assert card["device_name"].startswith("82599ES")
    assert named(inventory["pci"], "address", "0000:3b:10.2")["physical_function"] == "0000:3b:00.0"


def test_a_property_of_bad_bytes_costs_only_itself(inventory: Any) -> None:
    gpu = named(inventory["pci"], "address", "0000:86:00.0")
    assert (gpu["vendor_name"], gpu["device_name"]) == ("NVIDIA Corporation", None)
    assert (gpu["driver"], gpu["iommu_group"], gpu["numa"], gpu["device_class"]) == ("nvidia", 91, 0, "030200")


@pytest.mark.parametrize(
    ("device", "subsystem"),
    [("/sys/devices/pci0000:3a/0000:3b:10.2", "pci"), ("/sys/devices/virtual/net/bond0", "net")],
)
def test_changes_are_told_until_the_end(device: str, subsystem: str) -> None:
    found = run([*CHILD, "watch", SERVER, device, subsystem])
    assert sum(subsystem in told for told in found["told"]) >= 2  # the first call raised
    assert found["threads"] == [threading.main_thread().name]


LINK_CHANGES = """
import subprocess, threading
from sri_libvirt.host import live
heard = threading.Event()
hotplug = live.Hotplug(lambda subsystems: heard.set() if "net" in subsystems else None, quiet=0.05)
hotplug.start()
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
print("true" if heard.wait(60) else "false")
hotplug.stop()
"""


def test_a_link_that_comes_up_is_told() -> None:
    """By rtnetlink, in a network namespace of its own: udev says nothing then."""
    assert run(["unshare", "--map-root-user", "--net", sys.executable, "-c", LINK_CHANGES]) is True


def test_a_watcher_that_never_started_ends() -> None:
    from sri_libvirt.host.live import Hotplug

    Hotplug(lambda _: None).stop()
