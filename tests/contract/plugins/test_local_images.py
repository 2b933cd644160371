"""Images on the host: what a tenant's string can reach, and what becomes of a disk whose base changes."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sri_libvirt import process, qcow2
from sri_libvirt.devices import DiskSource
from sri_libvirt.errors import NotReady
from sri_libvirt.images.local import LocalImages
from sri_libvirt.images.overlay import Overlays
from sri_libvirt.looks import Looks
from sri_libvirt.paths import MachinePaths, make_directory
from tests.contract.hung import Hung, serving

ROOT_DISK = 64 << 20


def qemu_img(*argv: str | Path) -> None:
    process.run(["qemu-img", *argv], deadline=30)


@pytest.fixture
def raw(images: Path) -> Path:
    path = images / "disk.raw"
    path.write_bytes(b"\xeb\x3c\x90" + os.urandom(65533))
    path.chmod(0o444)
    return path


@pytest.fixture
def plain(images: Path) -> Path:
    path = images / "disk.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "32M")
    path.chmod(0o444)
    return path


def prepare(images: Path, reference: object, paths: MachinePaths, made: DiskSource | None = None) -> DiskSource:
    return disk(LocalImages([images]), reference, paths, made)


def disk(
    driver: LocalImages,
    reference: object,
    paths: MachinePaths,
    made: DiskSource | None = None,
    looks: Looks | None = None,
) -> DiskSource:
    overlays = Overlays(looks)
    base = driver.base(str(reference), None, "", overlays.before(paths.image_disk, made))
    return overlays.prepare(base, str(reference), paths.image_disk, ROOT_DISK, made)


def refused(images: Path, reference: object, paths: MachinePaths, words: str) -> NotReady:
    with pytest.raises(NotReady, match=words) as caught:
        prepare(images, reference, paths)
    assert not paths.image_disk.exists()
    return caught.value


def test_raw_and_qcow2(images: Path, raw: Path, plain: Path, paths: MachinePaths) -> None:
    for path, kind in ((raw, "raw"), (plain, "qcow2")):
        made = prepare(images, f"file://{path}", paths)
        info = qcow2.inspect(paths.image_disk)
        assert (info.backing, info.backing_format, info.size) == (str(path), kind, ROOT_DISK)
        assert made.backing is not None
        assert made.backing.format == kind
        paths.image_disk.unlink()


def test_the_guest_sees_the_image(images: Path, raw: Path, paths: MachinePaths, tmp_path: Path) -> None:
    made = prepare(images, raw, paths)
    qemu_img("convert", "-f", "qcow2", "-O", "raw", made.path, tmp_path / "seen.raw")
    seen = (tmp_path / "seen.raw").read_bytes()
    assert seen[: 1 << 16] == raw.read_bytes()
    assert len(seen) == ROOT_DISK


def test_a_link_within_is_resolved(images: Path, raw: Path, paths: MachinePaths) -> None:
    link = images / "latest.raw"
    link.symlink_to(raw.name)
    made = prepare(images, link, paths)
    assert made.backing is not None
    assert made.backing.path == str(raw)


def test_an_image_directory_may_be_a_link(images: Path, raw: Path, paths: MachinePaths, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(images)
    assert prepare(tmp_path / "alias", tmp_path / "alias" / raw.name, paths).backing


def test_outside(images: Path, raw: Path, paths: MachinePaths, tmp_path: Path) -> None:
    outside = tmp_path / "secret.raw"
    shutil.copy(raw, outside)
    (images / "link.raw").symlink_to(outside)
    (images / "dir").symlink_to(tmp_path)
    (tmp_path / "images-not").mkdir()
    shutil.copy(raw, tmp_path / "images-not" / "x.raw")
    words = "not below an image directory"
    for reference in (
        outside,
        images / ".." / "secret.raw",
        images / "link.raw",
        images / "dir" / "secret.raw",
        tmp_path / "images-not" / "x.raw",
        f"file://{images}/%2e%2e/secret.raw",
    ):
        assert refused(images, reference, paths, words).advice


def test_what_is_outside_is_not_told_from_what_is_not(images: Path, paths: MachinePaths, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    there = str(refused(images, tmp_path / "there", paths, "not below"))
    absent = str(refused(images, tmp_path / "gone!", paths, "not below"))
    assert there.replace("there", "gone!") == absent


def test_absent_yet(images: Path, paths: MachinePaths) -> None:
    error = refused(images, images / "later.raw", paths, rf"{images}/later.raw is not there \(yet\)")
    assert str(images / "later.raw") in error.advice


def test_not_a_regular_file(images: Path, paths: MachinePaths) -> None:
    os.mkfifo(images / "pipe", 0o644)
    (images / "dir").mkdir()
    for name in ("pipe", "dir"):
        refused(images, images / name, paths, "not a regular file")
    refused(images, images, paths, "not a regular file")


def test_not_readable_to_qemu(images: Path, raw: Path, paths: MachinePaths) -> None:
    raw.chmod(0o600)
    assert "chmod" in refused(images, raw, paths, "QEMU's user cannot read").advice


def test_a_backing_file_is_not_followed(images: Path, raw: Path, paths: MachinePaths) -> None:
    path = images / "overlay.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", path, "1M")
    path.chmod(0o444)
    refused(images, path, paths, "has a backing file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0" * 0x40 + b"\x7f\x10\xda\xbe" + b"\0" * 512, "VDI"),
        (b"\n<!DOCTYPE html>\n", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
    ],
)
def test_what_is_no_disk_is_refused_by_its_name(images: Path, paths: MachinePaths, content: bytes, words: str) -> None:
    path = images / "disk.raw"
    path.write_bytes(content)
    path.chmod(0o444)
    assert refused(images, path, paths, words).advice


def test_the_formats_that_qemu_makes_are_told(images: Path, paths: MachinePaths) -> None:
    for kind, name in (("vdi", "VDI"), ("vmdk", "VMDK"), ("vhdx", "VHDX"), ("vpc", "VHD"), ("parallels", "Parallels"),
                       ("qcow", "qcow of version 1"), ("qed", "QED")):  # fmt: skip
        path = images / f"disk-{kind}"
        qemu_img("create", "-q", "-f", kind, path, "8M")
        path.chmod(0o444)
        assert "qemu-img convert" in refused(images, path, paths, f" is {name},").advice


def test_a_raw_disk_in_which_nothing_is_known_is_told_of(images: Path, raw: Path, paths: MachinePaths) -> None:
    made = prepare(images, raw, paths)
    assert "may not boot" in made.note
    paths.image_disk.unlink()
    whole = bytearray(raw.read_bytes())
    whole[510:512] = b"\x55\xaa"
    (images / "boots.raw").write_bytes(whole)
    (images / "boots.raw").chmod(0o444)
    assert prepare(images, images / "boots.raw", paths).note == ""


def test_an_external_data_file_is_not_followed(images: Path, paths: MachinePaths, tmp_path: Path) -> None:
    path = images / "external.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path}/data.raw", path, "1M")
    path.chmod(0o444)
    refused(images, path, paths, "has an external data file")


def test_larger_than_the_root_disk(images: Path, paths: MachinePaths) -> None:
    path = images / "large.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", path, "65M")
    path.chmod(0o444)
    assert refused(images, path, paths, f"more than the class's root disk of {ROOT_DISK}").advice


@pytest.mark.parametrize("length", [104, 1 << 20])
def test_half_a_file(images: Path, plain: Path, paths: MachinePaths, length: int) -> None:
    """As while it is being copied: an overlay on it would be of no use once it is whole."""
    process.run(["qemu-io", "-f", "qcow2", "-c", "write 0 4M", plain], deadline=30)
    os.truncate(plain, length)
    assert refused(images, plain, paths, "no disk can be made").advice


def put_back(copy: Path, path: Path, status: os.stat_result, *, mtime_ns: int = 0) -> None:
    """Put a copy in a file's place, with that file's mode and time."""
    copy.chmod(status.st_mode)
    os.utime(copy, ns=(status.st_atime_ns, mtime_ns or status.st_mtime_ns))
    copy.rename(path)
    assert path.stat().st_ino != status.st_ino


@pytest.mark.parametrize("change", ["time", "size", "content", "another file", "whole seconds and content"])
def test_a_changed_base_stops_the_machine(images: Path, raw: Path, paths: MachinePaths, change: str) -> None:
    made = prepare(images, raw, paths)
    before, status = paths.image_disk.read_bytes(), raw.stat()
    content = raw.read_bytes()
    copy = images / "copy.raw"
    match change:
        case "time":
            os.utime(raw, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        case "size":
            os.truncate(raw, status.st_size + 512)
            os.utime(raw, ns=(status.st_atime_ns, status.st_mtime_ns))
        case "content":
            copy.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
            put_back(copy, raw, status)
        case "another file":
            copy.write_bytes(content)
            put_back(copy, raw, status, mtime_ns=status.st_mtime_ns + 10**9)
        case _:
            copy.write_bytes(bytes([content[0] ^ 1]) + content[1:])
            put_back(copy, raw, status, mtime_ns=status.st_mtime_ns // 10**9 * 10**9)
    with pytest.raises(NotReady, match="not the file any more") as caught:
        prepare(images, raw, paths, made)
    assert ("touch --date=@" in caught.value.advice) == (change in ("time", "another file"))
    assert paths.image_disk.read_bytes() == before


@pytest.mark.parametrize("whole_seconds", [False, True])
def test_a_base_restored_from_a_backup_is_the_same(
    images: Path, raw: Path, paths: MachinePaths, whole_seconds: bool
) -> None:
    made = prepare(images, raw, paths)
    status = raw.stat()
    shutil.copy(raw, images / "copy.raw")
    second = status.st_mtime_ns // 10**9 * 10**9
    put_back(images / "copy.raw", raw, status, mtime_ns=second if whole_seconds else 0)
    again = prepare(images, raw, paths, made)
    assert again.backing is not None
    assert again.backing.identity.inode == raw.stat().st_ino, "it is known by its new place from now on"
    assert prepare(images, raw, paths, again) == again


def test_the_advice_for_a_base_of_another_time_helps(images: Path, raw: Path, paths: MachinePaths) -> None:
    made = prepare(images, raw, paths)
    os.utime(raw)
    with pytest.raises(NotReady, match="not the file any more") as caught:
        prepare(images, raw, paths, made)
    command = re.search(r"touch --date=\S+ \S+\.raw", caught.value.advice)
    assert command
    process.run(command.group().split(), deadline=10)
    assert prepare(images, raw, paths, made) == made


def test_a_base_that_an_older_version_kept_without_a_digest(images: Path, raw: Path, paths: MachinePaths) -> None:
    made = prepare(images, raw, paths)
    assert made.backing is not None
    old = replace(made, backing=replace(made.backing, identity=replace(made.backing.identity, digest="")))
    assert prepare(images, raw, paths, old) == made, "the digest is taken while the file is surely the same"


@pytest.mark.parametrize("move", ["link", "setting", "reference"])
def test_the_disk_says_which_file_its_base_is(images: Path, raw: Path, paths: MachinePaths, move: str) -> None:
    link = images / "latest.raw"
    link.symlink_to(raw.name)
    made = prepare(images, link, paths)
    link.unlink()
    if move == "link":
        (images / "new.raw").write_bytes(b"another")
        link.symlink_to("new.raw")
    directories = images / "elsewhere" if move == "setting" else images
    assert prepare(directories, link, paths, made) == made
    if move == "link":
        assert prepare(images, link, paths) == made, "a disk that the store has forgotten says it as well"


def test_a_base_that_comes_back_is_the_same(images: Path, raw: Path, paths: MachinePaths) -> None:
    made = prepare(images, raw, paths)
    raw.rename(images / "aside")
    with pytest.raises(NotReady, match="is not there") as caught:
        prepare(images, raw, paths, made)
    assert caught.value.advice
    (images / "aside").rename(raw)
    assert prepare(images, raw, paths, made) == made


def test_a_base_that_changes_meanwhile(
    images: Path, raw: Path, paths: MachinePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = qcow2.make_unfinished

    def and_touch(*args: object) -> Path:
        made = make(*args)  # type: ignore[arg-type]
        os.utime(raw)
        return made

    monkeypatch.setattr(qcow2, "make_unfinished", and_touch)
    refused(images, raw, paths, "changed while")


def test_a_disk_that_is_gone_is_not_made_anew(images: Path, raw: Path, paths: MachinePaths) -> None:
    made = prepare(images, raw, paths)
    paths.image_disk.unlink()
    with pytest.raises(NotReady, match="is gone") as caught:
        prepare(images, raw, paths, made)
    assert caught.value.advice
    assert not paths.image_disk.exists()


def test_a_damaged_disk_is_kept(images: Path, raw: Path, paths: MachinePaths) -> None:
    made = prepare(images, raw, paths)
    paths.image_disk.write_bytes(b"garbage")
    for known in (made, None):
        with pytest.raises(NotReady):
            prepare(images, raw, paths, known)
    assert paths.image_disk.read_bytes() == b"garbage"


def test_an_unrecorded_disk_on_a_file_from_elsewhere_is_kept(images: Path, raw: Path, paths: MachinePaths) -> None:
    prepare(images, raw, paths)
    (note,) = paths.root.glob(".image.qcow2.*")
    note.unlink()
    before = paths.image_disk.read_bytes()
    with pytest.raises(NotReady, match="not below an image directory"):
        prepare(images / "other", raw, paths)
    assert paths.image_disk.read_bytes() == before


def test_an_unrecorded_disk_of_another_size_is_kept(images: Path, raw: Path, paths: MachinePaths) -> None:
    qcow2.make(paths.image_disk, ROOT_DISK * 2)
    with pytest.raises(NotReady, match="not a disk of its image"):
        prepare(images, raw, paths)


@pytest.mark.parametrize("later", [3600, -3600])
def test_an_unrecorded_disk_is_adopted_whatever_the_times_of_the_files(
    images: Path, raw: Path, paths: MachinePaths, later: int
) -> None:
    at = time.time_ns() + later * 1_000_000_000  # the clock was set after the image was published
    os.utime(raw, ns=(at, at))
    made = prepare(images, raw, paths)
    before = paths.image_disk.read_bytes()
    assert prepare(images, raw, paths) == made
    assert paths.image_disk.read_bytes() == before


@pytest.mark.parametrize("later", [3600, -3600])
def test_an_unrecorded_disk_of_a_base_that_has_changed_is_not_adopted(
    images: Path, raw: Path, paths: MachinePaths, later: int
) -> None:
    prepare(images, raw, paths)
    at = paths.image_disk.stat().st_mtime_ns + later * 1_000_000_000
    raw.chmod(0o644)
    raw.write_bytes(raw.read_bytes()[::-1])
    os.utime(raw, ns=(at, at))
    with pytest.raises(NotReady, match="is not the file any more that the machine's disk was made of"):
        prepare(images, raw, paths)
    assert paths.image_disk.exists()


def test_a_base_that_changed_before_its_disk_had_a_name_is_looked_at_anew(
    images: Path, raw: Path, paths: MachinePaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(qcow2, "finish", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(NotReady, match="full"):
            prepare(images, raw, paths)
    os.utime(raw)
    made = prepare(images, raw, paths)
    assert made.backing is not None
    assert made.backing.identity.mtime_ns == raw.stat().st_mtime_ns
    assert prepare(images, raw, paths) == made


@pytest.mark.parametrize("noted", ["", "{}", '{"path": "/another", "format": "raw", "identity": {}}'])
def test_an_unrecorded_disk_of_whose_base_nothing_is_written_down_is_kept(
    images: Path, raw: Path, paths: MachinePaths, noted: str
) -> None:
    prepare(images, raw, paths)
    (note,) = paths.root.glob(".image.qcow2.*")
    note.write_text(noted)
    with pytest.raises(NotReady, match="not a disk of its image"):
        prepare(images, raw, paths)


def test_an_image_is_checked_once(images: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again when it is another file: a check of a large one takes minutes."""
    checked: list[Path] = []
    monkeypatch.setattr(qcow2, "check", checked.append)
    driver = LocalImages([images])
    for number in range(4):
        if number == 2:
            os.utime(plain, ns=(1, 1))
        disk(driver, plain, MachinePaths(make_directory(tmp_path / str(number), 0o711)))
    assert checked == [plain, plain]


