"""What indices, manifests and configs hold: every kind of image, and strangers' documents of any shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sri_libvirt import printable
from sri_libvirt.images.content import Blob, Content, content_of
from sri_libvirt.images.fetch import manifest
from sri_libvirt.images.fetch.manifest import NotAnImage
from tests.backends.artifacts import (
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    TYPES,
    Generation,
)

CURRENT = TYPES["current"]
LINUX = {"os": "linux", "architecture": "amd64"}
ARM = {"os": "linux", "architecture": "arm64"}


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def described(media_type: str, number: int = 1, size: int = 10, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(number), "size": size, **more}


def written(config: str, *layers: str) -> dict[str, Any]:
    """One with layers of these types, whose digests are 1, 2, 3 …"""
    return {"config": described(config, 99), "layers": [described(kind, n) for n, kind in enumerate(layers, 1)]}


def read(config: str, *layers: str, told: dict[str, Any] | None = None) -> Content:
    return manifest.read(written(config, *layers), told)


def numbers(found: Content) -> dict[str, int]:
    """Which layer each part is."""
    single = {"disk": found.disk, "kernel": found.kernel, "initramfs": found.initramfs, "uki": found.uki}
    return {name: int(each.digest[-4:], 16) for name, each in single.items() if each}


# Artifacts.


@pytest.mark.parametrize("generation", ["onmetal", "legacy", "current"])
def test_every_generation_has_a_disk_with_its_kernel(generation: Generation) -> None:
    types = TYPES[generation]
    told = {"commandLine": "a=b"}
    found = read(types["config"], "text/plain", types["initramfs"], types["rootfs"], types["kernel"], told=told)
    assert numbers(found) == {"initramfs": 2, "disk": 3, "kernel": 4}
    assert (found.command_line, found.layers) == ("a=b", ())


@pytest.mark.parametrize(
    ("layers", "parts"),
    [
        (["disk"], {"disk": 1}),
        (["rootfs"], {"disk": 1}),
        (["squashfs"], {"disk": 1}),
        (["squashfs", "rootfs"], {"disk": 2}),
        (["squashfs", "rootfs", "disk", "kernel", "initramfs", "uki", "iso"], {"disk": 3}),
        (["squashfs", "rootfs", "kernel", "initramfs", "uki", "iso"], {"disk": 2, "kernel": 3, "initramfs": 4}),
        (["squashfs", "initramfs", "uki"], {"disk": 1, "uki": 3}),
        (["kernel"], {"kernel": 1}),
        (["uki"], {"uki": 1}),
    ],
)
def test_parts_are_taken_by_what_boots_most_surely(layers: list[str], parts: dict[str, int]) -> None:
    assert numbers(read(CURRENT["config"], *(CURRENT[each] for each in layers))) == parts


def test_layers_alone_make_an_artifact_whose_config_is_empty() -> None:
    empty = "application/vnd.oci.empty.v1+json"
    assert numbers(read(empty, CURRENT["rootfs"], CURRENT["uki"])) == {"disk": 1, "uki": 2}
    assert manifest.config_of(written(empty, CURRENT["rootfs"])) is None


@pytest.mark.parametrize(
    ("config", "layers", "words"),
    [
        (CURRENT["config"], [CURRENT["iso"]], "an ISO image, which installs a machine and is not one"),
        (CURRENT["config"], [CURRENT["initramfs"]], "holds no disk and no kernel"),
        (CURRENT["config"], ["text/plain"], "holds no disk and no kernel"),
        (CURRENT["config"], [], "has no layers"),
        (OCI_CONFIG, [], "has no layers"),
        ("application/vnd.cncf.helm.config.v1+json", ["application/tar+gzip"], "neither an ironcore-image nor a cont"),
        ("", ["text/plain"], "neither an ironcore-image nor a containerDisk"),
        (OCI_CONFIG, [f"{OCI_LAYER}+gzip", "application/x-tar"], 'a layer of it is "application/x-tar"'),
        (OCI_CONFIG, [CURRENT["rootfs"]], "a layer of it is .*rootfs"),
        (OCI_CONFIG, [OCI_LAYER] * 129, "129 layers, more than 128"),
    ],
)
def test_what_no_machine_is_made_of_is_refused(config: str, layers: list[str], words: str) -> None:
    with pytest.raises(NotAnImage, match=words):
        read(config, *layers)


@pytest.mark.parametrize(
    ("told", "line"),
    [(None, ""), ({}, ""), ({"commandLine": None}, ""), ({"commandLine": ""}, ""), ({"commandLine": "x" * 2047}, "x")],
)
def test_a_command_line_is_told_to_the_kernel(told: dict[str, Any] | None, line: str) -> None:
    assert read(CURRENT["config"], CURRENT["kernel"], told=told).command_line == line * (2047 if line else 0)


@pytest.mark.parametrize(
    "line", ["x" * 2048, "ä" * 1024, 7, ["a"], {"a": 1}, True, "a\nb", "a\0", "a\x1b[31m", "a\u202e", "a\ud800"]
)
def test_a_command_line_that_is_no_line_is_refused(line: object) -> None:
    with pytest.raises(NotAnImage, match="command line"):
        read(CURRENT["config"], CURRENT["kernel"], told={"commandLine": line})


@pytest.mark.parametrize("config", [TYPES[each]["config"] for each in TYPES])
def test_only_configs_of_artifacts_are_read_and_none_that_is_large(config: str) -> None:
    found = manifest.config_of(written(config, CURRENT["rootfs"]))
    assert found is not None
    assert found.digest == digest(99)
    assert manifest.config_of(written(OCI_CONFIG, OCI_LAYER)) is None
    with pytest.raises(NotAnImage, match="its config has 4194305 bytes, more than"):
        manifest.config_of({"config": described(config, 99, (4 << 20) + 1)})


# Container images.


@pytest.mark.parametrize(
    ("config", "layer", "packing"),
    [
        (OCI_CONFIG, OCI_LAYER, ""),
        (OCI_CONFIG, f"{OCI_LAYER}+gzip", "gzip"),
        (OCI_CONFIG, f"{OCI_LAYER}+zstd", "zstd"),
        (DOCKER_CONFIG, DOCKER_LAYER, ""),
        (DOCKER_CONFIG, f"{DOCKER_LAYER}.gzip", "gzip"),
        (DOCKER_CONFIG, f"{DOCKER_LAYER}.zstd", "zstd"),
    ],
)
def test_a_container_image_is_its_layers_in_their_order(config: str, layer: str, packing: str) -> None:
    found = read(config, layer, layer)
    assert found == Content(layers=tuple(Blob(digest(number), 10, layer, packing) for number in (1, 2)))
    assert (found.disk, found.kernel, found.initramfs, found.uki) == (None, None, None, None)


# Indices.


def listed(number: int, platform: object = LINUX, kind: str = OCI_MANIFEST, **annotations: str) -> dict[str, Any]:
    return described(kind, number, platform=platform, annotations=annotations)


@pytest.mark.parametrize(
    ("entries", "machine", "chosen"),
    [
        ([listed(1, ARM), listed(2), listed(3)], "x86_64", 2),
        ([listed(1, ARM), listed(2), listed(3)], "aarch64", 1),
        ([listed(1), listed(2, variant="virtualization"), listed(3, variant="virtualization")], "x86_64", 2),
        ([listed(1, ARM, variant="virtualization"), listed(2, variant="metal"), listed(3)], "x86_64", 2),
        ([listed(1, kind="text/plain"), listed(2, kind=OCI_INDEX), listed(3, kind=DOCKER_MANIFEST)], "x86_64", 3),
        ([listed(1, {"os": "unknown", "architecture": "unknown"}), listed(2)], "x86_64", 2),
        ([listed(1, None)], "x86_64", 1),
        ([listed(1, {})], "x86_64", 1),
        ([listed(1, {"os": "linux", "architecture": "riscv64"})], "riscv64", 1),
        ([None, 7, [], listed(1)], "x86_64", 1),
    ],
)
def test_an_image_of_an_index_is_chosen_by_hardware_and_variant(
    entries: list[object], machine: str, chosen: int
) -> None:
    assert manifest.choose({"manifests": entries}, machine).digest == digest(chosen)


@pytest.mark.parametrize(
    ("entries", "has"),
    [
        ([], "none"),
        (None, "none"),
        ("text", "none"),
        ([listed(1, ARM)], '"linux/arm64"'),
        ([listed(1, None), listed(2, None)], "none"),
        ([listed(1, {"os": "windows", "architecture": "amd64"}), listed(2, ARM)], '"linux/arm64", "windows/amd64"'),
        ([listed(1, {"os": "\x1b[31m\u202e", "architecture": "x" * 500})], r'"\\u001b\[31m\\u202e/x{50,60}…"'),
        ([listed(n, {"os": f"o{n}", "architecture": "a"}) for n in range(9)], '"o0/a", "o1/a", "o2/a", "o3/a", "o4/a"'),
    ],
)
def test_an_index_without_an_image_for_a_host_is_refused_with_what_it_has(entries: object, has: str) -> None:
    with pytest.raises(NotAnImage, match=rf"^its index has no image for linux/amd64 \(it has {has}\)$"):
        manifest.choose({"manifests": entries}, "x86_64")


# What it is.


@pytest.mark.parametrize(
    ("document", "header", "kind"),
    [
        ({"mediaType": OCI_MANIFEST, "layers": []}, OCI_MANIFEST, OCI_MANIFEST),
        ({"layers": []}, f"{OCI_MANIFEST}; charset=utf-8", OCI_MANIFEST),
        ({"mediaType": "", "config": {}}, DOCKER_MANIFEST, DOCKER_MANIFEST),
        ({"mediaType": OCI_INDEX, "manifests": []}, OCI_INDEX, OCI_INDEX),
        ({"manifests": None}, DOCKER_LIST, DOCKER_LIST),
    ],
)
def test_a_document_is_what_it_says_and_the_registry_too(document: dict[str, Any], header: str, kind: str) -> None:
    assert manifest.media_type(document, header) == kind


@pytest.mark.parametrize(
    ("document", "header", "words"),
    [
        ({"mediaType": OCI_MANIFEST, "layers": []}, DOCKER_MANIFEST, "the registry calls it .*docker.* calls itself"),
        ({"mediaType": OCI_INDEX, "layers": []}, OCI_MANIFEST, "the registry calls it"),
        ({"mediaType": OCI_INDEX, "layers": []}, OCI_INDEX, "neither an image nor an index"),
        ({"manifests": []}, OCI_MANIFEST, "neither an image nor an index"),
        ({"manifests": [], "layers": []}, OCI_INDEX, "an index and a manifest at once"),
        ({"manifests": [], "config": {}}, OCI_MANIFEST, "an index and a manifest at once"),
        ({}, "", "neither an image nor an index"),
        ({}, "text/html\x1b[31m", r'media type "text/html\\u001b\[31m"'),
    ],
)
def test_a_document_that_is_called_two_things_is_neither(document: dict[str, Any], header: str, words: str) -> None:
    with pytest.raises(NotAnImage, match=words):
        manifest.media_type(document, header)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not JSON"),
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"size": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
    ],
)
def test_what_is_no_document_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(NotAnImage, match=words):
        manifest.document(data)


@pytest.mark.parametrize(
    ("descriptor", "words"),
    [
        (None, "no sha256 digest"),
        ([], "no sha256 digest"),
        ({}, "no sha256 digest"),
        ({"digest": 7}, "no sha256 digest"),
        ({"digest": f"sha512:{'0' * 128}", "size": 1}, "no sha256 digest"),
        ({"digest": digest(1).upper(), "size": 1}, "no sha256 digest"),
        ({"digest": f"{digest(1)}/../../x", "size": 1}, "no sha256 digest"),
        ({"digest": digest(1)}, "has no size"),
        ({"digest": digest(1), "size": True}, "has no size"),
        ({"digest": digest(1), "size": "1"}, "has no size"),
        ({"digest": digest(1), "size": 1.0}, "has no size"),
        ({"digest": digest(1), "size": -1}, "has no size"),
        ({"digest": digest(1), "size": 1 << 51}, "has no size"),
        ({"digest": digest(1), "size": 1, "mediaType": None}, "no media type"),
        ({"digest": digest(1), "size": 1, "mediaType": ["a"]}, "no media type"),
    ],
)
def test_a_descriptor_that_describes_nothing_is_refused(descriptor: object, words: str) -> None:
    with pytest.raises(NotAnImage, match=words):
        manifest.blob(descriptor)


# Whatever a stranger writes.


def test_a_document_whose_type_is_no_text_is_refused() -> None:
    with pytest.raises(NotAnImage):
        manifest.media_type({"mediaType": 7, "layers": []}, OCI_MANIFEST)


@pytest.mark.parametrize("kind", [[], {}])
def test_an_entry_of_an_index_whose_type_is_no_text_is_passed_over(kind: object) -> None:
    entries = [{**listed(1), "mediaType": kind}, listed(2)]
    assert manifest.choose({"manifests": entries}, "x86_64").digest == digest(2)


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
kinds = st.sampled_from([*CURRENT.values(), OCI_CONFIG, OCI_LAYER, f"{OCI_LAYER}+gzip", OCI_MANIFEST, OCI_INDEX, "x"])
values = st.recursive(
    leaves, lambda it: st.lists(it, max_size=3) | st.dictionaries(st.text(max_size=8), it, max_size=3)
)
descriptors = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": kinds | st.text(max_size=8),
        "digest": st.integers(0, 9).map(digest) | values,
        "size": st.integers(-1, 1 << 60) | values,
        "platform": st.just(LINUX)
        | st.fixed_dictionaries({}, optional={"os": values, "architecture": values})
        | values,
        "annotations": st.just({"variant": "virtualization"}) | values,
    },
)
documents = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": kinds | st.text(max_size=8),
        "config": descriptors | values,
        "layers": st.lists(descriptors | values, max_size=4) | values,
        "manifests": st.lists(descriptors | values, max_size=4) | values,
    },
)
configs = st.none() | st.fixed_dictionaries({}, optional={"commandLine": values})


@given(documents, kinds, configs)
def test_any_document_is_an_image_or_told_why_not(
    document: dict[str, Any], header: str, config: dict[str, Any] | None
) -> None:
    steps: list[Callable[[], object]] = [
        lambda: manifest.media_type(document, header),
        lambda: manifest.choose(document, "x86_64"),
        lambda: manifest.config_of(document),
        lambda: manifest.read(document, config),
    ]
    for step in steps:
        try:
            found = step()
        except NotAnImage as error:
            words = str(error)
            assert not printable.UNFIT.search(words)
            assert len(words) < 1000
            continue
        if isinstance(found, Content):
            assert found.disk or found.layers or found.kernel or found.uki
            assert found.command_line.isprintable()
            assert content_of(json.loads(json.dumps(found.to_json()))) == found
