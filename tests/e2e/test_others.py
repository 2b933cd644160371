"""What others do to our domains with libvirt's own tools: no data of a guest is lost, and nothing stays broken."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import libvirt
import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.nics.isolated import tap_name
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, type_line, wait_for

pytestmark = pytest.mark.e2e

NO_METADATA = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA


def take_snapshot(provider: Provider, machine_id: str, overlay: Path) -> None:
    """As a backup tool does of the machine's volume, whose commit is late."""
    xml = (
        "<domainsnapshot><disks><disk name='vdaaa' snapshot='no'/>"
        f"<disk name='vda' snapshot='external'><source file='{overlay}'/></disk></disks></domainsnapshot>"
    )
    with provider.domain(machine_id) as domain:
        domain.snapshotCreateXML(xml, NO_METADATA)


def commit(provider: Provider, machine_id: str) -> None:
    """As `virsh blockcommit --active --pivot`."""
    with provider.domain(machine_id) as domain:
        domain.blockCommit("vda", None, None, 0, libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE)
        wait_for("all data copied", lambda: "ready='yes'" in domain.XMLDesc(0))
        domain.blockJobAbort("vda", libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def in_guest(provider: Provider, machine_id: str, line: str, answer: str) -> None:
    """Type a line into the guest's shell until it has answered."""
    said = len(provider.console(machine_id))
    type_line(provider.libvirt.uri, machine_id, line, lambda: answer in provider.console(machine_id)[said:])


READ = "dd if=/dev/vdb bs=16 count=1 2>/dev/null | tr -d '\\0' | sed s/^/read-/"


def test_a_guest_is_never_started_from_before_somebodys_snapshot(provider: Provider, tiny_image: Path) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, disks={"data": "oda"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    overlay = provider.libvirt.directory("backup") / "data.snap"
    take_snapshot(provider, machine_id, overlay)
    in_guest(provider, machine_id, "echo newest | dd of=/dev/vdb conv=sync bs=512 oflag=direct; echo $((6*7))x", "42x")
    provider.kill()
    provider.start_again()
    wait_for("the reason", lambda: provider.reasons(machine_id) == {"foreign-disk-source"})
    assert provider.state_of(machine_id) == "MACHINE_RUNNING"
    assert str(overlay) in provider.why(machine_id)

    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    provider.power(machine_id, pb.POWER_ON)
    wait_for("a look at it", lambda: provider.reasons(machine_id) == {"foreign-disk-source"})
    provider.wait_state(machine_id, "MACHINE_PENDING")
    assert not provider.domain_active(machine_id)

    # The way out that the reason names.
    assert f"virsh start {machine_id}" in provider.why(machine_id)
    with provider.domain(machine_id) as domain:
        domain.create()
    provider.wait_console(machine_id, "tiny: up", count=2)
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    in_guest(provider, machine_id, READ, "read-newest")
    commit(provider, machine_id)
    wait_for("no reason", lambda: not provider.reasons(machine_id))
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    overlay.unlink()
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_console(machine_id, "tiny: up", count=3)
    in_guest(provider, machine_id, READ, "read-newest")


def test_a_define_by_others_does_not_lose_where_the_guest_writes(provider: Provider, tiny_image: Path) -> None:
    """A domain that was defined over, by an older provider or by hand, follows its guest; a move goes with it."""
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, disks={"data": "oda"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    overlay = provider.libvirt.directory("backup") / "data.snap"
    with provider.domain(machine_id) as domain:
        before = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        take_snapshot(provider, machine_id, overlay)
        domain.connect().defineXML(before)
        wait_for("the chain", lambda: str(overlay) in domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))
    wait_for("event", lambda: "followed" in {event.reason for event in provider.events(machine_id)})
    provider.delete(machine_id)
    wait_for("end of the machine", lambda: provider.get(machine_id) is None)
    (left,) = [event for event in provider.events(machine_id) if event.kind == "left"]
    assert str(overlay) in left.message
    assert overlay.exists()


def master(private: PrivateLibvirt, device: str) -> str:
    return private.run(["sh", "-c", f"readlink /sys/class/net/{device}/master || true"]).strip()


def tap(provider: Provider, machine_id: str) -> str:
    """The host's end of the machine's only NIC; "" while it has none."""
    with provider.domain(machine_id) as domain:
        found = re.search(r"<interface.*?<target dev='(\S+)'", domain.XMLDesc(0), re.S)
    return found[1] if found else ""


def nics(provider: Provider, machine_id: str) -> list[str]:
    machine = provider.get(machine_id)
    assert machine is not None
    return [pb.NetworkInterfaceState.Name(each.state) for each in machine.status.network_interfaces]


def test_a_network_that_was_stopped_and_started_has_its_guests_again(
    provider: Provider, private_libvirt: PrivateLibvirt, network: str, tiny_image: Path
) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, nics={"nic": network})).metadata.id
    provider.wait_console(machine_id, "tiny: nic eth0 ip=")
    wait_for("attached", lambda: nics(provider, machine_id) == ["NETWORK_INTERFACE_ATTACHED"])
    assert master(private_libvirt, tap(provider, machine_id)) == f"../br-{network}"

    private_libvirt.remove_network(network)
    wait_for("pending", lambda: nics(provider, machine_id) == ["NETWORK_INTERFACE_PENDING"], 60)
    wait_for("why", lambda: provider.reasons(machine_id) == {"nic-astray", "device-not-ready"})
    assert "nic eth0 gone" not in provider.console(machine_id), "taken from the guest while there is no other place"

    private_libvirt.network(network)
    provider.wait_console(machine_id, "tiny: nic eth0 gone", seconds=60)
    provider.wait_console(machine_id, "tiny: nic eth0 ip=", count=2, seconds=60)
    wait_for("attached", lambda: nics(provider, machine_id) == ["NETWORK_INTERFACE_ATTACHED"])
    wait_for("no reason", lambda: not provider.reasons(machine_id))
    assert master(private_libvirt, tap(provider, machine_id)) == f"../br-{network}"


