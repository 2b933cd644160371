"""CPUs and memory of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from sri_libvirt.host import cpu, memory


@pytest.mark.parametrize(
    ("text", "numbers"), [("0\n", {0}), ("0-3\n", {0, 1, 2, 3}), ("0-1,8,10-11", {0, 1, 8, 10, 11})]
)
def test_cpu_list(text: str, numbers: set[int]) -> None:
    assert cpu.parse_list(text) == numbers


@pytest.mark.parametrize("text", ["", "a-b", "1-"])
def test_no_cpu_list(text: str) -> None:
    with pytest.raises(ValueError):
        cpu.parse_list(text)


def test_online(tmp_path: Path) -> None:
    (tmp_path / "devices/system/cpu").mkdir(parents=True)
    (tmp_path / "devices/system/cpu/online").write_text("0-2,5\n")
    assert cpu.online(tmp_path) == 4


def test_total_memory(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:       24683656 kB\nMemFree:         8431960 kB\n")
    assert memory.total_bytes(tmp_path) == 24683656 * 1024


@pytest.mark.parametrize("text", ["", "MemFree: 1 kB\n", "MemTotal: 1 MB\n"])
def test_no_total(text: str) -> None:
    with pytest.raises(ValueError):
        memory.parse_total(text)
