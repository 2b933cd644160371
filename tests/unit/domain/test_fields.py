"""Every field of a spec, of a disk's source and a NIC's link changes the domain, or is named here with why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import (
    BackingFile,
    Bandwidth,
    DiskHost,
    DiskSettings,
    DiskSource,
    Encryption,
    FileIdentity,
    NicBackend,
    SecretReference,
)
from sri_libvirt.domain import compare, profile
from sri_libvirt.domain.render import Renderer
from sri_libvirt.records import GIB, Machine, MachineClass
from tests.unit.domain import samples


def xml(machine: Machine) -> str:
    return Renderer().render(samples.spec_of(machine))


def with_class(name: str, cpu_millis: int, memory_bytes: int) -> Machine:
    machine_class = MachineClass(name, cpu_millis, memory_bytes)
    chosen = profile.choose(
        samples.OFFER, machine_class, domain_type="qemu", cpu=("maximum", ""), firmware="bios", ports=8
    )
    return replace(samples.machine(profile=chosen), machine_class=machine_class)


ONE = samples.machine(samples.image_row(), samples.volume_row("data", "oda"), samples.nic_row("eth", "lan"))

CHANGES: dict[str, tuple[Machine, Machine]] = {
    "image": (samples.machine(), samples.machine(samples.image_row())),
    "class (name)": (with_class("a", 1000, GIB), with_class("b", 1000, GIB)),
    "class (CPU)": (with_class("a", 1000, GIB), with_class("a", 2000, GIB)),
    "class (CPU fraction)": (with_class("a", 1000, GIB), with_class("a", 500, GIB)),
    "class (memory)": (with_class("a", 1000, GIB), with_class("a", 1000, 2 * GIB)),
    "ignition_data": (samples.machine(), samples.machine(ignition=b"{}")),
    "volumes": (samples.machine(), samples.machine(samples.volume_row("data", "oda"))),
    "network_interfaces": (samples.machine(), samples.machine(samples.nic_row("eth"))),
    "volumes.name": (
        samples.machine(samples.volume_row("a", "oda")),
        samples.machine(samples.volume_row("b", "oda")),
    ),
    "volumes.device": (
        samples.machine(samples.volume_row("a", "oda")),
        samples.machine(samples.volume_row("a", "odb")),
    ),
    "volumes.empty_disk.size_bytes": (
        samples.machine(samples.volume_row("a", "oda", GIB)),
        samples.machine(samples.volume_row("a", "oda", 2 * GIB)),
    ),
    "network_interfaces.name": (samples.machine(samples.nic_row("a")), samples.machine(samples.nic_row("b"))),
    "network_interfaces.network_id": (
        samples.machine(samples.nic_row("a", "lan")),
        samples.machine(samples.nic_row("a", "wan")),
    ),
    "network_interfaces.network_id (isolated)": (
        samples.machine(samples.nic_row("a", "lan")),
        samples.machine(samples.nic_row("a")),
    ),
}


@pytest.mark.parametrize("field", CHANGES)
def test_changes_the_domain(field: str) -> None:
    before, after = CHANGES[field]
    assert xml(before) != xml(after)


def _power(machine: Machine) -> None:
    machine.spec.power = pb.POWER_OFF


def _ips(machine: Machine) -> None:
    machine.spec.network_interfaces[0].ips.append("10.0.0.1")


def _attributes(machine: Machine) -> None:
    machine.spec.network_interfaces[0].attributes["key"] = "value"


def _connection(machine: Machine) -> None:
    connection = machine.spec.volumes[0].connection
    connection.driver, connection.handle = "none", "none"
    connection.attributes["a"] = "b"


NO_CHANGE: dict[str, tuple[str, Callable[[Machine], None]]] = {
    "power": ("whether it is started is the loop's business; the persistent domain is the same", _power),
    "network_interfaces.ips": ("what its driver makes of it is rendered: the backing's fields are below", _ips),
    "network_interfaces.attributes": ("the same", _attributes),
    "volumes.connection": ("what its driver makes of it is rendered: the backing's fields are below", _connection),
}


@pytest.mark.parametrize("field", NO_CHANGE)
def test_does_not_change_the_domain(field: str) -> None:
    _, change = NO_CHANGE[field]
    machine = replace(ONE, spec=pb.MachineSpec.FromString(ONE.spec.SerializeToString()))
    change(machine)
    assert machine.spec != ONE.spec
    assert xml(machine) == xml(ONE)


def _leaves(message: type, stop: frozenset[str]) -> set[str]:
    """Field paths of a message, down to where a table names them."""
    found: set[str] = set()
    for field in message.DESCRIPTOR.fields:  # type: ignore[attr-defined]
        if field.message_type is None or field.message_type.GetOptions().map_entry or field.name in stop:
            found.add(field.name)
        else:
            inner = getattr(pb, field.message_type.name)
            found |= {f"{field.name}.{leaf}" for leaf in _leaves(inner, stop)}
    return found


def test_no_field_is_forgotten() -> None:
    named = {field.partition(" ")[0] for field in (*CHANGES, *NO_CHANGE)}
    assert _leaves(pb.MachineSpec, frozenset({"image", "connection"})) <= named


def with_settings(**changes: object) -> DiskSource:
    return replace(samples.FILE, settings=replace(DiskSettings(), **changes))  # type: ignore[arg-type]


SOURCES: dict[str, tuple[DiskSource, DiskSource]] = {
    "DiskSource.path": (samples.FILE, replace(samples.FILE, path="/srv/volumes/other.raw")),
    "DiskSource.format": (samples.FILE, replace(samples.FILE, format="qcow2")),
    "DiskSource.backing": (
        samples.FILE,
        replace(samples.FILE, backing=BackingFile("/base.raw", "raw", FileIdentity(1, 2, 3))),
    ),
    "DiskSource.read_only": (samples.FILE, replace(samples.FILE, read_only=True)),
    "DiskSource.kind": (samples.FILE, replace(samples.FILE, kind="block")),
    "DiskSource.protocol": (samples.NBD, replace(samples.NBD, protocol="iscsi")),
    "DiskSource.name": (samples.NBD, replace(samples.NBD, name="other")),
    "DiskSource.hosts": (samples.RBD, replace(samples.RBD, hosts=samples.RBD.hosts[:1])),
    "DiskSource.user": (samples.RBD, replace(samples.RBD, user="other")),
    "DiskSource.config": (samples.RBD, replace(samples.RBD, config="")),
    "DiskSource.tls": (samples.NBD, replace(samples.NBD, tls=True)),
    "DiskSource.initiator": (samples.ISCSI, replace(samples.ISCSI, initiator="")),
    "DiskSource.reconnect": (samples.NBD, samples.RECONNECTING),
    "DiskSource.encryption": (samples.RBD, replace(samples.RBD, encryption=None)),
    "DiskSource.secrets": (
        samples.RBD,
        replace(samples.RBD, secrets=(samples.AUTH, replace(samples.PASSPHRASE, uuid=samples.ID))),
    ),
    "DiskSettings.cache": (samples.FILE, with_settings(cache="none")),
    "DiskSettings.io": (samples.FILE, with_settings(io="io_uring")),
    "DiskSettings.discard": (samples.FILE, with_settings(discard="ignore")),
    "DiskSettings.detect_zeroes": (samples.FILE, with_settings(detect_zeroes="unmap")),
    "DiskHost.name": (samples.NBD, replace(samples.NBD, hosts=(DiskHost("10.0.0.2"),))),
    "DiskHost.port": (samples.NBD, replace(samples.NBD, hosts=(DiskHost("10.0.0.1", 10810),))),
    "DiskHost.socket": (samples.NBD, replace(samples.NBD, hosts=(DiskHost(socket="/run/nbd.sock"),))),
    "Encryption.engine": (samples.RBD, replace(samples.RBD, encryption=Encryption("qemu", "luks2"))),
    "Encryption.format": (samples.RBD, replace(samples.RBD, encryption=Encryption("librbd", "luks"))),
    "SecretReference.purpose": (
        samples.RBD,
        replace(
            samples.RBD,
            secrets=(replace(samples.AUTH, purpose="encryption"), replace(samples.PASSPHRASE, purpose="auth")),
        ),
    ),
    "SecretReference.uuid": (
        samples.RBD,
        replace(samples.RBD, secrets=(replace(samples.AUTH, uuid=samples.ID), samples.PASSPHRASE)),
    ),
}
NOT_OF_THE_DOMAIN: dict[str, tuple[str, DiskSource]] = {
    "DiskSource.handle": ("what the status reports", replace(samples.RBD, handle="other")),
    "DiskSource.size": ("the guest sees what the backend says", replace(samples.RBD, size=7)),
    "DiskSource.note": ("for the operator", replace(samples.RBD, note="other")),
    "DiskSource.was": ("where a domain of before may still have it", replace(samples.RBD, was=("other",))),
    "DiskSource.device": ("by which the store knows it", replace(samples.RBD, device="block:7:0@boot")),
}
NOT_COMPARED = {
    "DiskSource.backing": "an overlay's own header names its base",
    "DiskSettings.cache": "no guest sees it, and an operator's template may have another; so with the next",
    "DiskSettings.io": "",
    "DiskSettings.discard": "",
    "DiskSettings.detect_zeroes": "",
}


def with_source(source: DiskSource) -> Machine:
    return samples.machine(samples.source_row(source))


@pytest.mark.parametrize("field", SOURCES)
def test_a_field_of_a_source_changes_the_domain_and_is_compared_after_a_define(field: str) -> None:
    before, after = map(with_source, SOURCES[field])
    assert xml(before) != xml(after)
    found = compare.verify(samples.spec_of(before), xml(after))
    assert (found == []) == (field in NOT_COMPARED)


@pytest.mark.parametrize("field", NOT_OF_THE_DOMAIN)
def test_a_field_of_a_source_does_not_change_the_domain(field: str) -> None:
    changed = NOT_OF_THE_DOMAIN[field][1]
    assert changed != samples.RBD
    assert xml(with_source(changed)) == xml(with_source(samples.RBD))


def test_no_field_of_a_source_is_forgotten() -> None:
    shapes = (DiskSource, DiskSettings, DiskHost, Encryption, SecretReference)
    named = {*SOURCES, *NOT_OF_THE_DOMAIN, "DiskSource.settings"}
    assert {f"{shape.__name__}.{each.name}" for shape in shapes for each in fields(shape)} == named


BRIDGE, OVS, SHAPED = samples.NICS["bridge"], samples.NICS["ovs"], samples.NICS["shaped"]
FILTERED, DIRECT = samples.NICS["filtered"], samples.NICS["direct"]
LINKS: dict[str, tuple[NicBackend, NicBackend]] = {
    "NicBackend.kind": (samples.NICS["tap"], replace(samples.NICS["tap"], kind="direct", mode="bridge")),
    "NicBackend.network": (FILTERED, replace(FILTERED, network="other")),
    "NicBackend.device": (DIRECT, replace(DIRECT, device="other")),
    "NicBackend.bridge": (BRIDGE, replace(BRIDGE, bridge="other")),
    "NicBackend.vlan": (BRIDGE, replace(BRIDGE, vlan=7)),
    "NicBackend.trunk": (BRIDGE, replace(BRIDGE, trunk=(7,))),
    "NicBackend.isolated_port": (BRIDGE, replace(BRIDGE, isolated_port=True)),
    "NicBackend.filter": (BRIDGE, replace(BRIDGE, filter="sri-libvirt-1-any")),
    "NicBackend.addresses": (FILTERED, replace(FILTERED, addresses=FILTERED.addresses[:2])),
    "NicBackend.mode": (DIRECT, replace(DIRECT, mode="private")),
    "NicBackend.interface_id": (OVS, replace(OVS, interface_id=samples.ID)),
    "NicBackend.mtu": (BRIDGE, replace(BRIDGE, mtu=9000)),
    "NicBackend.queues": (BRIDGE, replace(BRIDGE, queues=2)),
    "NicBackend.bandwidth": (SHAPED, replace(SHAPED, bandwidth=None)),
    "Bandwidth.average": (SHAPED, replace(SHAPED, bandwidth=Bandwidth(1 << 20, 20 << 20, 1 << 20))),
    "Bandwidth.peak": (SHAPED, replace(SHAPED, bandwidth=Bandwidth(10 << 20, 0, 1 << 20))),
    "Bandwidth.burst": (SHAPED, replace(SHAPED, bandwidth=Bandwidth(10 << 20, 20 << 20))),
}
HOW_FAST = {"NicBackend.mtu", "NicBackend.queues", "NicBackend.bandwidth"} | {
    each for each in LINKS if "width." in each
}
"""An operator's template may have others."""

