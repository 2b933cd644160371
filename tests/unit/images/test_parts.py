"""The parts that a pin names: what is fetched for a machine, and that a pin says it after any restart."""

from __future__ import annotations

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt.devices import pin_from_json, pin_to_json
from sri_libvirt.images.content import Blob, Content, Part
from sri_libvirt.images.parts import parts_of, pin_of_artifact, pin_of_file
from sri_libvirt.images.reference import Reference, WebFile

REFERENCE = Reference("ghcr.io", "org/image", "v1")
FILE = WebFile("https://example.org/disk.raw.xz")
MANIFEST = f"sha256:{'f' * 64}"
NAMED = f"ghcr.io/org/image@{MANIFEST}"


def blob(number: int, packing: str = "") -> Blob:
    return Blob(f"sha256:{number:064x}", number, "a/type", packing)


def test_the_parts_of_an_artifact_are_its_blobs_and_only_the_disk_is_looked_at_as_one() -> None:
    content = Content(disk=blob(1), kernel=blob(2), initramfs=blob(3), command_line="quiet")
    pin = pin_of_artifact(REFERENCE, MANIFEST, content)
    assert (pin.reference, pin.boot, pin.initramfs, pin.command_line) == (NAMED, "kernel", True, "quiet")
    parts = parts_of(pin)
    assert list(parts) == ["disk", "kernel", "initramfs"]
    assert pin.parts == tuple(part.name for part in parts.values()) == tuple(blob(n).digest for n in (1, 2, 3))
    assert [part.kind for part in parts.values()] == ["disk", "file", "file"]
    assert {(part.source, part.registry, part.repository, part.layered) for part in parts.values()} == {
        (NAMED, "ghcr.io", "org/image", False)
    }


def test_a_machine_boots_what_its_image_has() -> None:
    for content, boot in (
        (Content(disk=blob(1)), "disk"),
        (Content(layers=(blob(1),)), "disk"),
        (Content(disk=blob(1), uki=blob(2)), "uki"),
        (Content(kernel=blob(2)), "kernel"),
    ):
        pin = pin_of_artifact(REFERENCE, MANIFEST, content)
        assert (pin.boot, pin.initramfs) == (boot, False)


def test_layers_are_one_part_called_by_all_of_them_in_their_order() -> None:
    names = set()
    for layers in ([1], [1, 2], [2, 1], [1, 1], [12], [1, 2, 3]):
        content = Content(layers=tuple(blob(number, "gzip") for number in layers))
        ((role, part),) = parts_of(pin_of_artifact(REFERENCE, MANIFEST, content)).items()
        assert (role, part.layered, part.kind, part.size) == ("disk", True, "disk", sum(layers))
        assert part.blobs == content.layers
        assert re.fullmatch("layers:[0-9a-f]{64}", part.name)
        names.add(part.name)
    assert len(names) == 6


def test_the_same_blob_is_the_same_part_in_whatever_image() -> None:
    other = Reference("quay.io", "other", "v2")
    one = parts_of(pin_of_artifact(REFERENCE, MANIFEST, Content(disk=blob(1))))["disk"]
    two = parts_of(pin_of_artifact(other, f"sha256:{'e' * 64}", Content(disk=blob(1), uki=blob(2))))["disk"]
    assert one.name == two.name
    assert one.file == two.file
    assert one.registry != two.registry


def test_a_file_of_a_web_server_is_called_by_its_url_and_digest() -> None:
    pin = pin_of_file(FILE, MANIFEST)
    assert pin.reference == f"{FILE.url}#sha256={'f' * 64}"
    assert pin.parts == (pin.reference,)
    assert (pin.boot, pin.initramfs, pin.command_line) == ("disk", False, "")
    ((role, part),) = parts_of(pin).items()
    assert role == "disk"
    assert (part.name, part.source, part.url, part.digest) == (pin.reference, pin.reference, FILE.url, MANIFEST)
    assert (part.blobs, part.size) == ((), 0)


def test_what_a_part_is_called_while_it_is_not_whole_is_a_plain_name_of_its_own() -> None:
    contents = [Content(disk=blob(1)), Content(layers=(blob(1),)), Content(layers=(blob(1), blob(2)))]
    parts: list[Part] = [parts_of(pin_of_artifact(REFERENCE, MANIFEST, content))["disk"] for content in contents]
    for file in (FILE, WebFile(f"{FILE.url}?x=/../../etc"), WebFile(f"{FILE.url}x")):
        parts.append(parts_of(pin_of_file(file, MANIFEST))["disk"])
        parts.append(replace(parts[-1], name=file.url, digest=""))  # its digest is not known before it is fetched
    names = [part.file for part in parts]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[0-9a-f]{64}", name) for name in names)


blobs = st.builds(
    Blob,
    st.from_regex("sha256:[0-9a-f]{64}", fullmatch=True),
    st.integers(0, 1 << 50),
    st.text(),
    st.sampled_from(["", "gzip", "zstd"]),
)
contents = st.builds(
    Content,
    st.none() | blobs,
    st.lists(blobs, max_size=3).map(tuple),
    st.none() | blobs,
    st.none() | blobs,
    st.none() | blobs,
    st.text(),
)


@given(contents)
def test_a_pin_that_was_stored_names_the_same_parts(content: Content) -> None:
    pin = pin_of_artifact(REFERENCE, MANIFEST, content)
    stored = pin_from_json(pin_to_json(pin))
    assert stored == pin
    parts = parts_of(stored)
    assert tuple(part.name for part in parts.values()) == pin.parts
    assert parts == parts_of(pin)
    if content.layers:
        assert parts["disk"].blobs == content.layers
    elif content.disk:
        assert parts["disk"].blobs == (content.disk,)
    assert all(part.registry == "ghcr.io" for part in parts.values())
