"""`machine wait`, whose time is kept whatever the provider does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt.cli.machine import wait
from sri_libvirt.cli.reading import Ask
from sri_libvirt.errors import NotFound, SRIError, Unavailable
from tests.unit.cli.conftest import WEB, Cli

Answer = Callable[[str, Mapping[str, Any]], Any]


def answered_by(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def reading(_settings: object) -> Iterator[Ask]:
        yield Ask(Path("/nowhere/read.sock"), answer)

    monkeypatch.setattr(wait, "reading", reading)
    monkeypatch.setattr(wait, "WHY_SECONDS", 0.01)


def test_a_provider_that_is_silent_from_the_first_does_not_keep_the_time(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    answered_by(lambda *_: over.wait(60), monkeypatch)
    told = cli("machine", "wait", WEB, "--for", "off", "--timeout", "50ms")
    over.set()
    assert (told.status, told.err) == (1, "sri-libvirt: the time is over. The provider does not answer.\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NotFound("there is no machine"), "The machine is gone."),
        (Unavailable("nobody is there"), "Why is not known: nobody is there"),
    ],
)
def test_a_provider_that_is_gone_is_no_machine_that_is(
    error: SRIError, words: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def answer(question: str, _arguments: Mapping[str, Any]) -> Any:
        if question == "why":
            raise error
        return over.wait(60)

    answered_by(answer, monkeypatch)
    told = cli("machine", "wait", WEB, "--for", "off", "--timeout", "50ms")
    over.set()
    assert (told.status, told.err) == (1, f"sri-libvirt: the time is over. {words}\n")
