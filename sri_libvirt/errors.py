"""The domain's errors. Every failure a caller can meet is one of these words.

A message says what was wrong, in which field or resource, and what to do about it; it never holds a secret.
gRPC codes do not belong here: they stand in the one table of `server/service.py`.
"""

from __future__ import annotations


class SRIError(Exception):
    """Base of all errors of this project; `str(error)` is fit to be shown to a user."""


class NotFound(SRIError):
    """The named machine, volume or network interface does not exist.

    The poollet takes this as "gone" (contract A.6), so it is raised for exactly that.
    """


class InvalidSpec(SRIError):
    """A request is wrong in itself; the message begins with the path of the field."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class AlreadyExists(SRIError):
    """Something of that name exists with another content."""


class Exhausted(SRIError):
    """The host has no room; only CreateMachine answers it (contract G.8)."""


class FailedPrecondition(SRIError):
    """The object is in a state in which this cannot be done."""


class Unavailable(SRIError):
    """Not now; the same request may succeed later."""


UNDER_WAY = "under-way"
"""Code of `NotReady` of slow work that goes on."""

TIMED = frozenset({UNDER_WAY, "backend-silent", "volume-refused", "in-use", "image-unreachable", "image-refused"})
"""Codes of `NotReady` of which their raiser knows when to try again, and says so when it is asked."""


class NotReady(SRIError):
    """A resource that a machine needs is not there yet; the machine waits and tries again.

    Raised by plugins and performers, never by an RPC. `advice` tells an operator what would end the wait; `code` is of
    the reason that is given, "" for that of any device that is not ready.
    """

    def __init__(self, problem: str, advice: str = "", code: str = "") -> None:
        super().__init__(problem)
        self.advice = advice
        self.code = code


class AddressHeld(NotReady):
    """Another network interface has the address: that of `mac`, "" if that is not known. `how` says in what way."""

    def __init__(self, address: str, how: str, mac: str, holder: str = "") -> None:
        super().__init__(
            f"{address} is {f'that of {holder}' if holder else 'taken'}: {how}",
            "It is tried again every few seconds: detach the other interface, or wait until its lease has run out, or "
            "give this one another address in its spec.",
            code="address-taken",
        )
        self.address = address
        self.how = how
        self.mac = mac


class HypervisorError(SRIError):
    """libvirt or QEMU refused an operation. `code` is libvirt's error number, for the log only."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class UnusableSave(HypervisorError):
    """A managed save cannot be restored. `certain`: it never can, whatever passes."""

    def __init__(self, message: str, code: int | None = None, *, certain: bool = False) -> None:
        super().__init__(message, code)
        self.certain = certain


class DescriptorRefused(HypervisorError):
    """The host's security module (AppArmor) keeps a QEMU from taking what libvirt has opened for it."""


class DiskLocked(HypervisorError):
    """Another program has a disk's file open in a way that keeps QEMU from it."""


class NoConsole(HypervisorError):
    """The machine has no console: its QEMU does not run, or it has no domain."""


class ConsoleHeld(HypervisorError):
    """Somebody else has the machine's console; it is given up by them, or taken over."""


class ConsoleLost(HypervisorError):
    """A console that was open is not any more: libvirt went away, or somebody took it over."""


class Unreachable(HypervisorError):
    """libvirt cannot be asked. Says nothing about any domain: never to be read as "gone"."""


class StoreError(SRIError):
    """The state database cannot be read or written (corrupt, full, read-only, of a newer version)."""


class ConfigError(SRIError):
    """A setting, a class file or the host does not allow the program to start."""
