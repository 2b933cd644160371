"""The store: what every machine should be, what the loop knows about it, and its timeline, in one SQLite file.

Policy does not belong here: a `Transaction` says what a row holds, never whether it may.
"""

from sri_libvirt.store.reader import Reader
from sri_libvirt.store.store import Store
from sri_libvirt.store.transaction import Transaction

__all__ = ["Reader", "Store", "Transaction"]
