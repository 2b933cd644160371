"""Asking the daemon while one runs, and doing it here only while none does: never both at once.

What is asked does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import click

from sri_libvirt import statedir
from sri_libvirt.errors import ConfigError
from sri_libvirt.paths import StatePaths
from sri_libvirt.server import asking


def through(paths: StatePaths, command: str, arguments: Mapping[str, Any], here: Callable[[], Any]) -> Any:
    """The result of an admin command of the daemon, or of `here` under the lock when no daemon holds it."""
    if not paths.root.is_dir():
        raise click.ClickException(f"there is no state directory {paths.root}; see --state-dir")
    with _for_root(paths), ExitStack() as stack:
        try:
            stack.enter_context(statedir.lock(paths))
        except ConfigError:
            return asking.ask(paths.admin_socket, command, arguments)
        _log_to_standard_error()
        return here()


@contextmanager
def alone(paths: StatePaths) -> Iterator[None]:
    """Nobody else uses the state directory (made if there is none). Raises ConfigError while a daemon runs on it."""
    with _for_root(paths):
        statedir.prepare(paths)
        with statedir.lock(paths):
            _log_to_standard_error()
            yield


def _log_to_standard_error() -> None:
    """What is done here is logged as by the daemon, as far as it is alarming: standard output is the answer's."""
    from sri_libvirt import log

    log.set_up("warning", "auto")


@contextmanager
def _for_root(paths: StatePaths) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise click.ClickException(f"{error.filename or paths.root}: {error.strerror}: this is for root") from error
