"""Life of the service under systemd: whatever becomes of it, or of libvirt's daemons, every guest runs on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sri_libvirt import __version__
from tests.vm.pool import Pool
from tests.vm.service import STATE, Service, nic, wait_for


@pytest.fixture
def machine(service: Service, pool: Pool) -> Iterator[str]:
    """A machine that must run all the time, as the same process, and never boot anew."""
    machine = pool.tiny()
    before, boots = service.guests(), service.boots(machine)
    yield machine
    service.wait_serving()
    service.wait_state(machine, "MACHINE_RUNNING")
    after = service.guests()
    assert {each: after.get(each) for each in before} == before, "a guest ended, or is another"
    assert service.boots(machine) == boots


@pytest.mark.usefixtures("machine")
def test_it_is_ready_and_says_how_it_is(service: Service) -> None:
    assert service.property("ActiveState") == "active"
    assert service.property("Type") == "notify"
    wait_for("status", lambda: service.property("StatusText") == "serving; libvirt is reached", 60)
    assert service.vm.run("readlink -f /run/sri-virtd.sock").strip() == "/run/sri-libvirt/sri-virtd.sock"


@pytest.mark.usefixtures("machine")
def test_stop_and_start(service: Service) -> None:
    service.systemctl("stop", "sri-libvirt")
    assert service.property("ActiveState") == "inactive"
    assert service.property("Result") == "success"
    assert service.vm.ask("test -e /run/sri-libvirt/sri-virtd.sock").returncode == 1
    assert not service.serves()
    service.systemctl("start", "sri-libvirt")


@pytest.mark.usefixtures("machine")
def test_kill(service: Service) -> None:
    restarts = int(service.property("NRestarts"))
    pid = service.property("MainPID")
    service.systemctl("kill", "--signal=KILL", "sri-libvirt")
    wait_for("restart", lambda: int(service.property("NRestarts")) > restarts, 60)
    service.wait_serving()
    assert service.property("MainPID") != pid


@pytest.mark.usefixtures("machine")
def test_a_daemon_that_hangs_is_ended_by_the_watchdog(service: Service) -> None:
    with service.drop_in("[Service]\nWatchdogSec=15\nTimeoutAbortSec=5\n"):
        service.systemctl("restart", "sri-libvirt")
        service.wait_serving()
        restarts = int(service.property("NRestarts"))
        service.systemctl("kill", "--signal=STOP", "sri-libvirt")
        wait_for("restart", lambda: int(service.property("NRestarts")) > restarts, 120)
        service.wait_serving()
        journal = service.vm.run("journalctl --unit sri-libvirt --boot --output cat --quiet")
        assert "Watchdog timeout" in journal
    service.systemctl("restart", "sri-libvirt")


@pytest.mark.usefixtures("machine")
def test_it_is_not_ready_while_its_store_cannot_serve(service: Service) -> None:
    service.systemctl("stop", "sri-libvirt")
    store = f"{STATE}/store/state.sqlite"
    service.vm.run(f"mv {store} {store}.kept && echo damaged >{store}")
    try:
        restarts = int(service.property("NRestarts"))
        service.systemctl("start", "--no-block", "sri-libvirt")
        wait_for("two more tries", lambda: int(service.property("NRestarts")) >= restarts + 2, 120)
        assert service.property("ActiveState") != "active"
        assert service.vm.ask("test -e /run/sri-libvirt/sri-virtd.sock").returncode == 1
        assert "store restore" in service.vm.run("journalctl --unit sri-libvirt --lines 30 --output cat")
    finally:
        service.systemctl("stop", "sri-libvirt")
        service.vm.run(f"mv {store}.kept {store}")
        service.systemctl("start", "sri-libvirt")


def test_libvirts_daemons_are_restarted_together_and_each_alone(service: Service, machine: str) -> None:
    def interfaces() -> int:
        """Not told by the guest: with virtlogd the console logs of guests that run have ended."""
        return service.xml(machine).count("<interface ")

    before, daemons = interfaces(), service.libvirt_units()
    for units in ((*daemons, "virtlogd.service"), *((each,) for each in daemons)):
        service.systemctl("restart", *units)
        wait_for("status", lambda: service.property("StatusText") == "serving; libvirt is reached", 120)
        service.attach(machine, nic("after"))
        wait_for(f"interface after a restart of {' '.join(units)}", lambda: interfaces() == before + 1)
        service.detach(machine, nic("after"))
        wait_for("end of the interface", lambda: interfaces() == before)


def test_the_daemons_are_those_of_this_release(service: Service) -> None:
    assert service.libvirt_units()[0] == ("virtqemud.service" if service.vm.release == "trixie" else "libvirtd.service")
    assert service.property("ActiveState", service.libvirt_units()[0]) == "active"
    other = "libvirtd.service" if service.vm.release == "trixie" else "virtqemud.service"
    assert service.property("ActiveState", other) == "inactive"


def test_an_upgrade_backs_the_store_up_and_keeps_its_machines(service: Service, machine: str) -> None:
    machines = service.machines()
    said = service.install(service.wheel("0.1.99"))
    assert "verified" in said
    service.wait_serving()
    assert service.version() == "0.1.99"
    assert [each.metadata for each in service.machines()] == [each.metadata for each in machines]
    assert machine in {each.metadata.id for each in machines}
    assert "0.1.99" in service.vm.run("sri-libvirt --version")
    service.install(service.wheel())
    service.wait_serving()
    assert service.version() == __version__


def test_the_journal_is_structured(service: Service, machine: str) -> None:
    service.systemctl("restart", "sri-libvirt")
    service.wait_serving()
    lines = service.log()
    assert {"event", "level", "timestamp"} <= set.intersection(*(set(line) for line in lines))
    assert any(line["event"] == "serving" for line in lines)
    assert not [line for line in lines if line["level"] in ("critical",) or "a bug" in line["event"]]