def test_a_guest_of_an_older_version_gets_a_link_without_the_host(provider: Provider, tiny_image: Path) -> None:
    """Which had its isolated NIC on a tap of libvirt's own: up, and with the host on it."""
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(image=tiny_image, nics={"nic": "isolated"})).metadata.id
    provider.wait_console(machine_id, "tiny: up")
    wait_for("attached", lambda: nics(provider, machine_id) == ["NETWORK_INTERFACE_ATTACHED"])
    provider.stop()
    ours = tap_name(machine_id, pb.NetworkInterface(name="nic"))
    with provider.domain(machine_id) as domain:
        nic = re.search(r"<interface.*?</interface>", domain.XMLDesc(0), re.S)
        assert nic is not None
        alias = re.search(r"ua-nic-\S+-1", nic[0])
        assert alias is not None
        domain.detachDeviceAlias(alias[0], libvirt.VIR_DOMAIN_AFFECT_LIVE)
        wait_for("end of the NIC", lambda: "<interface" not in domain.XMLDesc(0))
        old = re.sub(r"<target [^>]*/>", "", nic[0])
        domain.attachDeviceFlags(old, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    assert tap(provider, machine_id).startswith("vnet")
    provider.libvirt.run(["ip", "link", "delete", ours])
    provider.start_again()

    def replugged() -> bool:
        with suppress(libvirt.libvirtError):
            return tap(provider, machine_id) == ours
        return False

    wait_for("our tap", replugged)
    wait_for("attached", lambda: nics(provider, machine_id) == ["NETWORK_INTERFACE_ATTACHED"])
    wait_for("no reason", lambda: not provider.reasons(machine_id))
    assert "UP" not in provider.libvirt.run(["ip", "-br", "link", "show", ours]).split()[2:]
    assert "vnet" not in provider.libvirt.run(["ip", "-br", "link"])


def test_what_somebody_has_edited_is_undone_and_told(provider: Provider, private_libvirt: PrivateLibvirt) -> None:
    provider.start("--firmware", "bios")
    machine_id = provider.create(spec(disks={"data": "oda"})).metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    provider.power(machine_id, pb.POWER_OFF)
    provider.wait_state(machine_id, "MACHINE_SUSPENDED")
    shared = private_libvirt.directory("shared")
    added = f"<filesystem type='mount'><source dir='{shared}'/><target dir='theirs'/></filesystem></devices>"
    with provider.domain(machine_id) as domain:
        before = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        more = re.sub(r"(<(memory|currentMemory) [^>]*>)\d+", r"\g<1>2097152", before)
        domain.connect().defineXML(more.replace("</devices>", added))
    provider.power(machine_id, pb.POWER_ON)
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    (told,) = [event.message for event in provider.events(machine_id) if event.kind == "drift"]
    assert "memory kib is '2097152', not '1048576'" in told
    assert "there was filesystem theirs" in told
    with provider.domain(machine_id) as domain:
        assert "filesystem" not in domain.XMLDesc(0)
        assert domain.maxMemory() == 1048576
