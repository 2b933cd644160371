"""What waits for a client that is slow: bounded, in order, and told of where something is missing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.console.ring import Ring


def all_of(ring: Ring, most: int = 1000) -> bytes:
    found = bytearray()
    while piece := ring.take(most):
        found += piece
    return bytes(found)


def test_what_is_put_is_taken_in_order() -> None:
    ring = Ring(10)
    assert ring.put(b"abc")
    assert not ring.put(b"defg")
    assert ring.take(2) == b"ab"
    assert ring.take(100) == b"cdefg"
    assert ring.take(100) == b""
    assert ring.put(b"h"), "there was nothing"
    assert ring.lost == 0


def test_the_oldest_goes_and_a_line_in_its_place_says_so() -> None:
    ring = Ring(10)
    ring.put(b"0123456789")
    ring.put(b"abcd")
    told = ring.take(100)
    assert told == b"\r\n[4 bytes of output were lost here; the console log has them]\r\n"
    assert all_of(ring) == b"456789abcd"
    assert ring.lost == 4
    ring.put(b"x" * 25)
    assert b"[15 bytes" in ring.take(100)
    assert all_of(ring) == b"x" * 10
    assert ring.lost == 19


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=30), st.integers(1, 20))))
def test_what_is_shown_is_an_end_of_what_was_printed(steps: list[bytes | int]) -> None:
    ring, printed, shown = Ring(16), b"", b""
    for step in steps:
        if isinstance(step, bytes):
            ring.put(step)
            printed += step
        else:
            piece = ring.take(step)
            shown += b"" if piece.startswith(b"\r\n[") and b"bytes of output" in piece else piece
    while piece := ring.take(7):
        shown += b"" if piece.startswith(b"\r\n[") and b"bytes of output" in piece else piece
    assert len(shown) + ring.lost == len(printed)
    assert printed.endswith(shown[-16:] if ring.lost else shown)
