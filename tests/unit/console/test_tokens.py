"""Tokens of exec URLs: for whom, for how long, how many."""

from __future__ import annotations

import pytest

from sri_libvirt.console.tokens import LIFE, MOST, Tokens
from sri_libvirt.errors import Unavailable

NOW = 1_000


@pytest.fixture
def now() -> list[int]:
    return [NOW]


@pytest.fixture
def tokens(now: list[int]) -> Tokens:
    return Tokens(lambda: now[0])


def test_a_token_is_for_one_machine_until_it_is_used(tokens: Tokens) -> None:
    first, second = tokens.issue("a"), tokens.issue("b")
    assert len({first, second}) == 2
    assert len(first) == 22, "128 bits"
    assert [tokens.machine(each) for each in (first, second, "", first[:-1], first + "A")] == ["a", "b", "", "", ""]
    tokens.use(first)
    tokens.use(first)
    assert [tokens.machine(each) for each in (first, second)] == ["", "b"]


def test_a_token_lasts_for_a_minute(tokens: Tokens, now: list[int]) -> None:
    old = tokens.issue("a")
    now[0] += LIFE - 1
    new = tokens.issue("b")
    assert tokens.machine(old) == "a"
    now[0] += 1
    assert [tokens.machine(each) for each in (old, new)] == ["", "b"]


def test_so_many_are_good_at_once(tokens: Tokens, now: list[int]) -> None:
    issued = [tokens.issue("a") for _ in range(MOST)]
    with pytest.raises(Unavailable):
        tokens.issue("a")
    tokens.use(issued[0])
    tokens.issue("a")
    now[0] += LIFE
    tokens.issue("a")


def test_no_token_is_kept(tokens: Tokens) -> None:
    assert tokens.issue("a") not in repr(vars(tokens))
