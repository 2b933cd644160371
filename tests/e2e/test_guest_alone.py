"""The tiny guest by bare QEMU: what it says and obeys, by BIOS and by UEFI. Other tests rely on these lines."""

from __future__ import annotations

import hashlib
import io
import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any

import pycdlib
import pytest

from tests import guest

pytestmark = pytest.mark.e2e

OVMF = Path("/usr/share/OVMF")
DEADLINE = 120.0
"""Seconds for anything that is waited for: UEFI takes eight here, a busy host several times that."""


class Console:
    """One end of a socket pair whose other end QEMU holds; reads until something is seen."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.text = ""

    def expect(self, pattern: str, since: int = 0) -> re.Match[str]:
        """Wait until the pattern is found in what came after position `since`."""
        deadline = monotonic() + DEADLINE
        while not (found := re.compile(pattern, re.MULTILINE).search(self.text, since)):
            self.ours.settimeout(max(0.01, deadline - monotonic()))
            try:
                data = self.ours.recv(65536)
            except TimeoutError:
                data = b""
            assert data, f"no {pattern!r} in:\n{self.text}"
            self.text += data.decode(errors="replace").replace("\r", "")
        return found

    def send(self, line: str) -> None:
        self.ours.sendall(line.encode() + b"\n")


class Guest:
    """One QEMU with the tiny guest, two free root ports, and hands on its monitor and serial console."""

    def __init__(self, *options: str) -> None:
        self.serial, self.monitor = Console(), Console()
        argv = ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]
        argv += ["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "256", "-nodefaults", "-no-user-config"]
        argv += ["-display", "none", "-no-reboot"]
        argv += ["-chardev", f"socket,id=serial,fd={self.serial.theirs.fileno()}", "-serial", "chardev:serial"]
        argv += ["-chardev", f"socket,id=qmp,fd={self.monitor.theirs.fileno()}", "-qmp", "chardev:qmp"]
        for port in range(1, 5):
            argv += ["-device", f"pcie-root-port,id=port{port},chassis={port},slot={port},addr=0x{port}"]
        argv += ["-drive", f"if=none,id=image,file={guest.image()},format=raw,snapshot=on"]
        argv += ["-device", "virtio-blk-pci,drive=image,bus=port1,serial=the-image,bootindex=1", *options]
        fds = (self.serial.theirs.fileno(), self.monitor.theirs.fileno())
        self.process = subprocess.Popen(argv, pass_fds=fds)
        self.serial.theirs.close()
        self.monitor.theirs.close()
        self.command("qmp_capabilities")

    def command(self, name: str, **arguments: Any) -> None:
        since = len(self.monitor.text)
        self.monitor.send(json.dumps({"execute": name, "arguments": arguments}))
        answer = self.monitor.expect(r'^\{"(return|error)".*$', since)
        assert answer[1] == "return", answer[0]

    def shell(self, line: str, expected: str) -> None:
        """Type a line in the guest's shell and wait for what it prints (the echo of the line does not count)."""
        since = len(self.serial.text)
        self.serial.send(line)
        self.serial.expect(f"^(?:tiny# )*{expected}", since)

    def plug_disk(self, path: Path) -> None:
        self.command("blockdev-add", **{"driver": "file", "node-name": "extra", "filename": str(path)})
        self.command("device_add", driver="virtio-blk-pci", id="disk", drive="extra", bus="port3", serial="hot")

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.serial.ours.close()
        self.monitor.ours.close()


