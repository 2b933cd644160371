"""Sizes and handles of empty disks. Files are made in the contract tests."""

from __future__ import annotations

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import InvalidSpec
from sri_libvirt.volumes.empty_disk import LARGEST_BYTES, EmptyDisks, effective_bytes


def volume(size: int) -> pb.Volume:
    return pb.Volume(name="v", empty_disk=pb.EmptyDisk(size_bytes=size))


@pytest.mark.parametrize(("asked", "size"), [(0, 1 << 30), (1, 512), (512, 512), (513, 1024), (1 << 40, 1 << 40)])
def test_effective_size(asked: int, size: int) -> None:
    assert effective_bytes(volume(asked)) == size


@pytest.mark.parametrize("size", [-1, LARGEST_BYTES + 1])
def test_refused_sizes(size: int) -> None:
    with pytest.raises(InvalidSpec) as caught:
        EmptyDisks().validate(volume(size))
    assert caught.value.field == "empty_disk.size_bytes"


@pytest.mark.parametrize("size", [0, 1, LARGEST_BYTES])
def test_accepted_sizes(size: int) -> None:
    EmptyDisks().validate(volume(size))
