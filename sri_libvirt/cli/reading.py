"""Asking what is told of machines: of the store where this user may read it, else of the daemon, by the socket of its
group. What can be asked does not belong here (`views/machines.py`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sri_libvirt.config import Settings
from sri_libvirt.errors import StoreError, Unavailable
from sri_libvirt.looks import Looks
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import asking
from sri_libvirt.store import Reader
from sri_libvirt.views.machines import Views

if TYPE_CHECKING:
    from sri_libvirt.hypervisor.base import Connection


@dataclass(frozen=True, slots=True)
class Ask:
    """`ask(question, name=value, …)` gives the answer; raises SRIError. `door` is where the daemon tells this user of
    changes.
    """

    door: Path
    answer: Callable[[str, Mapping[str, Any]], Any]

    def __call__(self, question: str, **arguments: Any) -> Any:
        return self.answer(question, arguments)


LOOK_SECONDS = 3.0
"""How long libvirt, the kernel and file systems may take to say what nothing else depends on."""

ASK_SECONDS = 5.0
"""How long a daemon that hangs may keep the rest from being shown."""

ANSWER_SECONDS = 30.0
"""How long the daemon may take for a whole answer."""


def open_store(settings: Settings) -> Reader:
    """The store of the state directory, read-only. Raises StoreError, also of one that may be the wrong one."""
    reader = Reader.open(StatePaths(settings.state_dir))
    if doubt := reader.doubt:
        reader.close()
        raise StoreError(doubt)
    return reader


@contextmanager
def reading(settings: Settings) -> Iterator[Ask]:
    """Whom to ask. Raises StoreError."""
    paths = StatePaths(settings.state_dir)
    if _may_read(paths.database):
        with open_store(settings) as reader:
            views = Views(reader, settings, _daemon(paths), connecting(settings), Looks(patience=LOOK_SECONDS))
            yield Ask(paths.admin_socket, views.answer)
    else:
        yield Ask(paths.reading_socket, partial(_ask_daemon, paths))


def _may_read(path: Path) -> bool:
    """Whether no right of a file keeps this user from it; what else is wrong with it is told by who opens it.

    It is not opened: whoever closes a file drops all locks that his process has on it, a reader's of SQLite too.
    """
    try:
        path.stat()
    except PermissionError:
        return False
    except OSError:
        return True
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def _ask_daemon(paths: StatePaths, question: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return asking.ask(paths.reading_socket, question, arguments, seconds=ANSWER_SECONDS)
    except Unavailable as error:
        if not isinstance(error.__cause__, PermissionError | FileNotFoundError | ConnectionRefusedError):
            raise  # it is there, and for this user
        raise Unavailable(
            f"{paths.database} is not for this user, and {error}. Root may read the store; who is in the provider's "
            "--socket-group may ask it while it runs"
        ) from error


def _daemon(paths: StatePaths) -> Callable[[str, Mapping[str, Any]], Any]:
    def ask(command: str, arguments: Mapping[str, Any]) -> Any:
        if not paths.admin_socket.exists():
            raise Unavailable(f"no provider runs on {paths.root}")
        return asking.ask(paths.admin_socket, command, arguments, seconds=ASK_SECONDS)

    return ask


def connecting(settings: Settings) -> Callable[[], Connection]:
    """Makes a connection to libvirt."""

    def connect() -> Connection:
        from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor  # libvirt takes a while to load

        return LibvirtHypervisor(settings.libvirt_uri).connect()

    return connect
