"""Connected volumes in tests: their messages, and who asks backends, played: he answers what a test says."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.devices import DiskSource, Encryption, SecretPurpose
from sri_libvirt.errors import InvalidSpec, NotReady
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.connected import ConnectedVolumes

MACHINE = "6b3ffb4e-8d3c-4f52-9d0a-0d2f3c1f0a01"
SIZE = 64 << 20


@dataclass
class StubAsking:
    """Answers at once: what `answer` is, the encryption that was wanted among it."""

    answer: Found | NotReady = field(default_factory=lambda: Found(SIZE))
    asked: list[tuple[str, Hashable, DiskSource, Mapping[SecretPurpose, bytes]]] = field(
        default_factory=list, repr=False
    )
    forgotten: list[Hashable] = field(default_factory=list)
    plugged: frozenset[Hashable] = frozenset()
    busy: int | None = None
    since: int = 0

    def ready(
        self,
        waiter: str,
        key: Hashable,
        source: DiskSource,
        secrets: Mapping[SecretPurpose, bytes],
        *,
        plugged: bool = False,
        since: int = 0,
    ) -> Found:
        self.since = since
        self.asked.append((waiter, key, source, dict(secrets)))
        self.plugged = self.plugged | {key} if plugged else self.plugged
        if isinstance(self.answer, NotReady):
            raise self.answer
        return replace(self.answer, encryption=self.answer.encryption or source.encryption)

    def busy_until(self, key: Hashable) -> int | None:
        return self.busy if any(key == each[1] for each in self.asked) else None

    def size_of(self, key: Hashable) -> int:
        return self.answer.size if key in self.plugged and isinstance(self.answer, Found) else 0

    def forget(self, key: Hashable) -> None:
        self.forgotten.append(key)


def volume(
    driver: str,
    attributes: Mapping[str, str],
    secrets: Mapping[str, bytes] | None = None,
    encryption: Mapping[str, bytes] | None = None,
    handle: str = "4711",
) -> pb.Volume:
    """A connected volume."""
    return pb.Volume(
        name="data",
        device="oda",
        connection=pb.VolumeConnection(
            driver=driver,
            handle=handle,
            attributes=attributes,
            secret_data=secrets or {},
            encryption_data=encryption or {},
        ),
    )


def refused(driver: ConnectedVolumes, wrong: pb.Volume, path: str, words: str = "") -> InvalidSpec:
    """The refusal of a volume that is wrong in itself; it tells the path, and no secret."""
    with pytest.raises(InvalidSpec) as caught:
        driver.validate(wrong)
    assert caught.value.field == path, str(caught.value)
    assert words in caught.value.problem
    for each in (*wrong.connection.secret_data.values(), *wrong.connection.encryption_data.values()):
        assert not each or each.decode(errors="replace") not in str(caught.value)
    return caught.value


def waits(driver: ConnectedVolumes, asked: pb.Volume, paths: MachinePaths, words: str) -> NotReady:
    """Why a volume is not ready."""
    with pytest.raises(NotReady) as caught:
        driver.prepare(MACHINE, asked, paths)
    assert words in str(caught.value), str(caught.value)
    return caught.value


def wanted(engine: str) -> Encryption:
    """What a source says of a volume with a key, before its header was seen."""
    return Encryption("librbd" if engine == "librbd" else "qemu", "luks")
