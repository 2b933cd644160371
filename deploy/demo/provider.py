"""The demo's provider: a process on a private socket and state directory, and a client that knows only the .proto.

Clearing up what machines leave on the host does not belong here.
"""

from __future__ import annotations

import os
import string
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc
import yaml
from google.protobuf import json_format

from deploy.demo.host import DemoFailed, end_process
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.api.machine.v1alpha1.api_pb2_grpc import MachineRuntimeStub
from sri_libvirt.paths import StatePaths

T = TypeVar("T")

SAMPLE = Path(__file__).with_name("machine.yaml")
RPC = 10.0
"""Seconds that an answer may take; milliseconds are usual."""


class Provider:
    """`sri-libvirt serve` below a directory, and its SRI."""

    def __init__(self, directory: Path) -> None:
        self.paths = StatePaths(directory / "state")
        self.images = directory / "images"
        self.log = directory / "provider.log"
        self._socket = directory / "sri.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._channel = grpc.insecure_channel(f"unix://{self._socket}")
        self._sri = MachineRuntimeStub(self._channel)

    def start(self) -> pb.VersionResponse:
        """Start it and wait until it answers. Settings of a provider that this host may have are not read."""
        no_settings = self.log.with_name("no-settings.toml")
        no_settings.touch()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SRI_LIBVIRT_")}
        argv = [
            "setpriv", "--pdeathsig", "TERM",  # it must not outlive a demo that is killed
            sys.executable, "-m", "sri_libvirt", "serve", "--config", str(no_settings),
            "--address", f"unix://{self._socket}", "--state-dir", str(self.paths.root),
            "--image-dir", str(self.images), "--streaming-address", "127.0.0.1:0",
            # Guests with UEFI firmware crash QEMU's emulation of a host that is itself emulated (make vm).
            "--firmware", os.environ.get("DEMO_FIRMWARE", "auto"),
            "--disk-overcommit", "20", "--reserved-memory", "0",  # the demo fits on hosts that sell nothing
        ]  # fmt: skip
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C is for the demo alone.
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env=environment, start_new_session=True)
        return self.wait("the provider answers", self._version, 60)

    def stop(self) -> int:
        """End it in order; 0 when it was never started."""
        self._channel.close()
        return end_process(self._process, 30) if self._process else 0

    def wait(self, what: str, look: Callable[[], T | None], seconds: float) -> T:
        """Look again and again until there is something to see. Raises DemoFailed, also when the provider ends."""
        end = time.monotonic() + seconds
        while (seen := look()) is None:
            if self._process is not None and self._process.poll() is not None:
                raise DemoFailed(f"the provider ended with status {self._process.returncode}")
            if time.monotonic() > end:
                raise DemoFailed(f"waited {seconds:g} s in vain: {what}")
            time.sleep(0.1)
        return seen

    def _version(self) -> pb.VersionResponse | None:
        try:
            version: pb.VersionResponse = self._sri.Version(pb.VersionRequest(), timeout=RPC)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                return None
            raise
        return version

    def classes(self) -> list[pb.MachineClassStatus]:
        return list(self._sri.Status(pb.StatusRequest(), timeout=RPC).machine_class_status)

    def create(self, values: dict[str, str]) -> pb.Machine:
        """Create the sample machine with these values for its `${...}`."""
        text = string.Template(SAMPLE.read_text()).substitute(values)
        machine = json_format.ParseDict(yaml.safe_load(text), pb.Machine())
        reply: pb.CreateMachineResponse = self._sri.CreateMachine(pb.CreateMachineRequest(machine=machine), timeout=RPC)
        return reply.machine

    def machine(self, machine_id: str) -> pb.Machine | None:
        """The machine, or None when it is gone."""
        request = pb.ListMachinesRequest(filter=pb.MachineFilter(id=machine_id))
        found = self._sri.ListMachines(request, timeout=RPC).machines
        return found[0] if found else None

    def attach(self, machine_id: str, volume: pb.Volume, nic: pb.NetworkInterface) -> None:
        self._sri.AttachVolume(pb.AttachVolumeRequest(machine_id=machine_id, volume=volume), timeout=RPC)
        request = pb.AttachNetworkInterfaceRequest(machine_id=machine_id, network_interface=nic)
        self._sri.AttachNetworkInterface(request, timeout=RPC)

    def detach(self, machine_id: str, volume: pb.Volume, nic: pb.NetworkInterface) -> None:
        self._sri.DetachVolume(pb.DetachVolumeRequest(machine_id=machine_id, name=volume.name), timeout=RPC)
        request = pb.DetachNetworkInterfaceRequest(machine_id=machine_id, name=nic.name)
        self._sri.DetachNetworkInterface(request, timeout=RPC)

    def power(self, machine_id: str, power: pb.Power) -> None:
        self._sri.UpdateMachinePower(pb.UpdateMachinePowerRequest(machine_id=machine_id, power=power), timeout=RPC)

    def delete(self, machine_id: str) -> None:
        self._sri.DeleteMachine(pb.DeleteMachineRequest(machine_id=machine_id), timeout=RPC)

    def console(self, machine_id: str) -> str:
        """All that the guest wrote on its serial console so far."""
        try:
            return self.paths.machine(machine_id).console_log.read_text(errors="replace").replace("\r", "")
        except FileNotFoundError:
            return ""

    def why(self, machine_id: str) -> str:
        """What the provider's own command line says about a machine."""
        argv = [sys.executable, "-m", "sri_libvirt", "machine", "why", machine_id, "--state-dir", str(self.paths.root)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        return (done.stdout + done.stderr).strip()
