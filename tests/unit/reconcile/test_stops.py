"""Who stopped the guest: the table of contract G.5, watched and unwatched."""

from __future__ import annotations

import pytest

from sri_libvirt.hypervisor.base import LastWords
from sri_libvirt.reconcile.stops import classify
from sri_libvirt.records import Run, StopCause, StopEvent

STARTED = Run(uuid="r", boot_id="boot-1", started_at=1)
PRESSED = Run(uuid="r", boot_id="boot-1", started_at=1, pressed_at=2, last_press_at=2)


HALTED = Run(uuid="r", boot_id="boot-1", started_at=1, ending=StopCause.GUEST)


def event(shutdown: str, stopped: str) -> StopEvent:
    return StopEvent(shutdown, stopped, 5)


@pytest.mark.parametrize(
    ("run", "seen", "cause"),
    [
        (STARTED, event("guest", "shutdown"), StopCause.GUEST),
        (STARTED, event("", "shutdown"), StopCause.GUEST),
        (PRESSED, event("guest", "shutdown"), StopCause.REQUESTED),
        (PRESSED, event("", "shutdown"), StopCause.REQUESTED),
        (STARTED, event("host", "shutdown"), StopCause.HOST),
        (STARTED, event("", "failed"), StopCause.KILLED),
        (STARTED, event("", "crashed"), StopCause.PANICKED),
        (STARTED, event("host", "crashed"), StopCause.PANICKED),  # as QEMU 10 may have it
        (STARTED, event("host", "destroyed"), StopCause.DESTROYED),
        (PRESSED, event("host", "destroyed"), StopCause.REQUESTED),
        (PRESSED, event("", "failed"), StopCause.KILLED),
        (HALTED, event("host", "destroyed"), StopCause.GUEST),
        (STARTED, event("", "saved"), StopCause.SAVED),
        (STARTED, event("", "something new"), StopCause.UNKNOWN),
    ],
)
@pytest.mark.rule("R-G5-1")
def test_a_watched_stop(run: Run, seen: StopEvent, cause: StopCause) -> None:
    assert (
        classify(
            run,
            seen,
            state_reason="",
            managed_save=False,
            last_words=LastWords(),
            boot_id="boot-1",
            host_stopping=False,
        )
        is cause
    )


@pytest.mark.parametrize(
    ("state_reason", "words", "cause"),
    [
        ("shutdown", LastWords(), StopCause.GUEST),
        ("unknown", LastWords("shutdown"), StopCause.GUEST),
        ("shutdown", LastWords("shutdown", "bash"), StopCause.HOST),
        ("shutdown", LastWords("shutdown", "systemd"), StopCause.HOST),
        ("unknown", LastWords("shutdown", "libvirtd"), StopCause.GUEST),
        ("unknown", LastWords("destroyed", "virtqemud"), StopCause.DESTROYED),
        ("unknown", LastWords("crashed"), StopCause.KILLED),
        ("crashed", LastWords(), StopCause.KILLED),
        ("crashed", LastWords("crashed"), StopCause.KILLED),
        ("crashed", LastWords("crashed", "libvirtd"), StopCause.PANICKED),
        ("unknown", LastWords("crashed", "virtqemud"), StopCause.PANICKED),
        ("panicked", LastWords(), StopCause.PANICKED),
        ("crashed", LastWords("crashed", aborted="x.c:1: f: Assertion `y' failed."), StopCause.ABORTED),
        ("failed", LastWords("failed"), StopCause.FAILED),
        ("daemon", LastWords(), StopCause.FAILED),
        ("destroyed", LastWords(), StopCause.DESTROYED),
        ("saved", LastWords(), StopCause.SAVED),
        ("unknown", LastWords(), StopCause.UNKNOWN),
        ("", LastWords(), StopCause.UNKNOWN),
    ],
)
@pytest.mark.rule("R-G5-6")
def test_a_stop_that_nobody_watched(state_reason: str, words: LastWords, cause: StopCause) -> None:
    assert (
        classify(
            STARTED,
            None,
            state_reason=state_reason,
            managed_save=False,
            last_words=words,
            boot_id="boot-1",
            host_stopping=False,
        )
        is cause
    )


def test_a_new_boot_explains_every_stop_that_nobody_watched() -> None:
    words = LastWords("shutdown")  # libvirt-guests pressed the button, as like as not
    cause = classify(
        STARTED,
        None,
        state_reason="unknown",
        managed_save=False,
        last_words=words,
        boot_id="boot-2",
        host_stopping=False,
    )
    assert cause is StopCause.HOST


@pytest.mark.rule("R-G5-1")
def test_a_remembered_power_off_of_the_guest_survives_a_host_boot() -> None:
    cause = classify(
        STARTED,
        event("guest", "shutdown"),
        state_reason="unknown",
        managed_save=False,
        last_words=LastWords(),
        boot_id="boot-2",
        host_stopping=False,
    )
    assert cause is StopCause.GUEST


@pytest.mark.rule("R-G5-5")
def test_while_the_host_stops_every_stop_is_the_hosts() -> None:
    cause = classify(
        STARTED,
        event("guest", "shutdown"),
        state_reason="shutdown",
        managed_save=False,
        last_words=LastWords(),
        boot_id="boot-1",
        host_stopping=True,
    )
    assert cause is StopCause.HOST


def test_a_managed_save_is_known_by_its_file() -> None:
    cause = classify(
        STARTED, None, state_reason="unknown", managed_save=True, last_words=LastWords(), boot_id="boot-2",
        host_stopping=False,
    )  # fmt: skip
    assert cause is StopCause.SAVED


def fell(event: StopEvent | None, words: LastWords, *, out_of_memory: bool) -> StopCause:
    return classify(
        STARTED, event, state_reason="crashed", managed_save=False, last_words=words, boot_id="boot-1",
        host_stopping=False, out_of_memory=out_of_memory,
    )  # fmt: skip


def test_the_kernels_word_tells_an_oom_kill_from_another_and_from_a_panic() -> None:
    words = LastWords("crashed")
    assert fell(event("", "failed"), words, out_of_memory=True) is StopCause.OUT_OF_MEMORY
    assert fell(None, words, out_of_memory=True) is StopCause.OUT_OF_MEMORY
    assert fell(event("", "crashed"), words, out_of_memory=True) is StopCause.PANICKED
    assert fell(None, LastWords("crashed", "libvirtd"), out_of_memory=True) is StopCause.PANICKED


def test_a_watched_abort_is_told_by_qemus_own_words() -> None:
    words = LastWords("crashed", aborted="ERROR:../hw/core/cpu.c:1:f: code should not be reached")
    assert fell(event("", "failed"), words, out_of_memory=False) is StopCause.ABORTED
