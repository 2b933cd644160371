"""The door to subprocesses: bounds that hold whatever a program does, and a deadline that holds when it cannot die."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sri_libvirt import process
from sri_libvirt.process import Cancel, Cancelled, Hanging, ProcessError

FREEZER = Path("/sys/fs/cgroup/freezer")
"""Version 1 of it: a frozen process takes no SIGKILL, just as one whose disk is dead."""

GROWTH = 16 << 20
"""What a program's output may make this process grow; they write a hundred times that."""


def grown(before: int) -> int:
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


@pytest.fixture
def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def wait_for(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_answer_is_whole() -> None:
    assert process.run(["head", "-c", str(process.ANSWER_BYTES), "/dev/zero"], deadline=60) == bytes(1 << 20)


def test_its_input_is_given_whole_and_its_environment_is_plain() -> None:
    sent = os.urandom(300_000)
    assert process.run(["cat"], deadline=60, stdin=sent) == sent
    assert process.run(["sh", "-c", "echo $LC_ALL $MORE"], deadline=60, env={"MORE": "x"}) == b"C x\n"


def test_input_that_is_not_taken_is_no_failure() -> None:
    assert process.run(["true"], deadline=60, stdin=bytes(1 << 20)) == b""


def test_an_answer_without_end_ends_the_program(peak: int) -> None:
    begun = time.monotonic()
    with pytest.raises(ProcessError, match=r"^cat wrote more than 1 MiB and was ended$"):
        process.run(["cat", "/dev/zero"], deadline=600)
    assert time.monotonic() - begun < 60
    assert grown(peak) < GROWTH


def test_chatter_without_end_ends_the_program(peak: int) -> None:
    with pytest.raises(ProcessError, match=r"^sh wrote more than 256 MiB and was ended$"):
        process.run(["sh", "-c", "exec cat /dev/zero >&2"], deadline=600)
    assert grown(peak) < GROWTH


def test_the_end_of_much_chatter_is_told_and_the_rest_is_not_kept(peak: int) -> None:
    """As `qemu-img check` of an image with a million lost clusters has it."""
    script = "head -c 200000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo the end >&2; exit 3"
    with pytest.raises(ProcessError, match=r"^sh failed with status 3: the end$") as failed:
        process.run(["sh", "-c", script], deadline=600)
    assert failed.value.returncode == 3
    assert grown(peak) < GROWTH
    measured = process.measure(["sh", "-c", script], deadline=600, cpu_seconds=600)
    assert (measured.returncode, measured.message) == (3, "the end")
    assert grown(peak) < GROWTH


def test_what_a_program_leaves_behind_is_not_waited_for_and_does_not_go_on(tmp_path: Path) -> None:
    script = f"sleep 1000 & echo $! >{tmp_path}/pid; echo done"
    begun = time.monotonic()
    assert process.run(["sh", "-c", script], deadline=600) == b"done\n"
    assert time.monotonic() - begun < 60
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(pid))


def test_a_deadline_ends_the_whole_group(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match=r"sh did not end within 0\.5 s$"):
        process.run(["sh", "-c", f"sleep 1000 & echo $! >{tmp_path}/pid; wait"], deadline=0.5)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(pid))


def test_what_a_failed_program_said_is_told_whole() -> None:
    with pytest.raises(ProcessError, match=r"^sh failed with status 1: two$") as failed:
        process.run(["sh", "-c", "echo one >&2; echo two >&2; exit 1"], deadline=60)
    assert (failed.value.words, failed.value.late) == ("one\ntwo", False)
    with pytest.raises(ProcessError) as late:
        process.run(["sh", "-c", "echo one >&2; exec sleep 1000"], deadline=0.5)
    assert (late.value.words, late.value.late) == ("one", True)


@pytest.mark.parametrize("tethered", [False, True])
def test_a_descriptor_is_passed_under_its_number_and_no_other_is(tethered: bool) -> None:
    first, second = os.memfd_create("first"), os.memfd_create("second")
    try:
        os.write(first, b"one")
        os.write(second, b"two")
        script = f"cat /dev/fd/{first}; [ -e /dev/fd/{second} ] || echo none"
        assert process.run(["sh", "-c", script], deadline=60, pass_fds=[first], tethered=tethered) == b"onenone\n"
    finally:
        os.close(first)
        os.close(second)


@pytest.mark.parametrize("tethered", [False, True])
def test_programs_are_cancelled_from_another_thread_and_no_more_are_begun(tmp_path: Path, tethered: bool) -> None:
    cancel = Cancel()
    assert process.run(["echo", "on"], deadline=60, cancel=cancel, tethered=tethered) == b"on\n"
    pids = [tmp_path / "1", tmp_path / "2"]

    def hang(pid: Path) -> None:
        script = f"echo $$ >{pid}.part; mv {pid}.part {pid}; sleep 1000; true"
        process.run(["sh", "-c", script], deadline=600, cancel=cancel, tethered=tethered)

    with ThreadPoolExecutor() as threads:
        running = [threads.submit(hang, pid) for pid in pids]
        wait_for(lambda: all(pid.exists() for pid in pids))
        begun = time.monotonic()
        cancel.cancel()
        for each in running:
            with pytest.raises(Cancelled, match=r"^sh was cancelled$"):
                each.result()
    assert time.monotonic() - begun < 30
    wait_for(lambda: not any(alive(int(pid.read_text())) for pid in pids))
    cancel.cancel()
    with pytest.raises(Cancelled, match=r"^touch is not begun: it was cancelled$"):
        process.run(["touch", tmp_path / "3"], deadline=60, cancel=cancel)
    assert not (tmp_path / "3").exists()