# --- file systems that hang ----------------------------------------------------------------------


@pytest.fixture
def hung(tmp_path: Path, images: Path) -> Iterator[Hung]:
    with serving(tmp_path, images / "remote.raw") as hung:
        yield hung


def test_an_image_on_a_file_system_that_hangs_waits_with_the_directory_and_since_when(
    images: Path, raw: Path, hung: Hung, paths: MachinePaths
) -> None:
    looks = Looks(patience=0.3)
    driver = LocalImages([images], looks)
    hung.stop()
    begun = time.monotonic()
    with pytest.raises(NotReady) as first:
        disk(driver, hung.path, paths)
    words = rf"looking at the image {hung.path} goes on since .* UTC, and nothing more is begun at the image directory"
    assert re.match(words, str(first.value))
    assert str(images) in str(first.value)
    assert (first.value.code, "findmnt" in first.value.advice) == ("slow-storage", True)
    waited = time.monotonic()
    for reference in (hung.path, raw):  # neither is tried: who asks is told at once
        with pytest.raises(NotReady, match="nothing more is begun") as again:
            disk(driver, reference, paths)
        assert str(again.value) == str(first.value), "one reason, not one each second"
    assert time.monotonic() - waited < 5
    assert waited - begun < 30
    assert looks.late() == 1
    hung.go_on()
    end = time.monotonic() + 30
    while looks.late():
        assert time.monotonic() < end
        time.sleep(0.01)
    assert disk(driver, raw, paths)


def test_what_hangs_in_one_directory_is_nothing_to_another(
    images: Path, hung: Hung, paths: MachinePaths, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "disk.raw").write_bytes(os.urandom(65536))
    (other / "disk.raw").chmod(0o444)
    driver = LocalImages([images, other], Looks(patience=0.3))
    hung.stop()
    with pytest.raises(NotReady, match="goes on since"):
        disk(driver, hung.path, paths)
    assert disk(driver, other / "disk.raw", paths)


def test_a_directory_that_qemu_cannot_pass_is_said_before_qemu_finds_out(
    images: Path, raw: Path, paths: MachinePaths
) -> None:
    users: list[int | None] = [0, None, 64055]
    driver = LocalImages([images], qemu_user=lambda: users[0])
    images.chmod(0o700)
    made = disk(driver, raw, paths)
    del users[0]
    assert disk(driver, raw, paths, made) == made
    del users[0]
    for again in (None, made):
        with pytest.raises(NotReady, match=r"QEMU's user \(64055\) cannot pass the directory /") as caught:
            disk(driver, raw, paths, again)
        assert caught.value.advice.startswith("chmod o+x /")
