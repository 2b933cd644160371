"""Network interfaces as a whole host has them: VLANs on bridges, the kernel's Open vSwitch, macvtap's nodes by udev,
tc, vhost-net, all past AppArmor and under the unit's sandbox.

A network namespace is the neighbour. What drivers do otherwise does not belong here (tests/e2e).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests.vm.machine import VM
from tests.vm.service import CLASSES, Service, spec, wait_for

MAP_FILE = "/etc/sri-libvirt/networks.yaml"
MAP = """\
networks:
  - {network_id: "tagged", driver: bridge, bridge: br-sri, vlan: 42}
  - {network_id: "plain", driver: bridge, bridge: br-sri, bandwidth: {average: 1Mi, peak: 2Mi, burst: 1Mi}}
  - {network_id: "switch", driver: ovs, bridge: ovs-sri}
  - {network_id: "card", driver: direct, device: card-sri}
"""
CONFIG = f'network_map = "{MAP_FILE}"\n'
TWO_CPUS = "  - {name: pair, cpu: 2, memory: 192Mi, root_disk: 1Gi, firmware: bios}\n"

PREPARE = """
set -e
ip netns add sri-peer
ip link add br-sri type bridge vlan_filtering 1
ip link add port-sri type veth peer name eth0 netns sri-peer
ip link set port-sri master br-sri
bridge vlan add dev port-sri vid 42
ip link add card-sri type veth peer name eth1 netns sri-peer
for each in br-sri port-sri card-sri; do ip link set $each up; done
inside() { ip netns exec sri-peer ip "$@"; }
inside link add link eth0 name tagged type vlan id 42
for each in eth0 eth1 tagged; do inside link set $each up; done
inside addr add 10.98.0.1/24 dev eth0
inside addr add 10.98.42.1/24 dev tagged
inside addr add 10.98.7.1/24 dev eth1
systemctl start openvswitch-switch
ovs-vsctl add-br ovs-sri
ip addr add 10.98.9.1/24 dev ovs-sri
ip link set ovs-sri up
"""
FORGET = """
ovs-vsctl --if-exists del-br ovs-sri
systemctl stop openvswitch-switch
ip netns delete sri-peer
ip link delete port-sri
ip link delete card-sri
ip link delete br-sri
"""


@pytest.fixture(scope="module")
def networks(service: Service) -> Iterator[VM]:
    """The host has the networks, and the provider the map."""
    vm = service.vm
    vm.ask(FORGET)  # what an earlier run left
    vm.run(PREPARE)
    vm.write(MAP_FILE, MAP)
    vm.write("/etc/sri-libvirt/classes.yaml", CLASSES + TWO_CPUS)
    service.configure(CONFIG)
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    yield vm
    service.configure("")
    vm.write("/etc/sri-libvirt/classes.yaml", CLASSES)
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    vm.ask(FORGET)


@pytest.fixture(scope="module")
def machine(networks: VM, service: Service) -> Iterator[str]:
    """A guest, which nobody else uses; AppArmor lets it have vhost-net, for it is started with an interface."""
    before = links(networks), filtered(networks)
    machine = service.create("networks", spec("tiny", nics=["first"]))
    service.wait_line(machine, "up")
    yield machine
    service.delete(machine)
    assert (links(networks), filtered(networks)) == before


def filtered(vm: VM) -> set[str]:
    """Devices with rules of ours, those of machines that other tests share among them."""
    bindings = vm.run("virsh -q -c qemu:///system nwfilter-binding-list").splitlines()
    return {line.split()[0] for line in bindings if "sri-libvirt" in line}


def links(vm: VM) -> set[str]:
    return set(vm.run("ls /sys/class/net").split())


def attach(service: Service, machine: str, network: str) -> pb.NetworkInterface:
    """One that the guest has at the end, and up."""
    nic = pb.NetworkInterface(name=network, network_id=network)
    came = len([line for line in service.lines(machine) if line.startswith("tiny: nic eth1 mac=")])
    service.attach(machine, nic)
    service.wait_line(machine, "nic eth1 mac=", came + 1)
    return nic


def reaches(service: Service, machine: str, own: str, other: str, device: str = "eth1") -> None:
    """The guest takes an address and hears from the neighbour."""
    line = f"ip addr add {own}/24 dev {device}; ping -c 1 -W 2 {other} && echo tiny: heard {other}"
    service.type(machine, line, lambda: f"tiny: heard {other}" in service.lines(machine))


def detach(service: Service, machine: str, nic: pb.NetworkInterface) -> None:
    gone = service.lines(machine).count("tiny: nic eth1 gone")
    service.detach(machine, nic)
    service.wait_line(machine, "nic eth1 gone", gone + 1)


def test_a_vlan_of_a_bridge_or_what_can_be_had_instead(service: Service, machine: str) -> None:
    if service.vm.release == "bookworm":
        nic = pb.NetworkInterface(name="tagged", network_id="tagged")
        service.attach(machine, nic)
        wait_for("the reason", lambda: "cannot put a guest into VLAN 42" in service.why(machine))
        assert "Open vSwitch" in service.why(machine)
        service.detach(machine, nic)
        done = service.vm.ask(f"sri-libvirt network check tagged --network-map {MAP_FILE}")
        assert (done.returncode, "cannot put a guest into VLAN 42" in done.stdout) == (1, True)
        return
    nic = attach(service, machine, "tagged")
    reaches(service, machine, "10.98.42.7", "10.98.42.1")
    detach(service, machine, nic)


def test_a_bridge_is_bounded_by_tc_and_carried_by_vhost_net(service: Service, machine: str) -> None:
    before = links(service.vm)
    nic = attach(service, machine, "plain")
    reaches(service, machine, "10.98.0.7", "10.98.0.1")
    (tap,) = links(service.vm) - before
    assert "rate 8" in service.vm.run(f"tc class show dev {tap}")
    guest = service.guests()[machine]
    assert "vhost-net" in service.vm.run(f"ls -l /proc/{guest.pid}/fd")
    detach(service, machine, nic)


def test_a_guest_that_apparmor_keeps_from_vhost_net_has_its_interface_all_the_same(
    service: Service, networks: VM
) -> None:
    machine = service.create("bare", spec("tiny"))
    service.wait_line(machine, "up")
    nic = pb.NetworkInterface(name="plain", network_id="plain")
    service.attach(machine, nic)
    service.wait_line(machine, "nic eth0 mac=")
    reaches(service, machine, "10.98.0.8", "10.98.0.1", "eth0")
    assert "is carried by QEMU alone" in service.vm.run(f"sri-libvirt machine events {machine}")
    boots = service.boots(machine)
    service.power(machine, pb.POWER_OFF)
    service.wait_state(machine, "MACHINE_SUSPENDED")
    service.power(machine, pb.POWER_ON)
    service.wait_line(machine, "up", boots + 1)
    assert "vhost-net" in service.vm.run(f"ls -l /proc/{service.guests()[machine].pid}/fd")
    service.delete(machine)


def test_two_cpus_have_two_queues(service: Service, networks: VM) -> None:
    wanted = spec("pair", image=False)
    wanted.network_interfaces.add(name="eth", network_id="plain")
    machine = service.create("pair", wanted)
    service.wait_state(machine, "MACHINE_RUNNING")
    assert re.search("<driver [^>]*queues='2'", service.xml(machine))
    guest = service.guests()[machine]
    assert service.vm.run(f"ls -l /proc/{guest.pid}/fd").count("vhost-net") == 2
    service.delete(machine)


def test_the_kernels_open_vswitch(service: Service, machine: str) -> None:
    nic = attach(service, machine, "switch")
    reaches(service, machine, "10.98.9.7", "10.98.9.1")
    (handle,) = [each.handle for each in service.get(machine).status.network_interfaces if each.name == "switch"]
    (port,) = service.vm.run("ovs-vsctl list-ports ovs-sri").split()
    identity = service.vm.run(f"ovs-vsctl get interface {port} external_ids:iface-id").strip().strip('"')
    assert handle == f"ovs://ovs-sri/{identity}"
    detach(service, machine, nic)
    wait_for("the port gone", lambda: not service.vm.run("ovs-vsctl list-ports ovs-sri").split())


def test_a_device_of_the_host(service: Service, machine: str) -> None:
    nic = attach(service, machine, "card")
    reaches(service, machine, "10.98.7.7", "10.98.7.1")
    detach(service, machine, nic)


def test_apparmor_has_denied_nothing_else(service: Service, machine: str) -> None:
    assert service.denials() == []
