"""Where the host's end of a NIC is, read from sysfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.host import link

UP, DOWN = "0x1003\n", "0x1002\n"


def sysfs(root: Path, **devices: str) -> Path:
    """Devices by name: their flags, and after a blank the name of their master. Names of bridges begin with `br`."""
    for name, words in devices.items():
        flags, _, master = words.partition(" ")
        place = root / "class" / "net" / name
        place.mkdir(parents=True)
        (place / "flags").write_text(flags)
        if name.startswith("br"):
            (place / "bridge").mkdir()
        if master:
            (place / "master").symlink_to(f"../{master}")
    return root


@pytest.mark.parametrize(
    ("device", "bridge", "joined"),
    [
        ("inside", "br0", True),
        ("inside", "br1", False),
        ("inside", "gone", None),
        ("outside", "br0", False),
        ("outside", "gone", False),
        ("switched", "switch0", None),
        ("switched", "br0", None),
        ("outside", "switch0", None),  # in user space a switch is nobody's master
        ("elsewhere", "br0", None),
        ("elsewhere", "", None),
        ("", "br0", None),
        ("down", "", True),
        ("outside", "", False),
    ],
)
def test_joined(tmp_path: Path, device: str, bridge: str, joined: bool | None) -> None:
    root = sysfs(
        tmp_path,
        br0=UP,
        br1=UP,
        inside=f"{UP} br0",
        outside=UP,
        switched=f"{UP} ovs-system",
        switch0=UP,
        down=DOWN,
    )
    assert link.joined(root, device, bridge) is joined


def test_who_is_up_without_the_taps_of_guests(tmp_path: Path) -> None:
    root = sysfs(tmp_path, br0=UP, eth0=UP, down=DOWN, vnet7=UP, macvtap0=UP, vnets=UP, odd="no number")
    assert link.up(root) == {"br0", "eth0", "vnets"}


def test_what_is_not_shown_says_nothing(tmp_path: Path) -> None:
    assert link.up(tmp_path / "no-sysfs") == frozenset()
    assert link.joined(tmp_path / "no-sysfs", "vnet0", "br0") is None
    sysfs(tmp_path, odd="no number")
    assert link.joined(tmp_path, "odd", "") is None