def test_a_tethered_program_is_as_any_other() -> None:
    assert process.run(["sh", "-c", "echo $0 $1", "a b", "$c"], deadline=60, tethered=True) == b"a b $c\n"
    with pytest.raises(ProcessError, match=r"^sh failed with status 3: so$") as failed:
        process.run(["sh", "-c", "echo so >&2; exit 3"], deadline=60, tethered=True)
    assert failed.value.returncode == 3
    with pytest.raises(ProcessError, match=r"^sh failed with status -6"):
        process.run(["sh", "-c", "kill -ABRT $$"], deadline=60, tethered=True)
    with pytest.raises(ProcessError, match=r"^no-such-program cannot be run: No such file or directory$"):
        process.run(["no-such-program"], deadline=60, tethered=True)


@pytest.mark.parametrize("tethered", [False, True])
def test_a_tethered_program_ends_with_a_killed_provider(tmp_path: Path, tethered: bool) -> None:
    """Without the tether it would not: nobody is left who knows of its deadline."""
    pid = tmp_path / "pid"
    run = f"process.run(['sh', '-c', 'echo $$ >{pid}; exec sleep 1000'], deadline=900, tethered={tethered})"
    provider = subprocess.Popen([sys.executable, "-c", f"from sri_libvirt import process; {run}"])
    wait_for(lambda: pid.exists() and pid.read_text())
    program = int(pid.read_text())
    provider.kill()
    provider.wait()
    if tethered:
        wait_for(lambda: not alive(program))
    else:
        assert alive(program)
        os.kill(program, signal.SIGKILL)


def test_a_program_whose_provider_ended_before_it_was_tethered_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parent is another by then, as here its parent's number is."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(ProcessError, match="status 1"):
        process.run(["touch", tmp_path / "begun"], deadline=60, tethered=True)
    assert not (tmp_path / "begun").exists()


def alive(pid: int) -> bool:
    """Whether it runs; a zombie that an idle PID 1 has not reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def freezer() -> Iterator[Path]:
    group = FREEZER / f"sri-libvirt-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no freezer of version 1 here: {error}")
    yield group
    (group / "freezer.state").write_text("THAWED")
    wait_for(lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


def test_a_program_that_nothing_ends_is_left_behind_at_its_deadline_and_reaped_later(
    freezer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen, it is in uninterruptible sleep (D) as far as SIGKILL is concerned."""
    script = f"echo $$ >{tmp_path}/pid; echo $$ >{freezer}/cgroup.procs; echo FROZEN >{freezer}/freezer.state; sleep 1"
    begun = time.monotonic()
    with pytest.raises(ProcessError, match="did not end within 1 s, and cannot be ended: it hangs in the kernel"):
        process.run(["sh", "-c", script], deadline=1, place="/dev/dead")
    assert time.monotonic() - begun < 30
    assert process.left_behind() == 1
    with pytest.raises(Hanging, match="echo is not begun: one before it hangs in the kernel, at /dev/dead"):
        process.run(["echo", "on"], deadline=60, place="/dev/dead")
    for place in ("", "/dev/live"):
        assert process.run(["echo", "on"], deadline=60, place=place) == b"on\n"
    monkeypatch.setattr(process, "MOST_LEFT", 1)
    with pytest.raises(Hanging, match="echo is not begun: 1 programs before it hang in the kernel"):
        process.run(["echo", "on"], deadline=60)
    (freezer / "freezer.state").write_text("THAWED")
    wait_for(lambda: process.left_behind() == 0)
    assert process.run(["echo", "on"], deadline=60, place="/dev/dead") == b"on\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)  # reaped, not only dead


def test_lines_are_given_as_they_come_and_the_rest_without_its_end() -> None:
    heard: list[bytes] = []
    script = 'echo one; read -r word; echo "$word"; printf last'
    assert process.run(["sh", "-c", script], deadline=60, stdin=b"two\n", on_line=heard.append) == b""
    assert heard == [b"one", b"two"], "what has no end is no line"


def test_any_number_of_lines_is_no_long_answer(peak: int) -> None:
    lines = 0

    def count(_: bytes) -> None:
        nonlocal lines
        lines += 1

    process.run(["seq", "1000000"], deadline=60, on_line=count)
    assert lines == 1_000_000
    assert grown(peak) < GROWTH


def test_a_line_without_end_ends_the_program(peak: int) -> None:
    with pytest.raises(ProcessError, match="wrote more than 1 MiB"):
        process.run(["cat", "/dev/zero"], deadline=60, on_line=lambda _: None)
    assert grown(peak) < GROWTH


def test_a_line_that_cannot_be_read_ends_the_program() -> None:
    def refuse(line: bytes) -> None:
        raise ValueError(line.decode())

    begun = time.monotonic()
    with pytest.raises(ValueError, match="one"):
        process.run(["sh", "-c", "echo one; sleep 60"], deadline=60, on_line=refuse)
    assert time.monotonic() - begun < 30


def test_a_program_is_told_of_by_the_name_that_it_is_called() -> None:
    with pytest.raises(ProcessError, match=r"^fetcher failed with status 3: no message$"):
        process.run(["sh", "-c", "exit 3"], deadline=60, called="fetcher")
