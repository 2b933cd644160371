"""One look at a volume: how large it is, how its header says that it is encrypted, whether its key opens it.

A child process opens it, with what libvirt will tell QEMU, and read-only: nothing is ever written to a tenant's
storage. A QEMU that opens it stands still meanwhile; a child can be ended, at its deadline, at a stop of the provider,
and with it. Secrets are given by memory files that it inherits: they are in no argument, environment or file system,
and go with the child.

When a look is due, and how long its answer is good, does not belong here (`probing.py`), nor what words mean
(`refusals.py`).
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog

from sri_libvirt import process
from sri_libvirt.devices import DiskSource, Encryption, SecretPurpose
from sri_libvirt.errors import NotReady
from sri_libvirt.volumes import blockdev, luks, refusals
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.blockdev import Node

log = structlog.get_logger(__name__)

_SECTOR = 512

_DUMP = re.compile(r"^[0-9a-f]{8,}:  ((?:[0-9a-f]{2} ){1,16})", re.MULTILINE)
"""A line of `qemu-io -c "read -v"`."""

_END_OF_NODE = re.compile(r"\}'?: ")

_BAD_KEY = re.compile(r"(failed to decode key ').*(')")
"""How librados tells of a key that it cannot read: by printing it."""

_SHOWN_BYTES = 8
"""Anything shorter is looked for in no words: it would be found in every second one, and be told by that."""

_SECRET = "(secret)"  # noqa: S105 what stands in its place


def probe(
    source: DiskSource,
    secrets: Mapping[SecretPurpose, bytes],
    *,
    deadline: float,
    prove: bool = True,
    alone: bool = True,
    cancel: process.Cancel | None = None,
) -> Found:
    """What the volume is, within `deadline` seconds. Raises NotReady in a user's words.

    `source.encryption` says that it is to be encrypted, and who undoes it. `prove`: its key must open it, which costs
    seconds of CPU; else its header is read alone. `alone`: nobody else may have it open (where the backend tells).
    """
    with _Lent(secrets) as lent:
        look = _Look(source, lent, time.monotonic() + deadline, cancel, refusals.silent(source, deadline))
        if alone and source.protocol == "rbd":
            _be_alone(look)
        if source.encryption is None:
            found = Found(_plain_size(look))
        elif source.encryption.engine == "librbd":
            found = _librbd(look, refusals.slow_key(source, deadline) if prove else None)
        else:
            found = _luks(look, refusals.slow_key(source, deadline) if prove else None)
    if found.size <= 0:
        raise refusals.refused(source, "{what} is there and has no bytes")
    return found


class _Lent:
    """Secrets in memory files that a child may inherit; gone at the end."""

    def __init__(self, secrets: Mapping[SecretPurpose, bytes]) -> None:
        self._texts = {purpose: base64.b64encode(value) for purpose, value in secrets.items()}
        self._values = list(secrets.values())
        self.fds: dict[SecretPurpose, int] = {}

    def __enter__(self) -> _Lent:
        try:
            for purpose, text in self._texts.items():
                self.fds[purpose] = os.memfd_create(f"sri-{purpose}", os.MFD_CLOEXEC)
                os.write(self.fds[purpose], text)
        except OSError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds.values():
            os.close(fd)
        self.fds = {}

    def path(self, purpose: SecretPurpose) -> str:
        """A file that holds the secret as base64 text, for a child that inherits it."""
        return f"/proc/self/fd/{self.fds[purpose]}"

    def hidden(self, words: str) -> str:
        """A program's words without any secret in them."""
        words = _BAD_KEY.sub(rf"\1{_SECRET}\2", words)
        for each in (*self._values, *self._texts.values()):
            words = words.replace(each.decode(errors="replace"), _SECRET) if len(each) >= _SHOWN_BYTES else words
        return words


