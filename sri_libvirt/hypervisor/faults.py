"""libvirt's errors in our words, by one table: is the connection lost, is there no such domain, or was it refused?

What is lost says nothing about a domain and never reads as "gone" (design 4). What follows from an error does not
belong here.
"""

from __future__ import annotations

import re

import libvirt

from sri_libvirt.errors import (
    ConsoleHeld,
    DescriptorRefused,
    DiskLocked,
    HypervisorError,
    NoConsole,
    Unreachable,
    UnusableSave,
)

_LOST_CODES = frozenset(
    {
        libvirt.VIR_ERR_NO_CONNECT,
        libvirt.VIR_ERR_INVALID_CONN,
        libvirt.VIR_ERR_RPC,
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
    }
)
_LOST_DOMAINS = frozenset({libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_POLKIT})
"""Parts of libvirt that only carry a call: "client socket is closed", "Cannot recv data", "Failed to connect"."""

_ANSWERS = frozenset(
    {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_SECRET,
        libvirt.VIR_ERR_NO_NWFILTER,
        libvirt.VIR_ERR_OPERATION_INVALID,
        libvirt.VIR_ERR_XML_ERROR,
        libvirt.VIR_ERR_CONFIG_UNSUPPORTED,
    }
)
"""Codes that only a daemon that thought about the call can give."""

_XML_CODES = frozenset({libvirt.VIR_ERR_XML_ERROR, libvirt.VIR_ERR_XML_DETAIL})

_ADVICE = {
    libvirt.VIR_ERR_OPERATION_TIMEOUT: "its QEMU does not answer; only destroying it ends that",
    libvirt.VIR_ERR_NO_DOMAIN: "somebody undefined it",
}


_SAVE_IS_NONE = ("image magic is incorrect", "failed to read domain XML", "failed to read qemu header")
"""Of a file that is no managed save. One of a newer libvirt ("image version is not supported") can still be used."""

_SAVE_NOT_LOADED = ("load of migration failed", "error while loading state", "Not a migration stream")
"""QEMU's words for a guest's memory that it cannot read: the file is cut or of another QEMU, or reading it failed."""

_NOT_PASSED = "No file descriptor supplied via SCM_RIGHTS"
"""QEMU's words for a descriptor that the kernel took out of the message on its way."""

_CONSOLE_HELD = "Active console session exists"

_DAEMONS_OWN = "Failed to connect socket to"
"""On a connection that is open, this is told of a daemon that libvirtd itself needs: virtlogd, virtnetworkd."""


def is_lost(error: libvirt.libvirtError, alive: bool) -> bool:
    """Whether the connection failed rather than the operation. `alive` is what the connection says of itself."""
    code, domain = error.get_error_code(), error.get_error_domain()
    if alive and _message(error).startswith(_DAEMONS_OWN):
        return False
    if code in _LOST_CODES or domain in _LOST_DOMAINS:
        return True
    return not alive and code not in _ANSWERS


_LOCKED = re.compile(r'Failed to (?:get|lock) (?:shared |exclusive )?(?:"[a-z ]+" lock|byte)|Is another process using')
"""QEMU's words for a file on which another process holds a lock (block/file-posix.c)."""

_WHO_LOCKS = (
    "another program has its file open: lslocks and fuser -v FILE tell which on this host, and of a shared file system "
    "it may be on another one"
)


def translate(error: libvirt.libvirtError, doing: str, *, alive: bool = True) -> HypervisorError:
    """The error in our words; `doing` says what was tried, as in "start the domain"."""
    code, message = error.get_error_code(), _message(error)
    if is_lost(error, alive):
        return Unreachable(f"libvirt cannot be asked to {doing}: {message}", code)
    locked = bool(_LOCKED.search(message))
    advice = _WHO_LOCKS if locked else _ADVICE.get(code)
    words = f"libvirt could not {doing}: {message}" + (f" ({advice})" if advice else "")
    return DiskLocked(words, code) if locked else HypervisorError(words, code)


def not_connected(error: libvirt.libvirtError, uri: str) -> Unreachable:
    """No connection could be opened, for whatever reason."""
    return Unreachable(f"libvirt cannot be reached at {uri}: {_message(error)}", error.get_error_code())


def is_alive(connection: libvirt.virConnect) -> bool:
    """What a connection says of itself; one that cannot say is not."""
    try:
        return bool(connection.isAlive())
    except libvirt.libvirtError:
        return False


def console_refused(error: libvirt.libvirtError) -> ConsoleHeld | NoConsole | None:
    """The error of opening a console, if it says that somebody has it, or that there is none."""
    code, message = error.get_error_code(), _message(error)
    if _CONSOLE_HELD in message:
        return ConsoleHeld(f"somebody has the machine's console: {message}", code)
    if is_code(error, libvirt.VIR_ERR_NO_DOMAIN) or is_code(error, libvirt.VIR_ERR_OPERATION_INVALID):
        return NoConsole(f"the machine does not run, so it has no console: {message}", code)
    return None


def is_code(error: libvirt.libvirtError, code: int) -> bool:
    """Whether the daemon itself answered with this code."""
    return bool(error.get_error_code() == code and error.get_error_domain() not in _LOST_DOMAINS)


def unusable_save(error: libvirt.libvirtError) -> UnusableSave | None:
    """The error of a restore, if it says that the managed save is of no use."""
    code, message = error.get_error_code(), _message(error)
    certain = any(words in message for words in _SAVE_IS_NONE)
    if certain or code in _XML_CODES or any(words in message for words in _SAVE_NOT_LOADED):
        return UnusableSave(f"libvirt could not restore the managed save: {message}", code, certain=certain)
    return None


def descriptor_refused(error: libvirt.libvirtError) -> DescriptorRefused | None:
    """The error of a plug, if it says that QEMU has not got a descriptor that libvirt passed to it."""
    message = _message(error)
    if _NOT_PASSED in message:
        return DescriptorRefused(f"libvirt could not plug the device: {message}", error.get_error_code())
    return None


def _message(error: libvirt.libvirtError) -> str:
    return str(error.get_error_message() or error).strip()
