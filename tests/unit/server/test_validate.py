"""Checks of a request by itself: they refuse or do nothing, and never change what they look at."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.server import validate

TEXT = st.text(max_size=8)


class Everything:
    """Drivers that take whatever comes."""

    def check_volume(self, volume: pb.Volume) -> None: ...

    def check_nic(self, nic: pb.NetworkInterface) -> None: ...

    def check_image(self, image: str) -> None: ...

    def mac_asked(self, nic: pb.NetworkInterface) -> str:
        return ""


class Nothing(Everything):
    """Drivers that refuse, each with another kind of relative path."""

    def check_volume(self, volume: pb.Volume) -> None:
        raise InvalidSpec("connection.handle", "no")

    def check_nic(self, nic: pb.NetworkInterface) -> None:
        raise InvalidSpec("[x]", "no")

    def check_image(self, image: str) -> None:
        raise InvalidSpec("", "no")


def accepted(character: str) -> bool:
    try:
        validate.text("x", character)
    except InvalidSpec:
        return False
    return True


def test_text_is_what_xml_can_hold() -> None:
    """Asked of lxml itself, for every character but the surrogates, which protobuf cannot hold."""

    def holds(character: str) -> bool:
        try:
            etree.Element("x").text = character
        except ValueError:
            return False
        return True

    characters = [chr(code) for code in [*range(0xD800), *range(0xE000, 0x10000), 0x10000, 0x1FFFE, 0x10FFFF]]
    assert [each for each in characters if accepted(each) != holds(each)] == []
    assert not accepted("\ud800")


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "fd00::1", "::ffff:1.2.3.4", "fe80::1%eth0", "0.0.0.0"],
)
def test_addresses_as_go_writes_them(address: str) -> None:
    validate.nic("nic", pb.NetworkInterface(name="n", ips=[address]), Everything())


@pytest.mark.parametrize("address", ["", " 10.0.0.1", "10.0.0.1 ", "10.0.0.01", "1", "10.0.0.1/8", "a.b", "١.1.1.1"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidSpec, match=r"nic.ips\[0\]: "):
        validate.nic("nic", pb.NetworkInterface(name="n", ips=[address]), Everything())


def test_a_drivers_path_is_made_whole() -> None:
    volume = pb.Volume(name="v", empty_disk=pb.EmptyDisk())
    with pytest.raises(InvalidSpec, match=r"^m\.v\[0\]\.connection\.handle: no$"):
        validate.volume("m.v[0]", volume, Nothing())
    with pytest.raises(InvalidSpec, match=r"^nic\[x\]: no$"):
        validate.nic("nic", pb.NetworkInterface(name="n", network_id="a"), Nothing())
    spec = pb.MachineSpec(image=pb.ImageSpec(image="i"), **{"class": "c"})  # type: ignore[arg-type]
    with pytest.raises(InvalidSpec, match=r"^spec\.image\.image: no$"):
        validate.machine_spec("spec", spec, Nothing())


def test_a_nic_without_network_is_shown_to_no_driver() -> None:
    validate.nic("nic", pb.NetworkInterface(name="n"), Nothing())


@pytest.mark.rule("R-G3-2")
def test_the_size_leaves_ignition_out() -> None:
    spec = pb.MachineSpec(ignition_data=b"x" * validate.IGNITION_BYTES)
    validate.size("machine", {}, {}, spec)
    with pytest.raises(InvalidSpec, match="without ignition data"):
        validate.size("machine", {}, {"a": "x" * validate.MACHINE_BYTES}, spec)
    assert len(spec.ignition_data) == validate.IGNITION_BYTES


volumes = st.builds(
    pb.Volume,
    name=TEXT,
    device=st.sampled_from(["", "oda", "odb", "x"]),
    empty_disk=st.none() | st.builds(pb.EmptyDisk, size_bytes=st.integers(-1, 5)),
    connection=st.none() | st.builds(pb.VolumeConnection, driver=TEXT, attributes=st.dictionaries(TEXT, TEXT)),
)
nics = st.builds(pb.NetworkInterface, name=TEXT, network_id=TEXT, ips=st.lists(st.sampled_from(["10.0.0.1", "x"])))
specs = st.builds(
    lambda **fields: pb.MachineSpec(**{"class": "c", **fields}),
    power=st.integers(0, 3),
    image=st.none() | st.builds(pb.ImageSpec, image=TEXT),
    volumes=st.lists(volumes, max_size=4),
    network_interfaces=st.lists(nics, max_size=3),
)


@given(specs)
@pytest.mark.rule("R-A4-1", "R-A4-5")
def test_nothing_is_ever_normalised(spec: pb.MachineSpec) -> None:
    machine = pb.Machine(spec=spec)
    before = pb.Machine.FromString(machine.SerializeToString())
    with suppress(InvalidSpec):
        validate.machine("machine", machine, Everything())
    assert machine == before
    assert machine.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)