@dataclass(frozen=True, slots=True)
class _Look:
    """How the programs of one look are run. `end` is its deadline, as time.monotonic tells it, `late` what that means
    when it passes."""

    source: DiskSource
    lent: _Lent
    end: float
    cancel: process.Cancel | None
    late: NotReady

    def info(self, node: Node) -> dict[str, Any]:
        """What qemu-img finds of a node."""
        answer: dict[str, Any] = json.loads(self._qemu(["qemu-img", "info", "-U", "--output=json"], node))
        return answer

    def read(self, node: Node, length: int) -> bytes:
        """The first bytes of a node."""
        dump = self._qemu(["qemu-io", "-r", "-U", "-c", f"read -v 0 {length}"], node).decode()
        return b"".join(bytes.fromhex(line) for line in _DUMP.findall(dump))

    def run(self, argv: Sequence[str]) -> bytes:
        """The answer of a program that inherits the secrets. Raises NotReady."""
        try:
            return process.run(
                argv,
                deadline=max(self.end - time.monotonic(), 0.0),
                pass_fds=list(self.lent.fds.values()),
                cancel=self.cancel,
                tethered=True,
                place=_place(self.source),
            )
        except process.ProcessError as error:
            failure = error
        raise self._explained(failure)  # not `from` it: its words may hold a secret

    def _qemu(self, argv: list[str], node: Node) -> bytes:
        return self.run([*argv, *self._objects(), f"json:{json.dumps(node)}"])

    def _objects(self) -> list[str]:
        found = [f"secret,id={purpose},format=base64,file={self.lent.path(purpose)}" for purpose in self.lent.fds]
        if self.source.tls:
            directory = blockdev.host_tls_directory().replace(",", ",,")
            found.append(f"tls-creds-x509,id=tls,dir={directory},endpoint=client,verify-peer=yes")
        return [word for each in found for word in ("--object", each)]

    def _explained(self, error: process.ProcessError) -> NotReady:
        if error.late:
            return self.late
        if isinstance(error, process.Hanging):
            return refusals.hanging(self.source, str(error))
        if error.returncode is None:
            return refusals.unasked(self.source, str(error))
        words = _without_node(self.lent.hidden(error.words)).strip()
        return refusals.explain(self.source, words or f"status {error.returncode}", error.returncode)


def _place(source: DiskSource) -> str:
    """What may hang in the kernel: a device, or the file system of a directory. Nothing that is a network's."""
    if source.kind == "network":
        return ""
    return source.path if source.kind == "block" else str(Path(source.path).parent)


def _without_node(words: str) -> str:
    """A program's words without the node, which it quotes before it says what is wrong."""
    before, node, after = words.partition("json:{")
    reason = _END_OF_NODE.split(after if node else words)[-1]
    return before.rpartition("\n")[0] + "\n" + reason if node else reason


def _plain_size(look: _Look) -> int:
    if look.source.format != "qcow2":
        return int(look.info(blockdev.storage(look.source))["virtual-size"])
    found = look.info(blockdev.qcow2(look.source))
    data = found.get("format-specific", {}).get("data", {})
    for wrong, problem in (
        ("backing-filename" in found, "has a backing file, which is not followed"),
        ("data-file" in data, "has an external data file, which is not followed"),
        (found.get("encrypted", False), "is encrypted by qcow2's own means"),
        (data.get("corrupt", False), "is marked as corrupt"),
    ):
        if wrong:
            raise refusals.refused(
                look.source, f"{{what}} {problem}", "See `qemu-img info` and `qemu-img check` of it."
            )
    return int(found["virtual-size"])


def _luks(look: _Look, slow_key: NotReady | None) -> Found:
    """LUKS 1 by QEMU's own driver; with the key unless there is no `slow_key`."""
    size: int = look.info(blockdev.luks(look.source, key=False))["virtual-size"]
    if slow_key and size:
        replace(look, late=slow_key).read(blockdev.luks(look.source, key=True), _SECTOR)
    return Found(size, Encryption("qemu", "luks"))


def _librbd(look: _Look, slow_key: NotReady | None) -> Found:
    """LUKS of either version by librbd; with the key unless there is no `slow_key`."""
    image = look.info(blockdev.storage(look.source))
    version = image.get("format-specific", {}).get("data", {}).get("encryption-format")
    if version not in ("luks", "luks2"):
        raise refusals.no_header(look.source)
    encryption = Encryption("librbd", version)
    if slow_key:
        opened = replace(look, late=slow_key).info(blockdev.storage(look.source, encryption))
        return Found(opened["virtual-size"], encryption)
    header = look.read(blockdev.storage(look.source), min(luks.HEADER_BYTES, image["virtual-size"]))
    try:
        return Found(image["virtual-size"] - luks.payload_offset(header), encryption)
    except ValueError as error:
        raise refusals.refused(look.source, f"the LUKS header of {{what}} cannot be read: {error}") from error


def _be_alone(look: _Look) -> None:
    """Raise NotReady if another client has a Ceph image open, on whatever host: its lock would not keep two apart."""
    if not shutil.which("rbd"):
        _warn_once()
        return
    source = look.source
    pool, _, image = source.name.partition("/")
    argv = ["rbd", "status", "--format=json", f"--pool={pool}", f"--image={image}", "-m", blockdev.monitors(source)]
    argv += [f"--conf={source.config}"] if source.config else []
    argv += [f"--id={source.user}", f"--keyfile={look.lent.path('auth')}"] if source.user else []
    watchers = json.loads(look.run(argv))["watchers"]
    if addresses := sorted({watcher["address"].rpartition(":")[0] for watcher in watchers}):
        raise refusals.open_elsewhere(source, addresses)


_warned = threading.Event()


def _warn_once() -> None:
    if not _warned.is_set():
        _warned.set()
        log.warning(
            "nobody asks who else has a Ceph image open: the program rbd is not installed",
            advice="apt-get install ceph-common. Without it two hosts may write one image.",
        )
