"""Drivers of an installed distribution are found by their entry points and keep the contract of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.nics.base import NicDriver
from sri_libvirt.nics.registry import NicRegistry
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.base import VolumeDriver
from sri_libvirt.volumes.registry import VolumeRegistry
from tests import third_party
from tests.contract.plugins import test_contract as contract
from tests.contract.plugins.conftest import MACHINE


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The distribution on sys.path, and samples of what its drivers take; the backend's directory."""
    monkeypatch.syspath_prepend(third_party.install(tmp_path / "site"))
    backend = tmp_path / "backend"
    backend.mkdir()
    monkeypatch.setitem(contract.VOLUMES, "example-file", volume(backend))
    monkeypatch.setitem(contract.VOLUMES, "example-locked", locked(backend))
    nic = pb.NetworkInterface(name="eth", network_id="example://lan")
    monkeypatch.setitem(contract.NICS, "example-link", nic)
    return backend


def volume(backend: Path, key: bytes = b"key") -> pb.Volume:
    return pb.Volume(
        name="data",
        device="oda",
        connection=pb.VolumeConnection(
            driver="example-file",
            handle="4711",
            attributes={"directory": str(backend), "size": str(contract.SIZE)},
            secret_data={"key": key},
        ),
    )


def locked(backend: Path) -> pb.Volume:
    path = backend / "locked.raw"
    path.write_bytes(b"LUKS\xba\xbe")
    return pb.Volume(
        name="data",
        device="oda",
        connection=pb.VolumeConnection(
            driver="example-locked",
            handle="4712",
            attributes={"path": str(path), "size": str(contract.SIZE)},
            encryption_data={"key": b"open sesame"},
        ),
    )


@pytest.mark.parametrize("name", ["example-file", "example-locked"])
class TestVolumes(contract.VolumeContract):
    def driver(self, name: str) -> VolumeDriver:
        return VolumeRegistry.load().select(contract.VOLUMES[name])


@pytest.mark.parametrize("name", ["example-link"])
class TestNics(contract.NicContract):
    def driver(self, name: str) -> NicDriver:
        return NicRegistry.load().select(contract.NICS[name])


def test_a_backend_that_is_not_there_yet_and_one_that_is(paths: MachinePaths, tmp_path: Path, installed: Path) -> None:
    registry = VolumeRegistry.load()
    missing = volume(tmp_path / "later")
    driver = registry.select(missing)
    driver.validate(missing)
    for wanted in (missing, volume(installed, key=b"")):
        with pytest.raises(NotReady):
            driver.prepare(MACHINE, wanted, paths)
    source = driver.prepare(MACHINE, volume(installed), paths)
    driver.release(MACHINE, volume(installed), paths, final=True)
    assert Path(source.path).exists(), "a backend's data is not ours to remove"


def test_what_is_wrong_in_itself_is_refused_with_its_field(installed: Path) -> None:
    wrong = volume(installed)
    wrong.connection.handle = "../escape"
    with pytest.raises(InvalidSpec, match=r"^connection\.handle: "):
        VolumeRegistry.load().select(wrong).validate(wrong)
    with pytest.raises(InvalidSpec, match="there is no volume driver"):
        VolumeRegistry.load([]).select(wrong)
