"""What a connection does between two calls of libvirt, where a real one cannot be made to misbehave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libvirt
import pytest

from sri_libvirt.errors import HypervisorError, Unreachable
from sri_libvirt.hypervisor.base import DomainState
from sri_libvirt.hypervisor.connection import LibvirtConnection, undefine_flags
from tests.unit.hypervisor.test_faults import CLOSED, NO_DOMAIN, Fault

LIVE, OFF = "<domain type='qemu' id='7'/>", "<domain type='qemu'/>"
RUNNING, SHUTOFF = (libvirt.VIR_DOMAIN_RUNNING, 1), (libvirt.VIR_DOMAIN_SHUTOFF, 1)


class Domain:
    """A virDomain that answers from lists."""

    def __init__(self, states: Sequence[tuple[int, int]], xmls: Sequence[str | Fault] = ()) -> None:
        self.states, self.xmls = list(states), list(xmls)

    def state(self) -> tuple[int, int]:
        return self.states.pop(0)

    def XMLDesc(self, flags: int) -> str:  # noqa: N802 (libvirt's name)
        assert not flags & libvirt.VIR_DOMAIN_XML_SECURE
        if flags & libvirt.VIR_DOMAIN_XML_INACTIVE:
            return OFF
        answer = self.xmls.pop(0)
        if isinstance(answer, Fault):
            raise answer
        return answer

    def isPersistent(self) -> int:  # noqa: N802
        return 1

    def isActive(self) -> int:  # noqa: N802
        return 0

    def hasManagedSaveImage(self, _flags: int) -> int:  # noqa: N802
        return 0


class Wire:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked = 0

    def lookupByUUIDString(self, _uuid: str) -> Any:  # noqa: N802
        self.asked += 1
        if isinstance(self.answer, Fault):
            raise self.answer
        return self.answer

    def isAlive(self) -> int:  # noqa: N802
        return 1

    def close(self) -> None:
        raise CLOSED


def connection(answer: Any) -> tuple[LibvirtConnection, Wire]:
    wire = Wire(answer)
    return LibvirtConnection(wire, qemu_log_dir=Path("/nowhere")), wire


def test_a_guest_that_stops_while_it_is_read_is_off() -> None:
    asked, _ = connection(Domain([RUNNING, SHUTOFF], [OFF]))
    snapshot = asked.snapshot("id")
    assert snapshot is not None
    assert (snapshot.state, snapshot.live_xml, snapshot.persistent_xml) == (DomainState.OFF, "", OFF)


def test_a_running_guest_is_read_at_once() -> None:
    asked, _ = connection(Domain([RUNNING], [LIVE]))
    snapshot = asked.snapshot("id")
    assert snapshot is not None
    assert (snapshot.state, snapshot.live_xml, snapshot.active) == (DomainState.RUNNING, LIVE, True)


def test_a_guest_that_never_keeps_still_is_an_error() -> None:
    asked, _ = connection(Domain([RUNNING] * 9, [OFF] * 9))
    with pytest.raises(HypervisorError, match="faster than"):
        asked.snapshot("id")


def test_a_domain_that_vanishes_while_it_is_read_is_gone() -> None:
    asked, _ = connection(Domain([RUNNING], [NO_DOMAIN]))
    assert asked.snapshot("id") is None


def test_a_connection_lost_while_a_domain_is_read_does_not_make_it_gone() -> None:
    asked, _ = connection(Domain([RUNNING], [CLOSED]))
    with pytest.raises(Unreachable):
        asked.snapshot("id")


def test_a_lost_connection_is_not_asked_again() -> None:
    asked, wire = connection(CLOSED)
    for _ in range(3):
        with pytest.raises(Unreachable, match="client socket is closed"):
            asked.snapshot("id")
    assert wire.asked == 1
    asked.close()  # which fails inside, and does not say so


def test_the_tpm_flag_is_only_for_those_who_know_it() -> None:
    assert undefine_flags(8_008_000) & libvirt.VIR_DOMAIN_UNDEFINE_TPM == 0
    assert undefine_flags(9_000_000) & libvirt.VIR_DOMAIN_UNDEFINE_TPM
    for version in (8_008_000, 11_003_000):
        assert undefine_flags(version) & libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        assert undefine_flags(version) & libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
