"""A state directory with two machines, written by the real store, and the command line run in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sri_libvirt import log
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import main
from sri_libvirt.devices import NicBackend
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import (
    GIB,
    LABEL_NAME,
    LABEL_NAMESPACE,
    LABEL_UID,
    SECOND,
    Attachment,
    Event,
    Machine,
    MachineClass,
    Reason,
    Run,
    set_class_name,
)
from sri_libvirt.store import Store

WEB = "11111111-aaaa-4000-8000-000000000001"
DB = "11111111-bbbb-4000-8000-000000000002"
SECRET = "hunter2"
NOW = 1_700_000_000 * SECOND


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


Cli = Callable[..., Result]


def machine(machine_id: str, name: str, created_at: int) -> Machine:
    """A machine with a secret in every place that can hold one."""
    volume = pb.Volume(name="data", device="oda")
    volume.connection.driver = "ceph"
    volume.connection.handle = "wwn"
    volume.connection.attributes["monitors"] = f"mon-{SECRET}"
    volume.connection.secret_data["userKey"] = SECRET.encode()
    volume.connection.encryption_data["encryptionKey"] = SECRET.encode()
    nic = pb.NetworkInterface(name="lan", network_id="network://blue", ips=["10.0.0.1"])
    spec = pb.MachineSpec(ignition_data=f"#cloud-config {SECRET}".encode(), volumes=[volume], network_interfaces=[nic])
    spec.image.image = "/images/tiny.raw"
    set_class_name(spec, "c1-m1")
    rows = (
        Attachment(machine_id, "seed", "", 1, b"", True, created_at, "vdzzz", "", "seed", 1),
        Attachment(
            machine_id, "volume", "data", 1, volume.SerializeToString(), True, created_at, "vda", "", "oda-1", 2
        ),
        Attachment(
            machine_id,
            "nic",
            "lan",
            1,
            nic.SerializeToString(),
            True,
            created_at,
            mac=f"02:00:00:00:00:{machine_id[-2:]}",
        ),
    )
    return Machine(
        id=machine_id,
        labels={LABEL_UID: f"uid-{name}", LABEL_NAMESPACE: "default", LABEL_NAME: name},
        annotations={"note": "seen"},
        spec=spec,
        status=pb.MachineStatus(),
        generation=1,
        observed_generation=0,
        created_at=created_at,
        deleted_at=0,
        power_at=created_at,
        machine_class=MachineClass("c1-m1", 1000, GIB),
        attachments=rows,
    )


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def store(state_dir: Path) -> Iterator[Store]:
    """`default/web` runs as it should, `default/db` waits for two reasons."""
    log.set_up("error", "auto")  # what its writer says is no command's
    opened = Store.open(StatePaths(state_dir), lambda: NOW)
    try:
        opened.write(lambda tx: tx.insert(machine(WEB, "web", NOW)))
        opened.write(lambda tx: tx.insert(machine(DB, "db", NOW + SECOND)))
        status = pb.MachineStatus(state=pb.MACHINE_RUNNING, observed_generation=1)
        status.network_interfaces.add(name="lan", handle="network://blue/1", state=pb.NETWORK_INTERFACE_ATTACHED)
        opened.write(
            lambda tx: tx.record_pass(
                WEB, status=status, run=Run(uuid="r", started_at=NOW), reasons=(), observed_generation=1
            )
        )
        opened.write(
            lambda tx: tx.set_backing(WEB, ("nic", "lan", 1), NicBackend("network://blue/1", "network", "blue"))
        )
        reasons = (
            Reason("device-not-ready", "the image is not ready: no such file", "Put it there.", since=NOW),
            Reason("no-port", 'volume "data" has no port [bold]x[/bold]'),
        )
        opened.write(
            lambda tx: tx.record_pass(
                DB,
                status=pb.MachineStatus(),
                run=Run(),
                reasons=reasons,
                observed_generation=1,
                events=[Event("wait", "device-not-ready", "waits for the image", NOW, 2_500_000_000)],
            )
        )
        yield opened
    finally:
        opened.close()


@pytest.fixture
def cli(state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run a command on the state directory, with an environment of its own."""
    monkeypatch.setenv("SRI_LIBVIRT_STATE_DIR", str(state_dir))
    (tmp_path / "empty.toml").touch()
    monkeypatch.setenv("SRI_LIBVIRT_CONFIG", str(tmp_path / "empty.toml"))

    def run(*argv: str) -> Result:
        status = main.run(argv)
        captured = capsys.readouterr()
        return Result(status, captured.out, captured.err)

    return run
