"""Which characters of paths reach QEMU as they are: a guest starts below every one that is let through."""

from __future__ import annotations

import string
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import libvirt
import pytest

from sri_libvirt import config, qcow2
from sri_libvirt.devices import BackingFile, DiskSource, FileIdentity
from sri_libvirt.domain.compiler import DomainCompiler
from sri_libvirt.paths import NOT_BY_FW_CFG, TRAVERSABLE, StatePaths, make_directory, unspeakable
from tests.e2e.libvirtd import PrivateLibvirt
from tests.unit.domain import samples

pytestmark = pytest.mark.e2e

FINE = "".join(sorted(set(string.punctuation) - {"/", *NOT_BY_FW_CFG})) + " \x7f\x85\u202eä"
SCHEMAS = Path(config.BY_NAME["schema_dir"].default)


@contextmanager
def defined(private: PrivateLibvirt, state: Path, images: Path) -> Iterator[libvirt.virDomain]:
    """A UEFI machine below these directories with an image's overlay, NVRAM, a console log and ignition data."""
    machine_id = str(uuid.uuid4())
    paths = StatePaths(state).machine(machine_id)
    make_directory(paths.root.parent, TRAVERSABLE)
    make_directory(paths.root, TRAVERSABLE)
    image = images / "image.raw"
    image.write_bytes(bytes(1 << 20))
    base = BackingFile(str(image), "raw", FileIdentity(1, 2, 3))
    qcow2.finish(qcow2.make_unfinished(paths.image_disk, 1 << 24, base), paths.image_disk)
    paths.ignition.write_bytes(b"{}")
    profile = replace(samples.UEFI, domain_type="qemu", cpu_mode="maximum", machine_type="q35", memory_bytes=64 << 20)
    row = samples.image_row(backing=DiskSource("image", str(paths.image_disk), "qcow2", 1 << 24, backing=base))
    machine = replace(samples.machine(row, profile=profile, ignition=b"{}"), id=machine_id)
    compiler = DomainCompiler(samples.INSTANCE, None, SCHEMAS)
    connection = libvirt.open(private.uri)
    try:
        domain = connection.defineXML(compiler.domain_xml(machine, machine.attachments, paths, samples.RUN))
        yield domain
    finally:
        connection.close()


def directories(private: PrivateLibvirt, character: str) -> tuple[Path, Path]:
    """One that has the character in its name, and one that has not."""
    base = private.directory("paths")
    odd, plain = base / f"a{character}b", base / "plain"
    for each in (odd, plain):
        make_directory(each, TRAVERSABLE)
    return odd, plain


def test_what_is_let_through_boots(private_libvirt: PrivateLibvirt) -> None:
    odd, _ = directories(private_libvirt, FINE)
    assert unspeakable(odd, NOT_BY_FW_CFG) == ""
    with defined(private_libvirt, odd, odd) as domain:
        domain.create()
        assert domain.isActive()


def test_an_image_may_have_what_fw_cfg_may_not(private_libvirt: PrivateLibvirt) -> None:
    odd, plain = directories(private_libvirt, NOT_BY_FW_CFG)
    with defined(private_libvirt, plain, odd) as domain:
        domain.create()
        assert domain.isActive()
