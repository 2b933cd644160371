"""`sri-libvirt images`, and what `machine why` says of one that is being fetched: words, data, statuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sri_libvirt.app  # noqa: F401 -- psutil looks at the host when it is imported
from sri_libvirt.cli import daemon
from sri_libvirt.cli.images import pull
from sri_libvirt.devices import ImagePin
from sri_libvirt.errors import FailedPrecondition
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Attachment
from sri_libvirt.server import asking
from sri_libvirt.store import Store
from tests.unit.cli.conftest import NOW, WEB, Cli, machine

PIN = ImagePin(f"r.example/debian@sha256:{'0' * 64}", parts=("sha256:0",))
FILE = {
    "source": PIN.reference, "file": "/state/images/sha256/00.raw", "digest": "sha256:00", "format": "raw",
    "bytes": 2 << 30, "machines": 0, "unused_seconds": 3 * 86400 + 5,
}  # fmt: skip
PULL = {"source": PIN.reference, "bytes": 512 << 20, "of": 2 << 30, "seconds": 61}
LISTED = {"files": [FILE, {**FILE, "machines": 3}], "pulls": [PULL], "bytes": 3 << 30}


class Daemon:
    """A daemon that answers as a test says, one answer after the other, and remembers what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.answers: list[Any] = []
        monkeypatch.setattr(daemon, "through", lambda _, command, arguments, __: self(command, arguments))
        monkeypatch.setattr(asking, "ask", lambda _, command, arguments, **__: self(command, arguments))
        monkeypatch.setattr(pull, "POLL_SECONDS", 0.0)

    def __call__(self, command: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append((command, dict(arguments)))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch, state_dir: Path, store: Store) -> Daemon:
    StatePaths(state_dir).admin_socket.touch()
    return Daemon(monkeypatch)


def test_the_list_says_what_is_kept_by_whom_and_how_far_pulls_are(cli: Cli, running: Daemon) -> None:
    running.answers = [LISTED, LISTED]
    result = cli("images", "list")
    assert result.status == 0
    lines = [line.split() for line in result.out.splitlines()]
    assert lines[0] == ["SOURCE", "FORMAT", "SIZE", "MACHINES", "UNUSED", "FILE"]
    assert lines[1] == [PIN.reference, "raw", "2", "GiB", "0", "3d", "00.raw"]
    assert lines[2] == [PIN.reference, "raw", "2", "GiB", "3", "00.raw"], "what is needed is not unused"
    assert result.out.splitlines()[3] == f"being fetched since 1m: {PIN.reference}, 512 MiB of 2 GiB"
    assert result.out.splitlines()[4] == "2 images, 3 GiB of disk"
    assert json.loads(cli("images", "list", "-o", "json").out) == LISTED


def test_a_pull_waits_until_it_is_here_and_says_it_by_its_content(cli: Cli, running: Daemon) -> None:
    waits = {"reference": None, "ready": False, "bytes": 1, "of": None}
    running.answers = [waits, waits, {"reference": PIN.reference, "ready": True, "bytes": None, "of": None}]
    result = cli("images", "pull", "r.example/debian:12")
    assert (result.status, result.out, result.err) == (0, f"{PIN.reference}\n", "")
    assert [arguments["anew"] for _, arguments in running.asked] == [True, False, False], "a failure is forgotten once"


def test_a_pull_that_fails_says_why(cli: Cli, running: Daemon) -> None:
    running.answers = [FailedPrecondition("r.example has no image debian called 12. Push it there.")]
    result = cli("images", "pull", "r.example/debian:12")
    assert (result.status, result.out) == (1, "")
    assert "has no image debian" in result.err


def test_prune_says_what_came_free(cli: Cli, running: Daemon) -> None:
    running.answers = [{"bytes": 5 << 30}, {"bytes": 0}]
    assert cli("images", "prune").out == "5 GiB of disk came free\n"
    assert cli("images", "prune", "--all").out == "0 B of disk came free\n"
    assert [arguments for _, arguments in running.asked] == [{"all": False}, {"all": True}]


def test_a_check_fails_when_something_was_not_as_it_was_fetched(cli: Cli, running: Daemon) -> None:
    good = {"source": PIN.reference, "digest": "sha256:00", "problem": None}
    running.answers = [[good], [good, {**good, "problem": "its file is gone"}]]
    assert cli("images", "check").status == 0
    result = cli("images", "check")
    assert result.status == 1
    assert "its file is gone" in result.out
    assert "1 of 2 images" in result.err


def test_machine_why_says_how_far_its_image_is(cli: Cli, running: Daemon, store: Store) -> None:
    machine_id = "22222222-aaaa-4000-8000-000000000001"
    row = Attachment(
        machine_id, "image", "", 1, b"r.example/debian:12", True, NOW, port=1, problem="it is being fetched",
        problem_code="under-way", image=PIN,
    )  # fmt: skip
    fetched = replace(machine(machine_id, "fetched", NOW), attachments=(row,))
    store.write(lambda tx: tx.insert(fetched))
    running.answers = [LISTED, LISTED, {**LISTED, "pulls": []}]
    assert "Of its image 512 MiB of 2 GiB are here after 61 s." in cli("machine", "why", "fetched").out
    shown = json.loads(cli("machine", "why", "fetched", "-o", "json").out)
    assert shown["image_pull"] == {"bytes": 512 << 20, "of": 2 << 30, "seconds": 61}
    assert "Of its image" not in cli("machine", "why", "fetched").out
    assert "Of its image" not in cli("machine", "why", WEB).out
    assert len(running.asked) == 3, "nobody is asked about a machine that waits for no image"
