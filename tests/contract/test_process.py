"""The door to subprocesses: bounds that hold whatever a program does, and a deadline that holds when it cannot die."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sri_libvirt import process
from sri_libvirt.process import ProcessError

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
        process.run(["sh", "-c", script], deadline=1)
    assert time.monotonic() - begun < 30
    assert process.left_behind() == 1
    assert process.run(["echo", "on"], deadline=60) == b"on\n"
    monkeypatch.setattr(process, "MOST_LEFT", 1)
    with pytest.raises(ProcessError, match="echo is not begun: 1 programs before it hang in the kernel"):
        process.run(["echo", "on"], deadline=60)
    (freezer / "freezer.state").write_text("THAWED")
    wait_for(lambda: process.left_behind() == 0)
    assert process.run(["echo", "on"], deadline=60) == b"on\n"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGCONT)  # reaped, not only dead
