"""An address of the spec at a libvirt network: looked at, reserved, given up; what takes long is a job."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import UNDER_WAY, AddressHeld, HypervisorError, NotReady
from sri_libvirt.hypervisor.fake import FakeConnection, FakeHypervisor
from sri_libvirt.hypervisor.fake_networks import FakeNetwork
from sri_libvirt.jobs import Jobs
from sri_libvirt.nics.network import NetworkNics
from sri_libvirt.nics.reserving import BACKSTOP, Reserving

MAC, OTHER = "52:54:00:00:00:01", "52:54:00:00:00:02"
SLOW = ("", "nat", "route")


def nic(*ips: str, network: str = "lan") -> pb.NetworkInterface:
    return pb.NetworkInterface(name="eth", network_id=network, ips=ips)


@dataclass
class World:
    """A driver, a network, and jobs that run when they are told to."""

    network: FakeNetwork = field(default_factory=FakeNetwork)
    woken: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hypervisor = FakeHypervisor()
        self.hypervisor.networks["lan"] = self.network
        self.changed = threading.Semaphore(0)
        self.may_run = threading.Event()
        self.may_run.set()
        self.jobs = Jobs(self._wake)
        self.driver = NetworkNics(reserving=Reserving(self.jobs, self._connect, lambda: 1000))

    @property
    def connection(self) -> FakeConnection:
        return self.hypervisor.connect()

    def prepare(self, *ips: str, mac: str = MAC) -> str:
        return self.driver.prepare("id", nic(*ips), mac, self.connection).address

    def release(self, *ips: str, then: pb.NetworkInterface | None = None) -> None:
        self.driver.release("id", nic(*ips), MAC, self.connection, None, then)

    def in_the_end(self, action: Callable[[], object]) -> None:
        """Ask again whenever a job has ended."""
        while True:
            try:
                action()
            except NotReady as error:
                if error.code != UNDER_WAY:
                    raise
                assert self.changed.acquire(timeout=30), "nobody was woken"
            else:
                return

    def _connect(self) -> FakeConnection:
        assert self.may_run.wait(30)
        return self.hypervisor.connect()

    def _wake(self, machine_id: str) -> None:
        self.woken.append(machine_id)
        self.changed.release()


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_ipv4_address_is_reserved_and_given_up(world: World) -> None:
    for _ in range(2):
        assert world.prepare("2001:db8::7", "10.0.0.7", "10.0.0.8") == "10.0.0.7"
    assert world.network.reserved == [[MAC, "10.0.0.7"]]
    for _ in range(2):
        world.release("2001:db8::7", "10.0.0.7", "10.0.0.8")
    assert world.network.reserved == []


def test_nothing_is_reserved_where_nothing_is_asked_or_served(world: World) -> None:
    assert world.prepare() == world.prepare("2001:db8::7") == ""
    world.network.own = []
    assert world.prepare("10.0.0.7") == ""
    assert world.network.reserved == []


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.9.9.9", "gives no address outside 10.0.0.0/24, and 10.9.9.9 is"),
        ("10.1.0.7", "gives no address outside 10.0.0.0/24, and 10.1.0.7 is"),
        ("10.0.0.1", "10.0.0.1 is the address of the libvirt network 'lan' itself"),
        ("10.0.0.0", "10.0.0.0 stands for all of 10.0.0.0/24"),
        ("10.0.0.255", "10.0.0.255 stands for all of 10.0.0.0/24"),
    ],
)
def test_an_address_that_the_guest_would_not_get(world: World, address: str, words: str) -> None:
    world.network.own.append("10.1.0.1/24")  # libvirt serves one subnet of IPv4 alone
    with pytest.raises(NotReady, match=words.replace("'", "[\"']")) as caught:
        world.prepare(address)
    assert "another address" in caught.value.advice
    assert world.network.reserved == []


@pytest.mark.parametrize("where", ["reserved", "leased"])
def test_an_address_that_another_has(world: World, where: str) -> None:
    getattr(world.network, where).append([OTHER, "10.0.0.7"])
    with pytest.raises(AddressHeld, match=f"10.0.0.7 is taken: .*{OTHER}") as caught:
        world.prepare("10.0.0.7")
    assert (caught.value.mac, caught.value.code) == (OTHER, "address-taken")
    getattr(world.network, where).clear()
    assert world.prepare("10.0.0.7") == "10.0.0.7"


def test_a_lease_of_ones_own_is_no_obstacle(world: World) -> None:
    world.network.leased.append([MAC, "10.0.0.7"])
    assert world.prepare("10.0.0.7") == "10.0.0.7"


def test_what_a_crash_has_left_of_another_address_goes(world: World) -> None:
    world.network.reserved.append([MAC, "10.0.0.9"])
    world.prepare("10.0.0.7")
    assert world.network.reserved == [[MAC, "10.0.0.7"]]


def test_it_stays_for_the_same_interface_that_comes_after_it(world: World) -> None:
    world.prepare("10.0.0.7")
    world.release("10.0.0.7", then=nic("10.0.0.7", "2001:db8::7", network="network://lan"))
    assert world.network.reserved == [[MAC, "10.0.0.7"]]
    world.release("10.0.0.7", then=nic("10.0.0.8"))
    assert world.network.reserved == []


def test_an_interface_of_an_earlier_version_can_go_and_says_what_is_wrong(world: World) -> None:
    world.release("nonsense")
    with pytest.raises(NotReady, match=r"ips\[0\]: .*no IP address"):
        world.prepare("nonsense")


def test_the_lease_of_one_that_is_gone_ends_with_it(world: World) -> None:
    world.network.leased = [[MAC, "10.0.0.7"], [MAC, "10.0.0.101"], [OTHER, "10.0.0.102"]]
    world.release(then=nic())
    assert len(world.network.leased) == 3
    world.release(then=nic(network="other"))
    assert world.network.leased == [[OTHER, "10.0.0.102"]]


def test_a_network_that_is_gone_holds_nothing(world: World) -> None:
    del world.hypervisor.networks["lan"]
    world.release("10.0.0.7")


@pytest.mark.parametrize("forward", SLOW)
def test_a_slow_change_is_a_job_that_wakes_its_machine(world: World, forward: str) -> None:
    world.network.forward = forward
    world.may_run.clear()
    for _ in range(2):
        with pytest.raises(NotReady, match=r"10\.0\.0\.7 is being reserved") as caught:
            world.prepare("10.0.0.7")
        assert caught.value.code == UNDER_WAY
    assert world.driver.busy_until(MAC) == 1000 + BACKSTOP
    assert world.driver.busy_until(OTHER) is None
    world.may_run.set()
    world.in_the_end(lambda: world.prepare("10.0.0.7"))
    assert world.network.reserved == [[MAC, "10.0.0.7"]]
    assert world.woken == ["id"]
    world.in_the_end(lambda: world.release("10.0.0.7"))
    assert world.network.reserved == []


def test_a_job_that_fails_says_why_once_and_is_begun_again(world: World) -> None:
    world.network.forward = "nat"
    world.hypervisor.fail_next("reserve", HypervisorError("libvirt could not reserve it: no room", 1))
    with pytest.raises(NotReady, match="no room") as caught:
        world.in_the_end(lambda: world.prepare("10.0.0.7"))
    assert caught.value.code == ""
    world.in_the_end(lambda: world.prepare("10.0.0.7"))
    assert world.network.reserved == [[MAC, "10.0.0.7"]]


def test_of_one_that_does_not_run_the_reservation_is_given_up_at_once(world: World) -> None:
    world.network.forward = "nat"
    world.network.reserved.append([MAC, "10.0.0.7"])
    world.network.active = False
    world.release("10.0.0.7")
    assert world.network.reserved == []


def test_one_that_goes_while_its_address_is_being_reserved_leaves_nothing(world: World) -> None:
    world.network.forward = "nat"
    world.may_run.clear()
    with pytest.raises(NotReady, match="is being reserved"):
        world.prepare("10.0.0.7")
    with pytest.raises(NotReady, match="is being given up") as caught:
        world.release("10.0.0.7")
    assert caught.value.code == UNDER_WAY
    world.may_run.set()
    world.in_the_end(lambda: world.release("10.0.0.7"))
    assert world.network.reserved == []


def test_a_failure_of_before_is_told_of_nothing_else(world: World) -> None:
    world.network.forward = "nat"
    world.hypervisor.fail_next("reserve", HypervisorError("no room", 1))
    with pytest.raises(NotReady, match="is being reserved"):
        world.prepare("10.0.0.7")
    assert world.changed.acquire(timeout=30)
    world.in_the_end(lambda: world.prepare("10.0.0.8"))
    assert world.network.reserved == [[MAC, "10.0.0.8"]]


@pytest.mark.parametrize("forward", ["open", "nat"])
def test_an_address_that_was_lost_is_reserved_again_and_lost_no_more(forward: str) -> None:
    world = World(FakeNetwork(forward=forward))
    world.in_the_end(lambda: world.prepare("10.0.0.7"))
    world.network.reserved = []
    world.driver.reserving.missed([MAC, OTHER])
    assert world.driver.is_lost(MAC)
    world.in_the_end(lambda: world.prepare("10.0.0.7"))
    assert world.network.reserved == [[MAC, "10.0.0.7"]]
    assert (world.driver.is_lost(MAC), world.driver.is_lost(OTHER)) == (False, True)


DUID, OTHER_DUID = "00:03:00:01:52:54:00:00:00:01", "00:03:00:01:52:54:00:00:00:02"
BOTH = ["10.0.0.1/24", "2001:db8::1/64"]


def six(*ips: str, duid: str = DUID.upper()) -> pb.NetworkInterface:
    return pb.NetworkInterface(name="eth", network_id="lan", ips=ips, attributes={"duid": duid} if duid else {})


@pytest.mark.parametrize("forward", ["open", "nat"])
def test_an_ipv6_address_is_reserved_for_a_duid_that_the_map_allows(forward: str) -> None:
    world = World(FakeNetwork(forward=forward, own=BOTH))
    driver, asked = world.driver.bound({"allow": ("duid",)}), six("2001:db8::7", "10.0.0.7")
    world.in_the_end(lambda: driver.prepare("id", asked, MAC, world.connection))
    made = driver.prepare("id", asked, MAC, world.connection)
    assert (made.address, made.address6, made.duid) == ("10.0.0.7", "2001:db8::7", DUID)
    assert sorted(world.network.reserved) == [[DUID, "2001:db8::7"], [MAC, "10.0.0.7"]]
    world.in_the_end(lambda: world.driver.release("id", asked, MAC, world.connection, made))
    assert world.network.reserved == [], "whatever the map says by now"


@pytest.mark.parametrize(
    ("allow", "own", "asked"),
    [
        ((), BOTH, six("2001:db8::7")),
        (("duid",), BOTH, six("2001:db8::7", duid="")),
        (("duid",), ["10.0.0.1/24"], six("2001:db8::7")),
    ],
)
def test_without_a_duid_or_a_server_it_is_for_the_guest_to_set(
    allow: tuple[str, ...], own: list[str], asked: pb.NetworkInterface
) -> None:
    world = World(FakeNetwork(own=own))
    made = world.driver.bound({"allow": allow}).prepare("id", asked, MAC, world.connection)
    assert (made.address6, made.duid, world.network.reserved) == ("", "", [])
    world.driver.release("id", asked, MAC, world.connection, made)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("2001:db8:1::7", "gives no address outside 2001:db8::/64"),
        ("2001:db8::1", "is the address of"),
        ("2001:db8::8", "is taken: .* keeps it for the DUID"),
        ("2001:db8::9", "is taken: .* has leased it to the DUID"),
    ],
)
def test_an_ipv6_address_that_the_guest_would_not_get_waits(address: str, words: str) -> None:
    network = FakeNetwork(own=BOTH, reserved=[[OTHER_DUID, "2001:db8::8"]], leased=[[OTHER_DUID, "2001:db8::9"]])
    world = World(network)
    with pytest.raises(NotReady, match=words):
        world.driver.bound({"allow": ("duid",)}).prepare("id", six(address), MAC, world.connection)
    assert network.reserved == [[OTHER_DUID, "2001:db8::8"]]
