"""How the kernel writes facts, and trees that are broken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.host import files
from tests.unit.host.trees import listed, mask

IDS = st.frozensets(st.integers(0, files.MOST_IDS - 1), max_size=40)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0\n", {0}), ("0-3\n", {0, 1, 2, 3}), ("0-1,8,10-11", {0, 1, 8, 10, 11}), ("0, 2", {0, 2})],
)
def test_list(text: str, numbers: set[int]) -> None:
    assert files.parse_list(text) == numbers


@pytest.mark.parametrize("text", ["", "a-b", "1-", "-1", "0-3:2", "1_0", "٣", "0-4294967295", "0-65536"])
def test_no_list(text: str) -> None:
    with pytest.raises(ValueError):
        files.parse_list(text)


@given(IDS.filter(bool))
def test_every_list_is_read(numbers: frozenset[int]) -> None:
    assert files.parse_list(listed(numbers)) == numbers


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("f", {0, 1, 2, 3}),
        ("00000000,0000000f\n", {0, 1, 2, 3}),
        ("1,00000000", {32}),
        ("80000000,00000001", {0, 63}),
        ("0000000100000001", {0, 32}),
        ("0", set()),
    ],
)
def test_mask(text: str, numbers: set[int]) -> None:
    assert files.parse_mask(text) == numbers


@pytest.mark.parametrize("text", ["", "x", "0x1", "1,,1", "-1", "1 1", ",".join(["0"] * 3000), "f" * 17])
def test_no_mask(text: str) -> None:
    with pytest.raises(ValueError):
        files.parse_mask(text)


@given(IDS, st.integers(1, 64))
def test_every_mask_is_read(numbers: frozenset[int], words: int) -> None:
    assert files.parse_mask(mask(numbers, words)) == numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("-1", -1), ("0x8086", 0x8086), ("0", 0), ("", None), ("1_0", None), ("1.5", None), ("9" * 40, None)],
)
def test_number(text: str, number: int | None) -> None:
    assert files.parse_number(text) == number


def test_text_ends_at_a_nul(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"POWER9\0\0garbage")
    assert files.text(tmp_path / "model") == "POWER9"


def test_text_that_is_no_utf8_is_text_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(b"disk\xff\n")
    assert files.text(tmp_path / "model") == "disk\ufffd"


def test_text_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "endless").write_text("x" * 100)
    assert files.text(tmp_path / "endless", 10) == "x" * 10


def test_unknown_is_no_count(tmp_path: Path) -> None:
    (tmp_path / "numa_node").write_text("-1\n")
    assert files.number(tmp_path / "numa_node") == -1
    assert files.count(tmp_path / "numa_node") is None


@pytest.mark.parametrize(("text", "flag"), [("1\n", True), ("Y\n", True), ("0", False), ("N", False), ("2", None)])
def test_flag(text: str, flag: bool | None, tmp_path: Path) -> None:
    (tmp_path / "carrier").write_text(text)
    assert files.flag(tmp_path / "carrier") is flag


def test_what_is_no_file_says_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "empty").write_bytes(b"\n\0 1")
    for name in ("fifo", "loop", "empty", "missing", ".", "a\0b"):
        assert files.text(f"{tmp_path}/{name}") is None, name
    assert files.names(tmp_path / "empty") == files.names(f"{tmp_path}/a\0b") == ()
    assert files.link(tmp_path / "empty") is files.link(f"{tmp_path}/a\0b") is None
    assert not files.is_directory(tmp_path / "loop")


def test_names_that_no_kernel_gives_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "node1").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/node\xff")).mkdir()
    (tmp_path / "link").symlink_to(os.fsdecode(b"\xff"))
    assert files.names(tmp_path) == ("link", "node1")
    assert files.link(tmp_path / "link") is None


def test_numbered_entries(tmp_path: Path) -> None:
    for name in ("cpu0", "cpu10", "cpu2", "cpufreq", "cpu", "cpu-1", "cpu99999999", "node1"):
        (tmp_path / name).mkdir()
    assert files.numbered(tmp_path, "cpu") == (0, 2, 10)


def test_uevent(tmp_path: Path) -> None:
    (tmp_path / "uevent").write_text("DRIVER=ixgbe\nPCI_ID=8086:10FB\nEMPTY=\nodd\n")
    assert files.uevent(tmp_path) == {"DRIVER": "ixgbe", "PCI_ID": "8086:10FB"}
