"""Quantities are read as Kubernetes reads them, exactly, and rounded up as it rounds."""

from __future__ import annotations

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt import quantity


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", "0"),
        ("4", "4"),
        ("+4", "4"),
        ("-4", "-4"),
        ("500m", "0.5"),
        (".5", "0.5"),
        ("1.", "1"),
        ("1.5Gi", str(3 << 29)),
        ("8Gi", str(8 << 30)),
        ("1Ki", "1024"),
        ("7Ei", str(7 << 60)),
        ("1k", "1000"),
        ("1e3", "1000"),
        ("1E3", "1000"),
        ("1E", "1000000000000000000"),
        ("12e-1", "1.2"),
        ("100n", "1E-7"),
        ("3u", "0.000003"),
        ("9223372036854775807", "9223372036854775807"),
    ],
)
def test_values(text: str, value: str) -> None:
    assert quantity.parse(text) == Decimal(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 Gi",
        "1gi",
        "1K",
        "0x10",
        "1e",
        "1_000",
        "1Gi3",
        "1e3Gi",
        "--1",
        "٣",
        "nan",
        "1\n",
        "1e999",
        "8Ei",
        "9" * 99,
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|large"):
        quantity.parse(text)


@pytest.mark.parametrize(
    ("text", "millis", "whole"),
    [("1", 1000, 1), ("500m", 500, 1), ("0.0001", 1, 1), ("1.0001", 1001, 2), ("-1.5", -1500, -1), ("0", 0, 0)],
)
def test_rounding_is_up(text: str, millis: int, whole: int) -> None:
    assert (quantity.millis(text), quantity.whole(text)) == (millis, whole)


def test_thousandths_too_large_for_the_sri() -> None:
    assert quantity.whole("9000000000G") == 9 * 10**18
    with pytest.raises(ValueError, match="too large"):
        quantity.millis("9000000000G")


@given(st.integers(0, 2**63 - 1))
def test_no_digit_is_lost(number: int) -> None:
    assert quantity.whole(str(number)) == number
    assert quantity.parse(f"{number}n") == Decimal(number).scaleb(-9)


@given(st.text(max_size=12))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    with suppress(ValueError):
        assert quantity.parse(text).is_finite()