@pytest.fixture
def booted(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest that is up; the parameter, if any, is further options of QEMU."""
    with closing(Guest(*getattr(request, "param", ()))) as running:
        running.serial.expect("tiny: up$")
        yield running


@pytest.fixture
def seed(tmp_path: Path) -> Path:
    """A NoCloud seed with the user-data `#cloud-config`."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
    for name, content in (("user-data", b"#cloud-config\n"), ("meta-data", b"instance-id: one\n")):
        short = name.upper().replace("-", "_")
        iso.add_fp(io.BytesIO(content), len(content), f"/{short}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(tmp_path / "seed.raw"))
    iso.close()
    return tmp_path / "seed.raw"


def firmware_options(firmware: str, directory: Path) -> list[str]:
    if firmware == "bios":
        return []
    variables = directory / "variables.fd"
    variables.write_bytes((OVMF / "OVMF_VARS_4M.fd").read_bytes())
    flash = "if=pflash,format=raw"
    return ["-drive", f"{flash},readonly=on,file={OVMF}/OVMF_CODE_4M.fd", "-drive", f"{flash},file={variables}"]


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_boots_and_tells_what_it_has(firmware: str, seed: Path, tmp_path: Path) -> None:
    options = firmware_options(firmware, tmp_path)
    options += [
        "-netdev",
        "user,id=net",
        "-device",
        "virtio-net-pci,netdev=net,bus=port2,mac=02:00:00:00:00:07,romfile=",
    ]
    options += ["-drive", f"if=none,id=seed,file={seed},format=raw", "-device", "virtio-blk-pci,drive=seed,bus=port4"]
    ignition = tmp_path / "ignition"
    ignition.write_bytes(b'{"ignition": {"version": "3.4.0"}}')
    options += ["-fw_cfg", f"name=opt/com.coreos/config,file={ignition}"]
    with closing(Guest(*options)) as running:
        running.serial.expect("tiny: up$")
        before_up = running.serial.text
        running.serial.expect(r"tiny: nic eth0 ip=10\.0\.2\.15$")
    assert "tiny: disk vda serial=the-image size=25165824\n" in before_up
    assert "tiny: pci vda 0000:01:00.0\n" in before_up
    assert "tiny: nic eth0 mac=02:00:00:00:00:07 address=0000:02:00.0\n" in before_up
    assert "tiny: pci eth0 0000:02:00.0\n" in before_up
    assert f"tiny: ignition sha256={hashlib.sha256(ignition.read_bytes()).hexdigest()}\n" in before_up
    assert f"tiny: seed sha256={hashlib.sha256(b'#cloud-config' + bytes([10])).hexdigest()}\n" in before_up


def test_tells_of_devices_that_come_and_go_unless_deaf(booted: Guest, tmp_path: Path) -> None:
    disk = tmp_path / "extra.raw"
    with disk.open("wb") as file:
        file.truncate(4 << 20)
    booted.plug_disk(disk)
    booted.serial.expect("tiny: disk vdb serial=hot size=4194304$")
    booted.serial.expect("tiny: pci vdb 0000:03:00.0$")

    booted.shell("deaf-unplug", "tiny: deaf to unplug$")
    booted.command("device_del", id="disk")
    booted.shell("facts", "tiny: disk vdb serial=hot size=4194304$")
    assert "gone" not in booted.serial.text
    booted.shell("hear-unplug", "tiny: hears unplug$")
    booted.serial.expect("tiny: disk vdb gone$")
    booted.monitor.expect('"DEVICE_DELETED".*"device": "disk"')

    booted.command("netdev_add", type="user", id="net")
    booted.command("device_add", driver="virtio-net-pci", id="nic", netdev="net", bus="port2", mac="02:00:00:00:00:08")
    booted.serial.expect("tiny: nic eth0 mac=02:00:00:00:00:08 address=0000:02:00.0$")
    booted.serial.expect(r"tiny: nic eth0 ip=10\.0\.2\.15$")
    booted.command("device_del", id="nic")
    booted.serial.expect("tiny: nic eth0 gone$")


def test_halts_on_the_power_button_unless_deaf(booted: Guest) -> None:
    booted.shell("deaf-button", "tiny: deaf to the power button$")
    booted.command("system_powerdown")
    booted.shell("hear-button", "tiny: hears the power button$")
    booted.shell("facts", "tiny: disk vda ")
    assert "tiny: power button" not in booted.serial.text
    booted.command("system_powerdown")
    booted.serial.expect("tiny: power button$")
    assert booted.process.wait(DEADLINE) == 0


@pytest.mark.parametrize(
    "booted",
    [["-fw_cfg", "name=opt/com.coreos/config,string=tiny.deaf-button tiny.deaf-unplug"]],
    indirect=True,
    ids=["by-ignition-data"],
)
def test_can_be_deaf_from_the_start(booted: Guest, tmp_path: Path) -> None:
    assert "tiny: deaf to unplug\n" in booted.serial.text
    assert "tiny: hears the power button" not in booted.serial.text
    booted.command("system_powerdown")
    booted.shell("facts", "tiny: ignition sha256=")
    assert booted.process.poll() is None
