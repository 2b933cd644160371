"""Exactly one driver per volume, and third parties' drivers that cannot be used."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import ConfigError, InvalidSpec
from sri_libvirt.volumes.empty_disk import EmptyDisks
from sri_libvirt.volumes.registry import GROUP, VolumeRegistry

EMPTY = pb.Volume(name="v", empty_disk=pb.EmptyDisk())
UNKNOWN = pb.Volume(name="v", connection=pb.VolumeConnection(driver="sheepdog", handle="h"))


OURS = "block, ceph, empty_disk, file, iscsi, nbd"


class Third(EmptyDisks):
    """A third party's driver."""

    name = "third"

    def supports(self, volume: pb.Volume) -> bool:
        return volume.connection.driver == "third"


class Greedy(Third):
    """One that takes everything."""

    name = "greedy"

    def supports(self, volume: pb.Volume) -> bool:
        return True


def nameless() -> object:
    return SimpleNamespace(supports=1, validate=print, handle=print, prepare=print, release=print)


def broken() -> object:
    raise RuntimeError("needs a licence")


def point(attribute: str, module: str = __name__) -> EntryPoint:
    return EntryPoint(name="their-point", value=f"{module}:{attribute}", group=GROUP)


def test_ours() -> None:
    assert VolumeRegistry.load([]).select(EMPTY).name == "empty_disk"


def test_an_unknown_driver_is_named_with_what_is_supported() -> None:
    with pytest.raises(InvalidSpec, match=rf'connection\.driver: .*"sheepdog"; supported: {OURS}$') as caught:
        VolumeRegistry.load([]).select(UNKNOWN)
    assert caught.value.field == "connection.driver"


def test_neither_source() -> None:
    with pytest.raises(InvalidSpec, match=f"supported: {OURS}$"):
        VolumeRegistry.load([]).select(pb.Volume(name="v"))


def test_a_third_partys_driver() -> None:
    registry = VolumeRegistry([EmptyDisks(), Third()])
    assert registry.select(pb.Volume(connection=pb.VolumeConnection(driver="third"))).name == "third"
    assert [driver.name for driver in registry.drivers] == ["empty_disk", "third"]


def test_two_that_match() -> None:
    with pytest.raises(InvalidSpec, match="several drivers take it: empty_disk, greedy"):
        VolumeRegistry([EmptyDisks(), Greedy()]).select(EMPTY)


def test_two_of_one_name() -> None:
    with pytest.raises(ConfigError, match="two volume drivers are called empty_disk"):
        VolumeRegistry([EmptyDisks(), EmptyDisks()])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (point("x", "no_such_module"), "cannot be loaded: ModuleNotFoundError"),
        (point("no_such_thing", "os"), "cannot be loaded: AttributeError"),
        (point("getcwd", "os"), "is none: it lacks supports"),
        (point("sep", "os"), "cannot be loaded: TypeError"),
    ],
)
def test_one_that_cannot_be_used_is_named(entry: EntryPoint, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"their-point .*{words}"):
        VolumeRegistry.load([entry])


@pytest.mark.parametrize(("factory", "words"), [(broken, "needs a licence"), (nameless, "lacks supports")])
def test_one_that_fails_is_named(factory: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda _: factory)
    with pytest.raises(ConfigError, match=rf"their-point .*{words}"):
        VolumeRegistry.load([point("x")])


def test_a_usable_one_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda _: Third)
    assert VolumeRegistry.load([point("x")]).drivers[-1].name == "third"
