"""Secrets of volumes, lent to libvirt around the call that opens the disks, and dropped whatever came of it.

Measured: a start, a restore of a managed save and a plug need them; a define does not, nor does anything after the call
(a reset, a detach, a resize, a libvirtd that was killed). What a crash or a lost connection left is dropped by
`Leftovers`, which never takes what somebody has lent just then. What a secret is does not belong here (that is the
drivers'), nor how libvirt keeps one (`hypervisor/secrets.py`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import structlog

from sri_libvirt import failpoints
from sri_libvirt.devices import DiskSource, SecretPurpose, SecretReference
from sri_libvirt.errors import HypervisorError, NotReady, SRIError
from sri_libvirt.hypervisor.base import Connection, Secret, SecretUsage
from sri_libvirt.reconcile.reasons import device_words
from sri_libvirt.records import Attachment

log = structlog.get_logger(__name__)

DROP_SECONDS = 30.0
"""How long a clean-up may take to drop one secret; libvirt's keepalive ends a call that hangs before that."""

ADVICE = "Look at the volume's secret in the API, and at the volume driver of this host."

_OF_PROTOCOL = {"rbd": SecretUsage.CEPH, "iscsi": SecretUsage.ISCSI}

Lend = Callable[[Connection, Iterable[Attachment]], AbstractContextManager[None]]
"""The secrets of these rows' disks are set within."""


def lend_nothing(_connection: Connection, _rows: Iterable[Attachment]) -> AbstractContextManager[None]:
    """For machines whose disks have no secrets."""
    return nullcontext()


class Loans:
    """Which secrets are lent at this moment, by UUID. Thread-safe: lanes lend, a clean-up drops what none has lent."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._lent: Counter[str] = Counter()
        self._dropping: set[str] = set()

    @contextmanager
    def lent(self, uuid: str) -> Iterator[None]:
        """It is lent within; who drops it just then is waited for. Raises HypervisorError if that takes too long."""
        with self._changed:
            if not self._changed.wait_for(lambda: uuid not in self._dropping, DROP_SECONDS):
                raise HypervisorError("a left-over secret of the volume is being dropped, and libvirt does not answer")
            self._lent[uuid] += 1
        try:
            yield
        finally:
            with self._changed:
                self._lent -= Counter([uuid])  # which keeps no zeros

    @contextmanager
    def dropping(self, uuid: str) -> Iterator[bool]:
        """Whether it is to be dropped within: nobody has it lent, or drops it. Who wants to lend it waits."""
        with self._changed:
            free = not self._lent[uuid] and uuid not in self._dropping
            if free:
                self._dropping.add(uuid)
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._dropping.remove(uuid)
                    self._changed.notify_all()

    def idle(self, uuids: Iterable[str]) -> set[str]:
        """Those of them that nobody has lent."""
        with self._changed:
            return {uuid for uuid in uuids if not self._lent[uuid]}


class Lending:
    """Lends the secrets of one store's volumes. Shared by all lanes; the connection is the lane's.

    `secrets_of` asks a row's driver at the moment of use; `left` is told when something may be left to clean up.
    """

    def __init__(
        self,
        instance: str,
        loans: Loans,
        secrets_of: Callable[[Attachment], Mapping[SecretPurpose, bytes]],
        left: Callable[[], None] = lambda: None,
    ) -> None:
        self._instance = instance
        self._loans = loans
        self._secrets_of = secrets_of
        self._left = left

    @contextmanager
    def lend(self, connection: Connection, rows: Iterable[Attachment]) -> Iterator[None]:
        """Have the secrets of these rows' disks set within. Raises NotReady, InvalidSpec, HypervisorError.

        Rows without secrets cost no call. The end never raises: the outcome of what was done within stands.
        """
        with ExitStack() as stack:
            for row in rows:
                if isinstance(row.backing, DiskSource) and row.backing.secrets:
                    values = self._values(row)
                    for reference in row.backing.secrets:
                        secret = Secret(reference.uuid, _usage(row, row.backing, reference), self._instance)
                        stack.enter_context(self._lent(connection, secret, values[reference.purpose]))
            yield

    def _values(self, row: Attachment) -> Mapping[SecretPurpose, bytes]:
        """What the row's driver says, at least all that its disk names."""
        assert isinstance(row.backing, DiskSource)
        try:
            values = self._secrets_of(row)
        except SRIError:
            raise
        except Exception as error:
            # Of somebody else's code, whose words may hold the value: neither they nor a traceback go any further.
            raise NotReady(f"the driver of {device_words(row)} fails: {type(error).__name__}", ADVICE) from None
        for reference in row.backing.secrets:
            if not values.get(reference.purpose):
                raise NotReady(f"{device_words(row)} has no secret for {reference.purpose}", ADVICE)
        return values

    @contextmanager
    def _lent(self, connection: Connection, secret: Secret, value: bytes) -> Iterator[None]:
        with ExitStack() as stack:
            stack.callback(self._end, connection, secret)
            stack.enter_context(self._loans.lent(secret.uuid))
            connection.set_secret(secret, value)
            yield

    def _end(self, connection: Connection, secret: Secret) -> None:
        with self._loans.dropping(secret.uuid) as free:
            try:
                if free:
                    connection.drop_secret(secret.uuid, secret.instance)
            except Exception as error:
                # Also of a lane that was given up, whose connection does no more: the clean-up drops it.
                log.warning("a secret is left to be cleaned up", secret=secret.uuid, error=str(error))
                self._left()


class Leftovers:
    """Finds and drops secrets with a store's mark that nobody has lent. Keeps no state; safe from any thread."""

    def __init__(self, instance: str, loans: Loans) -> None:
        self._instance = instance
        self._loans = loans

    def clean_up(self, connect: Callable[[], Connection]) -> None:
        """Drop them all. Raises Unreachable, HypervisorError."""
        connection = connect()
        try:
            for uuid in self.find(connection):
                if self.drop(connection, uuid):
                    log.warning("a secret that was left is dropped", secret=uuid)
        finally:
            connection.close()

    def find(self, connection: Connection) -> list[str]:
        """Their UUIDs. Raises Unreachable, HypervisorError."""
        found = self._loans.idle(self._ours(connection))
        # Again: one that was lent at the first look, and dropped before it was asked for, is none.
        return sorted(found & self._loans.idle(self._ours(connection))) if found else []

    def drop(self, connection: Connection, uuid: str) -> bool:
        """Drop one, unless it is lent by now: False. Raises Unreachable, HypervisorError."""
        with self._loans.dropping(uuid) as free:
            if free:
                with failpoints.around("secrets.drop", HypervisorError):
                    connection.drop_secret(uuid, self._instance)
            return free

    def _ours(self, connection: Connection) -> set[str]:
        return {uuid for uuid, instance in connection.secret_ids().items() if instance == self._instance}


def _usage(row: Attachment, disk: DiskSource, reference: SecretReference) -> SecretUsage:
    """What libvirt has to be told that the secret opens."""
    if reference.purpose == "encryption":
        return SecretUsage.VOLUME
    if disk.protocol not in _OF_PROTOCOL:
        raise NotReady(f"{device_words(row)} is of a kind that QEMU opens without credentials, and has some", ADVICE)
    return _OF_PROTOCOL[disk.protocol]
