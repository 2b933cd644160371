"""The kernel's word on whom it killed for want of memory; the lines are of a real kill, and as systemd names scopes."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from sri_libvirt.host.oom import JOURNAL, Kill, OutOfMemory, parse_journal, parse_kmsg
from sri_libvirt.process import ProcessError

ID = "0f12dd1d-a943-498f-931a-b3bf3b43a42f"
OTHER = "7817dd1d-a943-498f-931a-b3bf3b43a42f"
AT = 1331358234
"""Microseconds of uptime."""

GROUP = f"/machine/qemu-1-{ID}.libvirt-qemu"
TEXT = (
    f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=vcpu0,mems_allowed=0,oom_memcg={GROUP},"
    f"task_memcg={GROUP},task=qemu-system-x86,pid=10629,uid=64055"
)
SCOPE = rf"/machine.slice/machine-qemu\x2d12\x2d{ID.replace('-', chr(92) + 'x2d')}.scope/libvirt/emulator"
KILLED = "Memory cgroup out of memory: Killed process 10629 (qemu-system-x86) total-vm:2632772kB, anon-rss:305760kB"


def kmsg(text: str, at: int = AT) -> str:
    """As the kernel hands a line out: backslashes escaped."""
    return f"6,545,{at},-;" + text.replace("\\", "\\x5c")


def journal(text: str, at: int = AT) -> str:
    return json.dumps({"MESSAGE": text, "_SOURCE_MONOTONIC_TIMESTAMP": str(at), "__MONOTONIC_TIMESTAMP": "1"})


def asked(tmp_path: Path, records: Sequence[str], *, count: int = 1, uptime: int = AT) -> OutOfMemory:
    """A host whose kernel has said this. Each read of its log gives one record, as /dev/kmsg does."""
    (tmp_path / "vmstat").write_text(f"pgfault 1\noom_kill {count}\n")

    def run(argv: Sequence[str]) -> bytes:
        assert tuple(argv) == JOURNAL
        return "\n".join(records).encode()

    return OutOfMemory(proc=tmp_path, kmsg=tmp_path / "none", run=run, uptime=lambda: uptime * 1000)


@pytest.mark.parametrize("group", [GROUP, SCOPE])
def test_a_kill_names_its_group(group: str) -> None:
    text = TEXT.replace(f"task_memcg={GROUP}", f"task_memcg={group}")
    plain = group.replace("\\x2d", "-")
    assert parse_kmsg(kmsg(text)) == parse_journal(journal(text)) == Kill(plain, AT)


@pytest.mark.parametrize(
    "line", ["", "x", "6,1,2", kmsg(KILLED), "6,1,x,-;" + TEXT, journal(KILLED), "{}", "[]", "null", '{"MESSAGE": [1]}']
)
def test_other_lines_are_none(line: str) -> None:
    assert parse_kmsg(line) is None
    assert parse_journal(line) is None


@pytest.mark.parametrize("group", [GROUP, SCOPE])
def test_a_machine_is_told_from_others(tmp_path: Path, group: str) -> None:
    host = asked(tmp_path, [journal(KILLED), journal(TEXT.replace(f"task_memcg={GROUP}", f"task_memcg={group}"))])
    assert host.killed(ID, 60)
    assert not host.killed(OTHER, 60)


def test_a_kill_of_an_earlier_run_is_not_of_this_one(tmp_path: Path) -> None:
    host = asked(tmp_path, [journal(TEXT)], uptime=AT + 3600 * 1_000_000)
    assert host.killed(ID, 3600)
    assert not host.killed(ID, 60)


def test_nobody_is_asked_while_nothing_was_killed(tmp_path: Path) -> None:
    assert not asked(tmp_path, [journal(TEXT)], count=0).killed(ID, 60)


def test_a_host_that_cannot_tell_says_nothing(tmp_path: Path) -> None:
    def run(argv: Sequence[str]) -> bytes:
        raise ProcessError("journalctl cannot be run")

    assert not OutOfMemory(proc=tmp_path, kmsg=tmp_path / "none", run=run).killed(ID, 60)


def test_the_kernels_own_log_is_read_first(tmp_path: Path) -> None:
    fifo = tmp_path / "kmsg"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(fifo, os.O_WRONLY)
    os.write(writing, kmsg(TEXT).encode())
    os.close(writing)
    try:
        host = OutOfMemory(proc=tmp_path, kmsg=fifo, run=lambda _: b"", uptime=lambda: AT * 1000)
        assert host.killed(ID, 60)
    finally:
        os.close(reading)
