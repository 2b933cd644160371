"""Since when nothing has been written to the parts of images: by the store's clock, and kept over restarts.

A file's own time tells only whether it was written to since the latest look: it is the wall clock's, which jumps. Which
parts go, and when, does not belong here (`cache.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from sri_libvirt.records import SECOND

META_PARTS = "parts"
"""Key in the store of what each part was like, and since when it has been so."""


class Ledger(Protocol):
    """What is asked of a transaction of the store."""

    def meta(self, key: str) -> str | None: ...

    def set_meta(self, key: str, value: str) -> None: ...


def idle(tx: Ledger, parts: Iterable[Path], now: int) -> dict[Path, float]:
    """For how many seconds each part has been what it is, counted from the first look that found it so."""
    stored = tx.meta(META_PARTS) or "{}"
    known = json.loads(stored)
    seen, found = {}, {}
    for path in parts:
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        like = [status.st_ino, status.st_size, status.st_mtime_ns]
        *before, since = known.get(path.name, [now])
        since = since if before == like else now
        seen[path.name] = [*like, since]
        found[path] = (now - since) / SECOND
    if (text := json.dumps(seen)) != stored:
        tx.set_meta(META_PARTS, text)
    return found
