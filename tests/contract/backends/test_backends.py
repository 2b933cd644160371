"""The backends of the tests themselves: what they serve, and what is left of it when they were frozen or killed."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.backends.ceph import Ceph
from tests.backends.daemon import run, wait_until
from tests.backends.iscsi import Targets
from tests.backends.loop import LoopDevice
from tests.backends.nbd import NbdServer, certificates

MIB = 1 << 20


def name() -> str:
    return f"i{secrets.token_hex(4)}"


def qemu_size(node: Mapping[str, object]) -> int:
    """What QEMU's block layer finds, asked without a key."""
    done = subprocess.run(
        ["qemu-img", "info", "-U", "--output=json", f"json:{json.dumps(node)}"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    size: int = json.loads(done.stdout)["virtual-size"]
    return size


def test_a_cluster_keeps_images_over_an_orderly_restart(ceph: Ceph) -> None:
    image = ceph.image(name(), 4 * MIB)
    data = os.urandom(MIB)
    ceph.write(image, data)
    ceph.osd.stop()
    ceph.monitor.kill()
    ceph.start()
    assert ceph.read(image) == data


def test_a_cluster_forgets_its_data_with_a_killed_osd(ceph: Ceph) -> None:
    """As the docstring says: it has them in memory."""
    image = ceph.image(name(), 4 * MIB)
    ceph.osd.kill()
    ceph.start()
    with pytest.raises(AssertionError, match="No such file or directory"):
        ceph.read(image)


def test_a_cluster_tells_who_has_an_image_open(ceph: Ceph) -> None:
    image = ceph.image(name(), 4 * MIB)
    assert ceph.watchers(image) == []
    with ceph.opened(image) as address:
        assert address.startswith(ceph.address) or address.startswith("127.")
    assert ceph.watchers(image) == []


@pytest.mark.parametrize("version", [1, 2])
def test_an_image_with_a_luks_header_begins_with_it(ceph: Ceph, version: int) -> None:
    image = ceph.luks_image(name(), 8 * MIB, b"secret", 2 if version == 2 else 1)
    assert ceph.read(image)[:8] == b"LUKS\xba\xbe\0" + bytes([version])


def test_targets_are_there_again_after_a_kill(targets: Targets, tmp_path: Path) -> None:
    lun = tmp_path / "lun.raw"
    lun.write_bytes(bytes(3 * MIB))
    node = {"driver": "iscsi", "transport": "tcp", "portal": targets.portal, "lun": 1, "initiator-name": "iqn.x:y"}
    node["target"] = targets.target(name(), [lun])
    assert qemu_size(node) == 3 * MIB
    targets.daemon.kill()
    targets.start()
    assert qemu_size(node) == 3 * MIB
    assert targets.sessions() == 0


def test_an_nbd_server_comes_back_where_it_was(tmp_path: Path) -> None:
    file = tmp_path / "export.raw"
    file.write_bytes(bytes(MIB))
    with NbdServer(file, "e") as server:
        node = {
            "driver": "nbd",
            "server": {"type": "inet", "host": server.host, "port": str(server.port)},
            "export": "e",
        }
        for _ in range(2):
            assert qemu_size(node) == MIB
            server.daemon.freeze()
            with pytest.raises(subprocess.TimeoutExpired):
                subprocess.run(["qemu-img", "info", f"json:{json.dumps(node)}"], timeout=0.3, check=False)
            server.daemon.kill()
            server.start()


def test_an_nbd_server_by_socket_and_one_with_tls(tmp_path: Path) -> None:
    file = tmp_path / "export.raw"
    file.write_bytes(bytes(MIB))
    with NbdServer(file, "e", socket=tmp_path / "sock"):
        node = {"driver": "nbd", "server": {"type": "unix", "path": str(tmp_path / "sock")}, "export": "e"}
        assert qemu_size(node) == MIB
    with NbdServer(file, "e", tls=certificates(tmp_path / "tls", "127.0.0.1")) as server:
        node = {
            "driver": "nbd",
            "server": {"type": "inet", "host": server.host, "port": str(server.port)},
            "export": "e",
        }
        with pytest.raises(AssertionError, match="TLS"):
            qemu_size(node)


def test_a_loop_device_is_a_block_device_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"begin" + bytes(MIB - 5))
    with LoopDevice(file) as device:
        node = tmp_path / "node"
        device.node(node)
        assert node.read_bytes()[:5] == b"begin"
        os.truncate(file, 2 * MIB)
        device.grown()
        assert len(node.read_bytes()) == 2 * MIB
    wait_until(lambda: file.name not in run(["losetup", "--associated", file]).decode(), "it is detached")
