"""The disk of a containerDisk: what shows in /disk of merged layers, and every trick that an archive can hold."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import re
import tarfile
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt.images.fetch import layers as module
from sri_libvirt.images.fetch import tar
from sri_libvirt.images.fetch.job import Failure
from sri_libvirt.images.fetch.layers import Layer, extract_disk
from sri_libvirt.images.fetch.sparse import BLOCK_BYTES, write_sparse
from sri_libvirt.images.fetch.unpack import packing_of

MIB = 1 << 20
NOISE = random.Random(0).randbytes(200_000)
END = bytes(1024)

Content = tuple[str, bytes] | str | tarfile.TarInfo
"""A name with data, that of an empty file (a whiteout), or what has no data."""


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """What has no data."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def folder(name: str) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE)


def link(name: str, target: str = "/etc/shadow") -> tarfile.TarInfo:
    return entry(name, tarfile.SYMTYPE, target)


def archive(*entries: Content, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as made:
        for each in entries:
            if isinstance(each, tarfile.TarInfo):
                made.addfile(each)
                continue
            name, data = (each, b"") if isinstance(each, str) else each
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(
    name: bytes, *, size: int | bytes = 0, flag: bytes = b"0", magic: bytes = b"ustar\x0000", prefix: bytes = b""
) -> bytes:
    """One by hand, for what no library writes."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0" + b" " * 8 + flag
    head = (head.ljust(257, b"\0") + magic).ljust(345, b"\0") + prefix
    head = head.ljust(512, b"\0")
    return head[:148] + b"%06o\0 " % sum(head) + head[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = next(n for n in range(len(body), len(body) + 9) if len(b"%d" % n) + len(body) == n)
    return b"%d" % length + body


def pax(*records: bytes, flag: bytes = b"x") -> bytes:
    data = b"".join(records)
    return header(b"pax", size=len(data), flag=flag) + padded(data)


class Place:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.out = directory / "out"

    def extract(self, *archives: bytes, most: int = MIB) -> bytes:
        """The disk in layers, bottom to top; nothing else is there afterwards."""
        layers = []
        for number, data in enumerate(archives):
            path = self.directory / f"layer-{number}"
            path.write_bytes(data)
            layers.append(Layer(path, packing_of(data[:6])))
        before = set(self.directory.parent.rglob("*"))
        with self.out.open("wb") as out:
            size = extract_disk(layers, out, most)
        assert set(self.directory.parent.rglob("*")) - before <= {self.out}
        assert self.out.stat().st_size == size
        return self.out.read_bytes()

    @contextmanager
    def refuses(self, code: str, words: str = ".") -> Iterator[None]:
        with pytest.raises(Failure, match=words) as caught:
            yield
        assert caught.value.code == code


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize("name", ["disk/a.img", "./disk/a.img", "/disk/a.img", "disk//./a.img", ".//disk/a.img"])
def test_the_only_file(place: Place, name: str) -> None:
    assert place.extract(archive("etc/passwd", folder("disk"), (name, NOISE), link("lib"), "diskette/b")) == NOISE


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_layers_are_packed(place: Place, pack: Callable[[bytes], bytes]) -> None:
    assert place.extract(pack(archive("x")), pack(archive(("disk/a", NOISE))), archive("y")) == NOISE


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_archive(place: Place, form: int) -> None:
    path = "/".join(["usr"] + ["long-name" * 6] * (2 if form == tarfile.USTAR_FORMAT else 4))
    long_link = [] if form == tarfile.USTAR_FORMAT else [link("b", path)]
    name = "disk/" + "ü" * (40 if form == tarfile.USTAR_FORMAT else 120)
    assert place.extract(archive((path, b"x" * 513), *long_link, (name, NOISE), form=form)) == NOISE


def test_a_path_in_the_prefix(place: Place) -> None:
    assert place.extract(header(b"a.img", prefix=b"disk", size=3) + padded(b"abc") + END) == b"abc"
    gnu = header(b"disk/a.img", magic=b"ustar  \0", prefix=b"01234567012", size=3)
    assert place.extract(gnu + padded(b"abc") + END) == b"abc", "GNU tar has times there"
    assert place.extract(header(b"disk/a.img", magic=b"", prefix=b"x", size=3) + padded(b"abc") + END) == b"abc"


@pytest.mark.parametrize("size", [b"\x80" + bytes(10) + b"\3", b"3\0garbage   ", b"          3 ", b"00000000003 "])
def test_a_size_in_other_writing(place: Place, size: bytes) -> None:
    assert place.extract(header(b"disk/a", size=size) + padded(b"abc") + END) == b"abc"


def test_extended_headers(place: Place) -> None:
    data = header(b"wrong", size=0) + padded(b"abc") + END
    path, size = record(b"path", b"disk/a"), record(b"size", b"3")
    assert place.extract(pax(record(b"mtime", b"1"), path, size) + data) == b"abc"
    assert place.extract(pax(path) + pax(size, record(b"linkpath", b"x")) + data) == b"abc"
    assert place.extract(pax(path, size, record(b"path", b"")) + data) == b"abc", "empty says nothing"
    assert place.extract(pax(record(b"comment", b"a commit"), flag=b"g") + pax(path, size) + data) == b"abc"
    long = header(b"long", size=7, flag=b"L") + padded(b"disk/a\0")
    assert place.extract(long + pax(size) + header(b"link", size=3, flag=b"K") + padded(b"x/y") + data) == b"abc"


def test_extended_headers_are_of_one_entry(place: Place) -> None:
    first = pax(record(b"path", b"other"), record(b"size", b"3")) + header(b"x") + padded(b"abc")
    assert place.extract(first + header(b"disk/a", size=2) + padded(b"de") + END) == b"de"


def test_what_has_no_data_has_none_whatever_it_says(place: Place) -> None:
    data = header(b"link", size=99999, flag=b"2") + header(b"dir", size=99999, flag=b"5") + header(b"old/", flag=b"\0")
    assert (
        place.extract(data + header(b"disk/", flag=b"\0") + header(b"disk/a", size=3) + padded(b"abc") + END) == b"abc"
    )


def test_what_has_data_that_nobody_wants(place: Place) -> None:
    data = header(b"label", size=600, flag=b"V") + padded(b"x" * 600)
    assert place.extract(data + header(b"disk/a", size=3, flag=b"7") + padded(b"abc") + END) == b"abc"


def test_what_follows_the_end_is_dropped(place: Place) -> None:
    assert place.extract(archive(("disk/a", NOISE)) + archive(("disk/b", NOISE)) + b"garbage") == NOISE


A, B = ("disk/a", b"the upper"), ("disk/a", b"the lower")


@pytest.mark.parametrize(
    ("lower", "upper"),
    [
        ([B], [A]),
        ([("disk/b", b"x")], [".wh.disk", A]),
        ([("disk/b", b"x")], [A, ".wh.disk"]),
        ([("disk/b", b"x")], [A, "disk/.wh.b"]),
        ([("disk/b", b"x")], ["./disk/.wh.b", A]),
        ([("disk/b", b"x")], [A, entry("disk/.wh.b", tarfile.LNKTYPE, ".wh..wh.aufs")]),
        ([("disk/b", b"x"), link("disk/c")], ["disk/.wh..wh..opq", A]),
        ([("disk/b", b"x"), link("disk/c")], [A, "disk/.wh..wh..opq"]),
        ([("disk/b", b"x")], [A, ".wh..wh..opq"]),
        ([link("disk")], [A, ".wh.disk"]),
        (["disk"], [".wh..wh..opq", A]),
        ([B], [A, "disk/.wh.a"]),
        ([link("disk/a")], [A]),
        ([("disk/b", b"x")], [A, folder("disk/b")]),
        ([("disk/b", b"x")], [A, "disk/b/c"]),
        ([A], ["disk/.wh.b", "etc/.wh.disk", ".wh.a", ".wh.disk.", "usr/.wh..wh..opq", ".wh..wh.plnk/1.2"]),
        ([A], [folder("disk")]),
        ([folder("disk/b"), "disk/b/c", "disk/b/d", folder("disk/b")], [A]),
        (["disk/b/a", "disk/b/.wh.a"], [A]),
        (["usr/a", link("usr/disk"), link("etc")], [A]),
    ],
)
def test_what_shows(place: Place, lower: list[Content], upper: list[Content]) -> None:
    assert place.extract(archive(*lower), archive(*upper)) == b"the upper"


def test_what_hides_reaches_through_a_layer(place: Place) -> None:
    bottom, empty = archive(("disk/b", b"x")), archive("etc/x")
    assert place.extract(bottom, empty, archive("disk/.wh.b"), empty, archive(A), empty) == b"the upper"
    assert place.extract(bottom, archive("disk/.wh.b"), archive(("disk/b", b"new")), empty) == b"new"


def test_layers_of_which_nothing_shows_are_not_read(place: Place) -> None:
    assert place.extract(b"no archive", archive(A, ".wh.disk")) == b"the upper"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "no file in /disk"),
        (["etc/disk/a", "diska", "Disk/a"], "no file in /disk"),
        (["disk/b/a"], "no file in /disk"),
        ([folder("disk/b")], "no file in /disk"),
        ([("disk/a", b"x"), ("disk/b", b"x")], 'more than one file in /disk, among them "a" and "b"$'),
        ([link("disk/a")], '"a" in its /disk is a symbolic link, not a file$'),
        ([("b", b"x"), entry("disk/a", tarfile.LNKTYPE, "b")], '"a" in its /disk is a hard link'),
        ([entry("disk/a", tarfile.CHRTYPE)], "a character device"),
        ([entry("disk/a", tarfile.BLKTYPE)], "a block device"),
        ([entry("disk/a", tarfile.FIFOTYPE)], "a fifo"),
        ([entry("disk/a", b"Z")], "a special file"),
        ([A, link("disk/z")], '"z" in its /disk is a symbolic link'),
        ([link("disk", "/etc"), "disk/passwd"], "its /disk is a symbolic link, not a directory$"),
        ([A, entry("./disk", tarfile.LNKTYPE, "x")], "its /disk is a hard link"),
        (["disk"], "its /disk is a file"),
        ([A, A], '"a" in /disk twice'),
        ([folder("disk/a"), A], '"a" in /disk twice'),
        ([A, "disk/a/b"], '"a" in /disk twice'),
        ([A, "../b"], r'leads out of it: "\.\./b"'),
        ([A, "usr/../disk/b"], "leads out of it"),
        ([A, folder("/..")], "leads out of it"),
        ([A, "disk/" + "x" * 256], "a name in its /disk has more than 255 bytes"),
        ([A, "disk/" + "ü" * 128], "a name in its /disk has more than 255 bytes"),
        ([A, "usr/" * 1025 + "x"], "a path in it has more than 4096 characters"),
        ([("disk/\x1b[2Ja", b"x"), ("disk/" + "b" * 200, b"x")], r'among them "\\u001b\[2Ja" and "b{64}…"$'),
    ],
)
def test_what_is_no_containerdisk(place: Place, entries: list[Content], words: str) -> None:
    with place.refuses("not-an-image", words):
        place.extract(archive(*entries))
    with place.refuses("not-an-image", words):
        place.extract(archive(*entries), archive("etc/x"))


def test_no_layers(place: Place) -> None:
    with place.refuses("not-an-image", "no file"):
        place.extract()


def test_files_of_two_layers(place: Place) -> None:
    with place.refuses("not-an-image", 'among them "a" and "b"'):
        place.extract(archive(("disk/b", b"x")), archive(A))


def test_names_that_are_no_text(place: Place) -> None:
    first, second = header(b"disk/\xff", size=1) + padded(b"x"), header(b"disk/\xfe", size=1) + padded(b"y")
    assert place.extract(first + END) == b"x"
    with place.refuses("not-an-image", re.escape(r'"\udcff" and "\udcfe"')):
        place.extract(first + second + END)


@pytest.mark.parametrize(
    "data",
    [
        header(b"disk/a", size=512, flag=b"S"),
        pax(record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0")) + header(b"disk/a"),
        pax(record(b"GNU.sparse.map", b"0,1")) + header(b"disk/a"),
        pax(record(b"GNU.sparse.size", b"3"), flag=b"g") + header(b"disk/a"),
    ],
)
def test_sparse_entries(place: Place, data: bytes) -> None:
    with place.refuses("not-an-image", "sparse"):
        place.extract(data + END)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends too early"),
        (b"x" * 512, "damaged, or is no tar archive"),
        (NOISE, "damaged, or is no tar archive"),
        (header(b"disk/a", size=b"\xff" * 12), "damaged"),
        (header(b"disk/a", size=b"\xc0" + bytes(11)), "damaged"),
        (header(b"disk/a", size=b"-0000000001\0"), "damaged"),
        (header(b"disk/a", size=b"0x3        \0"), "damaged"),
        (header(b"disk/a").replace(b"disk/a", b"disk/b") + END, "damaged"),
        (header(b"x") + header(b"disk/a").replace(b"disk/a", b"disk/b") + END, "damaged"),
        (header(b"x") + b"\1" + bytes(511) + END, "damaged"),
        (pax(b"3 a") + header(b"disk/a"), "damaged"),
        (pax(b"5 a=\n" * 2 + b"0 a=b\n"), "damaged"),
        (pax(b"1 a=b\n"), "damaged"),
        (pax(b"4 ab\n"), "damaged"),
        (pax(b"99 a=b\n"), "damaged"),
        (pax(b"-6 a=b\n"), "damaged"),
        (pax(b"6a=b\n"), "damaged"),
        (pax(b"9" * 600), "damaged"),
        (pax(record(b"path", b"disk/a\0b")), "damaged"),
        (pax(record(b"size", b"-1")) + header(b"disk/a"), "damaged"),
        (pax(record(b"size", b"9" * 21)) + header(b"disk/a"), "damaged"),
        (pax(record(b"size", b"3"), flag=b"g") + header(b"disk/a"), "all files in it"),
        (pax(record(b"path", b"disk/a"), flag=b"g") + header(b"x"), "all files in it"),
        (pax(record(b"path", b"disk/a")) + END, "ends too early"),
        (header(b"x", size=7, flag=b"L") + padded(b"disk/a\0") + END, "ends too early"),
    ],
)
def test_archives_that_are_damaged(place: Place, data: bytes, words: str) -> None:
    with place.refuses("damaged", words):
        place.extract(data)


@pytest.mark.parametrize("tenth", range(10))
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_archive_that_ends_too_early(place: Place, tenth: int, pack: Callable[[bytes], bytes]) -> None:
    data = pack(archive("etc/x", ("etc/y", NOISE[:50_000]), ("disk/a", NOISE), ("usr/z", NOISE[:30_000])))
    with place.refuses("damaged", "ends too early"):
        place.extract(archive("x"), data[: len(data) * tenth // 10])


def test_an_archive_that_ends_after_an_entry(place: Place) -> None:
    with place.refuses("damaged", "ends too early"):
        place.extract(header(b"disk/a", size=3) + padded(b"abc"))


@pytest.mark.parametrize("flag", [b"x", b"X", b"g", b"L", b"K"])
@pytest.mark.parametrize("size", [MIB + 1, 4 << 30])
def test_an_extended_header_that_would_fill_memory(place: Place, flag: bytes, size: int) -> None:
    """The rest of it is never asked for: it is not there."""
    with place.refuses("damaged", "an extended header of its archive has [14] [MG]iB"):
        place.extract(header(b"x", size=size, flag=flag) + bytes(512))


def pieces_of(*parts: tuple[bytes, int]) -> Iterator[bytes]:
    for data, times in parts:
        for _ in range(times):
            yield data


def peak_of(archive: tar.Archive) -> int:
    """Bytes of memory that reading takes at most."""
    tracemalloc.start()
    try:
        with pytest.raises(Failure):
            for _ in archive:
                pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_headers_are_counted_with_what_extends_them() -> None:
    extended = pax(record(b"path", b"x" * 600))
    archive = tar.Archive(pieces_of((extended, 1), (header(b"a"), 1), (END, 1)), 100)
    assert [each.name for each in archive] == ["x" * 600]
    assert archive.blocks == 1 + 2 + 1 + 1


@pytest.mark.parametrize(
    "block",
    [
        header(b"disk/a", flag=b"5"),
        pax(record(b"comment", b"x" * 1000)),
        pax(record(b"comment", b"x" * 1000), flag=b"g"),
        pax(*(record(b"SCHILY.xattr.%d" % number, b"") for number in range(1000))),
        header(b"x", size=1000, flag=b"L") + padded(b"x" * 1000),
    ],
)
def test_any_number_of_headers_takes_no_memory_and_has_an_end(block: bytes) -> None:
    """Extended ones without an entry too: each would be a call deeper in tarfile."""
    archive = tar.Archive(pieces_of((block, 2_000)), 1_500)
    assert peak_of(archive) < MIB
    assert archive.blocks > 1_500


@given(
    st.lists(
        st.builds(
            header,
            st.sampled_from([b"disk/a", b"disk", b"x", b"\xff"]),
            size=st.integers(0, 600) | st.binary(min_size=12, max_size=12),
            flag=st.sampled_from([b"0", b"x", b"g", b"L", b"5"]) | st.binary(min_size=1, max_size=1),
            magic=st.sampled_from([b"ustar\x0000", b"ustar  \0"]),
            prefix=st.binary(max_size=155),
        )
        | st.binary(max_size=600).map(padded)
        | st.builds(record, st.sampled_from([b"path", b"size", b"a"]), st.binary(max_size=20)).map(pax),
        max_size=5,
    )
)
@settings(max_examples=150, deadline=None)
def test_no_bytes_are_a_fault(parts: list[bytes]) -> None:
    try:
        entries = list(tar.Archive(iter([*parts, END]), 100))
    except Failure:
        return
    assert all(each.size >= 0 for each in entries)


def test_headers_of_all_layers_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "HEADER_BLOCKS", 10)
    lower, upper = archive(*(f"{number}" for number in range(5))), archive(*"abcd")
    with place.refuses("not-an-image", "no file"):
        place.extract(lower, lower[: 3 * 512] + END)
    with place.refuses("damaged", "more headers"):
        place.extract(lower, upper)


def test_names_that_are_kept_are_few(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NAMES", 4)
    assert place.extract(archive("disk/.wh.a", "disk/.wh.b"), archive(folder("disk/c"), A)) == b"the upper"
    with place.refuses("not-an-image", "more than 4 names in /disk"):
        place.extract(archive("disk/.wh.a", "disk/.wh.b", "disk/.wh.c"), archive(folder("disk/c"), A))


def test_a_disk_that_is_too_large(place: Place) -> None:
    assert len(place.extract(archive(("disk/a", bytes(MIB))), most=MIB)) == MIB
    with place.refuses("too-large", "the disk in it has more than 1 MiB"):
        place.extract(archive(("disk/a", NOISE * 6)), most=MIB)
    assert place.out.read_bytes() == b"", "nothing of it is written"
    with place.refuses("too-large"):
        place.extract(header(b"disk/a", size=b"\x80" + b"\x7f" * 11), most=MIB)


def test_all_layers_together_are_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OTHER_BYTES", 2 * MIB)
    other = gzip.compress(archive(("usr/x", bytes(MIB))))
    disk = archive(("disk/a", bytes(MIB - 4096)))
    assert len(place.extract(other, disk)) == MIB - 4096
    for layers in (
        (other, other, other, disk),
        (disk, other, other, other),
        (gzip.compress(END + bytes(4 * MIB)), disk),
    ):
        with place.refuses("too-large", "its layers unpack to more than 3 MiB"):
            place.extract(*layers)


def test_zeroes_are_holes(place: Place) -> None:
    data = NOISE[:70_000] + bytes(20 * MIB) + NOISE[:10] + bytes(10 * MIB)
    assert place.extract(gzip.compress(archive(("disk/a", data)), 1), most=40 * MIB) == data
    assert place.out.stat().st_blocks * 512 < MIB


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b""],
        [b"a"],
        [bytes(BLOCK_BYTES)],
        [bytes(BLOCK_BYTES + 1)],
        [bytes(BLOCK_BYTES), b"a"],
        [bytes(BLOCK_BYTES - 1), b"a", bytes(3 * BLOCK_BYTES), b"b"],
        [NOISE],
        [NOISE[at : at + 777] for at in range(0, len(NOISE), 777)],
        [NOISE[:100] + bytes(BLOCK_BYTES), bytes(BLOCK_BYTES), NOISE[:BLOCK_BYTES], bytes(5)],
    ],
    ids=lambda pieces: str(sum(map(len, pieces))),
)
def test_what_is_written_is_what_came(tmp_path: Path, pieces: Iterable[bytes]) -> None:
    with (tmp_path / "out").open("wb") as out:
        size = write_sparse(pieces, out)
    data = (tmp_path / "out").read_bytes()
    assert (size, data) == (len(data), b"".join(pieces))


def test_holes_are_of_the_zeroes_alone(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        write_sparse([bytes(BLOCK_BYTES), b"a" * BLOCK_BYTES, bytes(BLOCK_BYTES)], out)
        out.flush()
        assert os.fstat(out.fileno()).st_blocks * 512 <= 2 * BLOCK_BYTES