NOT_OF_THE_LINK: dict[str, tuple[str, NicBackend]] = {
    "NicBackend.handle": ("what the status reports", replace(BRIDGE, handle="other")),
    "NicBackend.note": ("for the operator", replace(BRIDGE, note="other")),
    "NicBackend.address": ("the network's to give", replace(BRIDGE, address="10.0.0.7")),
    "NicBackend.address6": ("the same", replace(BRIDGE, address6="2001:db8::7")),
    "NicBackend.duid": ("for that", replace(BRIDGE, duid="00:03:00:01")),
    "NicBackend.driver": ("whose it is", replace(BRIDGE, driver="other")),
}


def with_link(backend: NicBackend) -> Machine:
    return samples.machine(samples.nic_row("eth", backing=backend))


@pytest.mark.parametrize("field", LINKS)
def test_a_field_of_a_link_changes_the_domain_and_is_compared_after_a_define(field: str) -> None:
    before, after = map(with_link, LINKS[field])
    assert xml(before) != xml(after)
    found = compare.verify(samples.spec_of(before), xml(after))
    assert (found == []) == (field in HOW_FAST)


@pytest.mark.parametrize("field", NOT_OF_THE_LINK)
def test_a_field_of_a_link_does_not_change_the_domain(field: str) -> None:
    changed = NOT_OF_THE_LINK[field][1]
    assert changed != BRIDGE
    assert xml(with_link(changed)) == xml(with_link(BRIDGE))


