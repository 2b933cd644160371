"""Files as volumes: what a tenant's path can reach, and what is never opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sri_libvirt.devices import DiskSource, SecretReference
from sri_libvirt.errors import NotReady
from sri_libvirt.looks import Looks
from sri_libvirt.names import secret_uuid
from sri_libvirt.paths import MachinePaths
from sri_libvirt.volumes.allowed import AllowedDirectories
from sri_libvirt.volumes.file import FileVolumes
from tests.connected import MACHINE, SIZE, StubAsking, refused, volume, waits, wanted
from tests.unit.test_qcow2 import header


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "files"
    directory.mkdir()
    (directory / "a.raw").write_bytes(b"raw")
    return directory


def driver(
    *directories: Path, asking: StubAsking | None = None, closed: list[Path] | None = None, machines: Path | None = None
) -> FileVolumes:
    allowed = AllowedDirectories("file", "--file-dir", directories, Looks(), closed or [])
    return FileVolumes(allowed, machines, asking or StubAsking())


def test_what_qemu_is_told(files: Path, paths: MachinePaths) -> None:
    asked = volume("file", {"path": f"{files}/a.raw", "format": "raw", "other": "ignored"})
    expected = DiskSource(handle="file/4711", path=f"{files}/a.raw", format="raw", size=0)
    assert driver(files).source(MACHINE, asked) == expected
    prepared = driver(files).prepare(MACHINE, asked, paths)
    assert (prepared.path, prepared.format, prepared.size) == (f"{files}/a.raw", "raw", SIZE)


def test_a_passphrase_is_for_qemu(files: Path) -> None:
    asked = volume("file", {"path": "/f/a.raw", "format": "raw"}, encryption={"encryptionKey": b"key"})
    source = driver().source(MACHINE, asked)
    assert source.encryption == wanted("qemu")
    assert source.secrets == (SecretReference("encryption", secret_uuid(MACHINE, "data", "encryption")),)


@pytest.mark.parametrize(
    ("attributes", "key", "words"),
    [
        ({"format": "raw"}, "path", "must be set"),
        ({"path": "a.raw", "format": "raw"}, "path", "not an absolute path"),
        ({"path": "/f/../etc/shadow", "format": "raw"}, "path", "not an absolute path"),
        ({"path": "/f/./a", "format": "raw"}, "path", "not an absolute path"),
        ({"path": f"/{'a' * 4095}", "format": "raw"}, "path", "at most 4095"),
        ({"path": "/f/a\nb", "format": "raw"}, "path", "U+000A"),
        ({"path": "/f/a"}, "format", "must be set"),
        ({"path": "/f/a", "format": "vmdk"}, "format", "not one of raw, qcow2"),
        ({"path": "/f/a", "format": "RAW"}, "format", "not one of raw, qcow2"),
    ],
)
def test_attributes_that_are_wrong(attributes: dict[str, str], key: str, words: str) -> None:
    refused(driver(), volume("file", attributes), f'connection.attributes["{key}"]', words)


def test_luks_in_qcow2_is_another_thing() -> None:
    wrong = volume("file", {"path": "/f/a", "format": "qcow2"}, encryption={"encryptionKey": b"key"})
    refused(driver(), wrong, "connection.encryption_data", "goes with format raw")


def why(made: FileVolumes, path: object, paths: MachinePaths, form: str = "raw") -> str:
    """Why a file is not ready, its path left out."""
    error = waits(made, volume("file", {"path": str(path), "format": form}), paths, "")
    assert made._asking.asked == []  # type: ignore[union-attr]
    return str(error).replace(str(path), "PATH")


NOT_ALLOWED = "the file PATH is not below a directory that volumes may name"


def test_no_file_may_be_named_by_default(files: Path, paths: MachinePaths) -> None:
    assert why(driver(), files / "a.raw", paths) == NOT_ALLOWED


def test_what_is_outside_is_not_told_from_what_is_not(files: Path, paths: MachinePaths, tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    (files / "link").symlink_to(tmp_path / "there")
    (files / "dangling").symlink_to(tmp_path / "gone")
    (files / "dir").symlink_to(tmp_path)
    (tmp_path / "files-not").mkdir()
    (tmp_path / "files-not" / "x").touch()
    outside = [tmp_path / "there", tmp_path / "gone", tmp_path / "files-not" / "x", "/etc/shadow"]
    inside = [files / "link", files / "dangling", files / "dir" / "there", files / "dir" / "gone"]
    for path in (*outside, *inside):
        assert why(driver(files), path, paths) == NOT_ALLOWED


def test_what_is_outside_by_its_words_is_not_looked_at(
    files: Path, paths: MachinePaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driver(files)
    monkeypatch.setattr(os.path, "realpath", lambda path: pytest.fail(f"looked at {path}"))
    assert why(made, tmp_path / "there", paths) == NOT_ALLOWED


def test_links_within_are_followed_and_a_listed_directory_may_be_one(
    files: Path, paths: MachinePaths, tmp_path: Path
) -> None:
    (files / "latest").symlink_to("a.raw")
    (tmp_path / "alias").symlink_to(files)
    for path in (files / "latest", tmp_path / "alias" / "latest"):
        made = driver(files, tmp_path / "alias")
        asked = volume("file", {"path": str(path), "format": "raw"})
        assert made.prepare(MACHINE, asked, paths).path == f"{files}/a.raw"


def test_what_is_none_yet_or_no_file(files: Path, paths: MachinePaths) -> None:
    os.mkfifo(files / "pipe")
    (files / "loop").symlink_to("loop")
    assert why(driver(files), files / "later", paths) == "the file PATH is not there (yet)"
    assert why(driver(files), files / "a.raw" / "b", paths) == "the file PATH cannot be looked at: Not a directory"
    for path in (files, files / "pipe"):
        assert why(driver(files), path, paths) == "PATH is not a regular file"
    assert "not a regular file" in why(driver(files), files / "loop", paths)


def test_a_link_to_what_libvirt_cannot_be_told(files: Path, paths: MachinePaths) -> None:
    (files / "a\tb").touch()
    (files / "link").symlink_to("a\tb")
    assert "holds the character U+0009" in why(driver(files), files / "link", paths)


def test_what_is_the_providers_own_is_closed(files: Path, paths: MachinePaths, tmp_path: Path) -> None:
    closed = files / "state"
    closed.mkdir()
    (closed / "a.raw").touch()
    (files / "link").symlink_to(closed / "a.raw")
    for path in (closed / "a.raw", closed / "absent", files / "link"):
        assert why(driver(files, closed=[closed]), path, paths) == NOT_ALLOWED


def test_the_disk_of_a_machine_by_another_name(files: Path, paths: MachinePaths, tmp_path: Path) -> None:
    machines = tmp_path / "machines"
    (machines / "id").mkdir(parents=True)
    (machines / "a file").touch()
    (machines / "id" / "image.qcow2").write_bytes(b"disk")
    os.link(machines / "id" / "image.qcow2", files / "mine.raw")
    assert "the disk of a machine" in why(driver(files, machines=machines), files / "mine.raw", paths)
    asked = volume("file", {"path": f"{files}/a.raw", "format": "raw"})
    assert driver(files, machines=machines).prepare(MACHINE, asked, paths)
    assert driver(files, machines=tmp_path / "absent").prepare(MACHINE, asked, paths)


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (header(backing=0x70), "has a backing file"),
        (header(incompatible=4), "has an external data file"),
        (header(incompatible=2), "corrupt"),
        (header(crypt=2), "encrypted"),
        (header(version=4), "damaged"),
        (b"raw", "is not qcow2, which its volume says"),
        (b"", "is not qcow2"),
    ],
)
def test_a_qcow2_that_names_another_file_is_not_opened(
    files: Path, paths: MachinePaths, head: bytes, words: str
) -> None:
    (files / "a.qcow2").write_bytes(head)
    assert words in why(driver(files), files / "a.qcow2", paths, form="qcow2")


def test_formats_are_the_messages_and_not_the_contents(files: Path, paths: MachinePaths) -> None:
    (files / "a.qcow2").write_bytes(header(backing=0x70))  # a guest may write so into its raw disk
    for form, name in (("raw", "a.qcow2"), ("qcow2", "b.qcow2")):
        (files / "b.qcow2").write_bytes(header())
        asked = volume("file", {"path": f"{files}/{name}", "format": form})
        assert driver(files).prepare(MACHINE, asked, paths).format == form


def test_a_directory_that_qemu_cannot_pass_is_said_before_qemu_finds_out(files: Path, paths: MachinePaths) -> None:
    allowed = AllowedDirectories("file", "--file-dir", [files], Looks(), [], lambda: 64055)
    files.chmod(0o700)
    asked = volume("file", {"path": f"{files}/a.raw", "format": "raw"})
    with pytest.raises(NotReady, match=r"QEMU's user \(64055\) cannot pass the directory /.* of the file ") as caught:
        FileVolumes(allowed, None, StubAsking()).prepare(MACHINE, asked, paths)
    assert caught.value.advice.startswith("chmod o+x /")
