"""Every number that this libvirt binding knows has a word."""

from __future__ import annotations

import libvirt
import pytest

from sri_libvirt.hypervisor import words
from sri_libvirt.hypervisor.base import DomainState, EventKind

PREFIXES = {
    DomainState.RUNNING: "VIR_DOMAIN_RUNNING_",
    DomainState.PAUSED: "VIR_DOMAIN_PAUSED_",
    DomainState.SHUTTING_DOWN: "VIR_DOMAIN_SHUTDOWN_",
    DomainState.OFF: "VIR_DOMAIN_SHUTOFF_",
    DomainState.CRASHED: "VIR_DOMAIN_CRASHED_",
    DomainState.SUSPENDED: "VIR_DOMAIN_PMSUSPENDED_",
}
FLAGS = ("VIR_DOMAIN_SHUTDOWN_",)  # the prefix of flags of virDomainShutdownFlags too
EVENT_PREFIXES = {
    EventKind.SHUTDOWN: "VIR_DOMAIN_EVENT_SHUTDOWN_",
    EventKind.STOPPED: "VIR_DOMAIN_EVENT_STOPPED_",
}


def numbers(prefix: str) -> set[int]:
    return {value for name, value in vars(libvirt).items() if name.startswith(prefix)}


@pytest.mark.parametrize("state", [state for state, prefix in PREFIXES.items() if prefix not in FLAGS])
def test_every_reason_has_a_word(state: DomainState) -> None:
    assert numbers(PREFIXES[state])
    assert numbers(PREFIXES[state]) <= words.REASONS[state].keys()


@pytest.mark.parametrize("kind", EVENT_PREFIXES)
def test_every_detail_has_a_word(kind: EventKind) -> None:
    assert numbers(EVENT_PREFIXES[kind])
    assert numbers(EVENT_PREFIXES[kind]) == words.EVENT_DETAILS[kind].keys()


def test_the_words_of_a_stop() -> None:
    assert words.state(libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_CRASHED) == (DomainState.OFF, "crashed")
    assert words.state(libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT)[1] == "from snapshot"


def test_what_a_newer_libvirt_says_is_unknown() -> None:
    assert words.state(99, 7) == (DomainState.UNKNOWN, "unknown")
    assert words.state(libvirt.VIR_DOMAIN_PAUSED, 99) == (DomainState.PAUSED, "unknown")
