"""The backends of tests where guests run: QEMU of the private libvirtd reaches them, and no one outside does."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.backends.ceph import Ceph
from tests.backends.iscsi import Targets
from tests.backends.loop import LoopDevice
from tests.backends.nbd import NbdServer
from tests.e2e.libvirtd import PrivateLibvirt

MIB = 1 << 20

pytestmark = pytest.mark.e2e


def size_inside(private_libvirt: PrivateLibvirt, node: Mapping[str, object]) -> int:
    size: int = json.loads(private_libvirt.run(["qemu-img", "info", "--output=json", f"json:{json.dumps(node)}"]))[
        "virtual-size"
    ]
    return size


def test_ceph_serves_inside_alone(private_libvirt: PrivateLibvirt, ceph: Ceph) -> None:
    image = ceph.image(secrets.token_hex(4), 8 * MIB)
    node = {"driver": "rbd", "pool": "vms", "image": image.partition("/")[2], "conf": str(ceph.root / "ceph.conf")}
    assert size_inside(private_libvirt, node) == 8 * MIB
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((ceph.address, 6789))


def test_iscsi_serves_inside_alone(private_libvirt: PrivateLibvirt, targets: Targets, tmp_path: Path) -> None:
    lun = tmp_path / "lun.raw"
    lun.write_bytes(bytes(MIB))
    node = {"driver": "iscsi", "transport": "tcp", "portal": targets.portal, "lun": 1}
    target = targets.target(secrets.token_hex(4), [lun])
    assert size_inside(private_libvirt, {**node, "target": target, "initiator-name": "iqn.x:y"}) == MIB
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((targets.address, int(targets.portal.rpartition(":")[2])))


def test_nbd_serves_inside_alone(private_libvirt: PrivateLibvirt, tmp_path: Path) -> None:
    file = tmp_path / "export.raw"
    file.write_bytes(bytes(MIB))
    with NbdServer(file, "e", private_libvirt.inside) as server:
        node = {
            "driver": "nbd",
            "server": {"type": "inet", "host": server.host, "port": str(server.port)},
            "export": "e",
        }
        assert size_inside(private_libvirt, node) == MIB
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((server.host, server.port))


def test_a_loop_device_is_there_inside(private_libvirt: PrivateLibvirt, tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(bytes(MIB))
    with LoopDevice(file) as device:
        path = Path("/dev/disk-of-test")
        device.node(path, private_libvirt.inside)
        try:
            assert size_inside(private_libvirt, {"driver": "host_device", "filename": str(path)}) == MIB
        finally:
            private_libvirt.run(["rm", path])
        assert not path.exists()
