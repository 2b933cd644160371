"""Kubernetes quantities (`500m`, `8Gi`, `1e3`, `1.5Gi`), exactly.

Follows apimachinery's `resource.Quantity`: decimal suffixes n u m k M G T P E, binary ones Ki to Ei, or a decimal
exponent; never both. Rounding is up, as in its `MilliValue()` and `Value()`, because the poollet compares a class's
capabilities by these two (contract A.8). Units of the values (cores, bytes) do not belong here.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal

LARGEST = 2**63 - 1
"""What an int64 of the SRI can hold."""

_FORM = re.compile(
    r"(?P<number>[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?P<suffix>[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,3})?"
)
_EXACT = Context(prec=400)
_LONGEST = 64
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse(text: str) -> Decimal:
    """The exact value of a quantity. Raises ValueError with a sentence for people."""
    match = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not a quantity such as 4, 500m, 8Gi or 1e3")
    number, suffix = Decimal(match["number"]), match["suffix"] or ""
    if suffix in _BINARY:
        value = _EXACT.multiply(number, Decimal(1 << _BINARY[suffix]))
    else:
        power = _DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:] or 0)
        value = _EXACT.scaleb(number, power)
    if not -LARGEST <= value <= LARGEST:
        raise ValueError(f"{text!r} is too large")
    return value


def whole(text: str) -> int:
    """The quantity in whole units, rounded up (`Value()`)."""
    return _rounded(text, parse(text))


def millis(text: str) -> int:
    """The quantity in thousandths, rounded up (`MilliValue()`)."""
    return _rounded(text, _EXACT.scaleb(parse(text), 3))


def _rounded(text: str, value: Decimal) -> int:
    number = int(value.to_integral_value(ROUND_CEILING, _EXACT))
    if not -LARGEST <= number <= LARGEST:
        raise ValueError(f"{text!r} is too large")
    return number
