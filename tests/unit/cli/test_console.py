"""`console`: what it asks for, and the console log over virtlogd's renamings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.cli import main
from sri_libvirt.cli.console import logfile
from sri_libvirt.paths import MachinePaths
from sri_libvirt.printable import UNFIT
from sri_libvirt.views import consolelog
from tests.unit.cli.conftest import WEB, Cli


@pytest.fixture
def paths(state_dir: Path) -> MachinePaths:
    """Where `default/web` has its log."""
    root = state_dir / "machines" / WEB
    root.mkdir(parents=True)
    return MachinePaths(root)


def rotate(paths: MachinePaths, new: bytes, backups: int = 3) -> None:
    """As virtlogd does it, and begin anew with this."""
    log = paths.console_log
    for number in range(backups - 1, 0, -1):
        if (older := log.with_name(f"{log.name}.{number - 1}")).exists():
            older.rename(log.with_name(f"{log.name}.{number}"))
    log.rename(log.with_name(f"{log.name}.0"))
    log.write_bytes(new)


@pytest.mark.usefixtures("store")
def test_the_log_with_its_parts_in_order(
    state_dir: Path, paths: MachinePaths, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    paths.console_log.write_bytes(b"one\r\ntwo\n")
    rotate(paths, b"three\nfo")
    rotate(paths, b"ur\n\x1b[1mfive")

    def told(*flags: str) -> bytes:
        assert main.run(["console", "default/web", "--log", *flags, "--state-dir", str(state_dir)]) == 0
        return capsysbinary.readouterr().out

    assert told() == b"one\r\ntwo\nthree\nfour\n\x1b[1mfive", "into a pipe it goes as it is"
    assert told("--lines", "2") == b"four\n\x1b[1mfive"


@pytest.mark.usefixtures("store")
def test_a_machine_that_was_never_started_has_no_log(cli: Cli, paths: MachinePaths) -> None:
    told = cli("console", WEB, "--log")
    assert told.status == 1
    assert f"there is no {paths.console_log}: the machine has never been started" in told.err


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--log", "--force"], "reads a file"), (["--log", "--for", "1"], "reads a file"), (["-f"], "are for --log"),
     (["--lines", "3"], "are for --log")],
)  # fmt: skip
def test_what_makes_no_sense_together_is_refused(cli: Cli, flags: list[str], words: str) -> None:
    told = cli("console", WEB, *flags)
    assert told.status == 2
    assert words in told.err


class Followed:
    """The log as it is followed, look by look."""

    def __init__(self, paths: MachinePaths, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = paths
        self.days: Iterator[object] = iter(())
        monkeypatch.setattr("time.sleep", lambda _seconds: next(self.days))

    def read(self, *days: object) -> bytes:
        """All that is printed while one thing after the other happens, in the end the machine's removal."""
        self.days = iter(self._each(days))
        printed = bytearray()
        logfile._copy(self.paths, None, lambda data: printed.extend(data), follow=True)
        return bytes(printed)

    def _each(self, days: tuple[object, ...]) -> Iterator[object]:
        for day in days:
            assert callable(day)
            yield day()
        for file in self.paths.root.iterdir():
            file.unlink()
        self.paths.root.rmdir()
        yield None


def test_it_is_followed_over_renamings_until_the_machine_is_gone(
    paths: MachinePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = paths.console_log
    log.write_bytes(b"a")

    def append(data: bytes) -> None:
        with log.open("ab") as file:
            file.write(data)

    def twice_between_two_looks() -> None:
        append(b"c")
        rotate(paths, b"d")
        rotate(paths, b"e")

    def between_the_renaming_and_the_new_file() -> None:
        append(b"f")
        log.rename(log.with_name("console.log.0"))

    def emptied() -> None:
        os.truncate(log, 0)

    def more_often_than_parts_are_kept() -> None:
        for number in range(5):
            rotate(paths, str(number).encode())

    read = Followed(paths, monkeypatch).read(
        lambda: append(b"b"), twice_between_two_looks, between_the_renaming_and_the_new_file,
        lambda: log.write_bytes(b"g"), lambda: append(b"hi"), emptied, lambda: append(b"j"),
        more_often_than_parts_are_kept,
    )  # fmt: skip
    assert read == b"abcdefghij1234"


@pytest.mark.parametrize(
    ("printed", "shown"),
    [
        (b"[\x1b[32m  OK  \x1b[0m] Started\r\r\n", "[  OK  ] Started\n"),
        (b"\x1b]0;root@guest\x07# \x1b]52;c;aGk=\x1b\\x", "# x"),
        (b"10 %\r20 %\r\n", "10 %\n20 %\n"),
        (b"a\tb\x00\x1b\n", "a\tb\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\n"),
        ("ж\u202e".encode(), "ж\N{REPLACEMENT CHARACTER}"),
        (b"\xff", "\N{REPLACEMENT CHARACTER}"),
        (b"\x1b(B\x1bMx", "x"),
    ],
)
def test_what_a_terminal_is_given(printed: bytes, shown: str) -> None:
    assert consolelog.Text().of(printed) == shown
    text = consolelog.Text()
    assert "".join(text.of(bytes([each])) for each in printed) == shown


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"\x1b[", b"\x1b]0;", b"1m", b"\x07", b"\r", b"\n"])))
def test_a_terminal_is_never_given_what_it_may_not_be(pieces: list[bytes]) -> None:
    text, whole = consolelog.Text(), consolelog.Text()
    shown = "".join(map(text.of, pieces))
    assert not UNFIT.search(shown.replace("\n", "").replace("\t", ""))
    assert shown == whole.of(b"".join(pieces)), "however it comes"
