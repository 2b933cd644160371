"""The store: what every machine should be, what the loop knows about it, and its timeline, in one SQLite file.

Policy does not belong here: a `Transaction` says what a row holds, never whether it may.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sri_libvirt.store.reader import Reader
    from sri_libvirt.store.store import Store
    from sri_libvirt.store.transaction import Transaction

__all__ = ["Reader", "Store", "Transaction"]


def __getattr__(name: str) -> Any:
    """The three, imported when they are asked for: a short command that only reads does not wait for the writer."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name.lower()}"), name)
