"""Logs are one JSON object a line, hold plain values only, and no local variables."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path
from typing import Literal

import pytest
import structlog

from sri_libvirt import config, log, printable
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb

SECRET = "hunter2"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines(stream: io.StringIO) -> None:
    log.set_up("info", "auto", stream)
    logger = structlog.get_logger()
    logger.debug("hidden")
    logger.info("seen", machine="ü", count=3, items=["a", None])
    (line,) = lines(stream)
    assert line.pop("timestamp")
    assert line == {"event": "seen", "level": "info", "machine": "ü", "count": 3, "items": ["a", None]}


def test_context_follows(stream: io.StringIO) -> None:
    log.set_up("info", "json", stream)
    with structlog.contextvars.bound_contextvars(machine="m"):
        structlog.get_logger().info("seen")
    assert lines(stream)[0]["machine"] == "m"


def test_messages_bytes_and_objects_come_out_as_their_type(stream: io.StringIO) -> None:
    log.set_up("info", "json", stream)
    connection = pb.VolumeConnection(secret_data={"userKey": SECRET.encode()})
    structlog.get_logger().info(
        "seen",
        volume=pb.Volume(connection=connection),
        key=SECRET.encode(),
        parts=[pb.Volume(connection=connection)],
        map={"deep": connection.secret_data, "bytes": SECRET.encode(), SECRET.encode(): 1},
    )
    assert SECRET not in stream.getvalue()
    (line,) = lines(stream)
    assert (line["volume"], line["key"], line["parts"]) == ("<Volume>", "<bytes>", ["<Volume>"])
    assert isinstance(line["map"], dict)
    assert line["map"]["bytes"] == "<bytes>"


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_hold_no_local_variables(stream: io.StringIO, form: str) -> None:
    log.set_up("info", form, stream)  # type: ignore[arg-type]
    secret = "".join(["hun", "ter2"])
    try:
        raise KeyError(len(secret))
    except KeyError:
        structlog.get_logger().exception("failed")
    assert "KeyError: 7" in stream.getvalue()
    assert SECRET not in stream.getvalue()


def test_long_values_are_cut(stream: io.StringIO) -> None:
    log.set_up("info", "json", stream)
    structlog.get_logger().info("seen", text="x" * 10_000)
    assert len(str(lines(stream)[0]["text"])) == log.LONGEST + 1


def test_libraries_log_in_the_same_form(stream: io.StringIO) -> None:
    log.set_up("info", "json", stream)
    logging.getLogger("grpc").info("chatter")
    logging.getLogger("grpc").warning("port %d", 7)
    (line,) = lines(stream)
    assert (line["event"], line["level"]) == ("port 7", "warning")


NAMES = ("\x1b[2J", "a\nb", "\x85\x9b2J\x7f", "\u202e\u2066\u061c\ufeff\u2028", "\ud800")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
@pytest.mark.parametrize("form", ["json", "console"])
def test_no_value_can_draw_or_break_its_line(stream: io.StringIO, form: Literal["json", "console"], name: str) -> None:
    log.set_up("info", form, stream)
    with structlog.contextvars.bound_contextvars(machine=name):
        structlog.get_logger().warning("seen", text=name, items=[name], map={name: name}, error=ValueError(name))
    logging.getLogger("grpc").warning("of a library: %s", name)
    said = stream.getvalue()
    assert not printable.UNFIT.search(said.replace("\n", "").replace("\x1b[0m", "").replace("\x1b[1m", ""))
    assert said.count("\n") == 2
    if form == "json":
        assert lines(stream)[0]["text"] == name, "a document loses nothing"


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_traceback_can_draw(stream: io.StringIO, form: Literal["json", "console"]) -> None:
    log.set_up("info", form, stream)
    try:
        raise ValueError("a\x9b2J\u202e")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("grpc").exception("failed")
    assert stream.getvalue().count("2J") >= 2
    assert not printable.UNFIT.search(stream.getvalue().replace("\n", ""))


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_journal_is_told_of_each_lines_priority(stream: io.StringIO, form: Literal["json", "console"]) -> None:
    log.set_up("debug", form, stream, journal=True)
    logger = structlog.get_logger()
    for name in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, name)("said")
    logging.getLogger("another").warning("by a library")
    try:
        raise ValueError("why")
    except ValueError:
        logger.exception("a bug")
    told = stream.getvalue().splitlines()
    assert [line[:3] for line in told[:6]] == ["<7>", "<6>", "<4>", "<3>", "<2>", "<4>"]
    assert len(told) > 6
    assert all(line.startswith("<3>") for line in told[6:]), "a traceback's lines, too"
    if form == "json":
        assert json.loads(told[0][3:])["event"] == "said"


def test_whether_a_descriptor_is_the_journal_is_told_by_its_file(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("w") as file:
        found = os.fstat(file.fileno())
        environ = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert config.is_journal(file.fileno(), environ)
        assert not config.is_journal(file.fileno(), {})
        assert not config.is_journal(file.fileno(), {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
    assert not config.is_journal(-1, environ)