def test_no_field_of_a_link_is_forgotten() -> None:
    named = {*LINKS, *NOT_OF_THE_LINK}
    assert {f"{shape.__name__}.{each.name}" for shape in (NicBackend, Bandwidth) for each in fields(shape)} == named


def test_addresses_that_no_filter_is_told_of_do_not_change_the_domain() -> None:
    assert xml(with_link(replace(BRIDGE, addresses=("10.0.0.7",)))) == xml(with_link(BRIDGE))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (replace(samples.RBD, protocol=""), "ceph/0badcafe: a network disk without a protocol"),
        (replace(samples.RBD, secrets=(samples.AUTH,)), "ceph/0badcafe: no secret is named for its encryption"),
        (replace(samples.RBD, secrets=(samples.PASSPHRASE,)), "ceph/0badcafe: no secret is named for its auth"),
    ],
)
def test_a_source_that_lacks_what_it_needs_is_a_drivers_mistake(source: DiskSource, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        samples.spec_of(with_source(source))


@pytest.mark.rule("R-A4-7")
def test_the_list_order_of_devices_does_not_matter() -> None:
    rows = [samples.volume_row("b", "odb"), samples.nic_row("n"), samples.volume_row("a", "oda"), samples.image_row()]
    assert xml(samples.machine(*rows)) == xml(samples.machine(*reversed(rows)))
