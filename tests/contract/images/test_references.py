"""What a reference means: tags and digests, indices, and all kinds of artifacts that a registry may have under them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from sri_libvirt.devices import ImagePin
from tests.backends.artifacts import (
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_MANIFEST,
    TYPES,
    Blob,
    Generation,
    Listed,
    Packing,
    container_disk,
    disk,
    index,
    ironcore,
    manifest,
    push_blob,
    push_manifest,
)
from tests.backends.registry import Registry
from tests.backends.webserver import Fault, WebServer
from tests.contract.images.conftest import MIB, MINUTE, again, digest_of, fetched, lenient, noise, refused
from tests.image_house import House

DISK, ROOTFS, SQUASHFS = noise(1 * MIB, 1), noise(1 * MIB, 2), noise(1 * MIB, 3)
KERNEL, INITRAMFS, UKI = b"a kernel", b"an initramfs", b"a unified kernel image"
LINUX = {"os": "linux", "architecture": "amd64"}


def manifests(front: WebServer) -> int:
    """How often a manifest was asked for."""
    return len(front.asked("/v2/*/manifests/*"))


def pinned(pin: ImagePin | None) -> ImagePin:
    assert pin is not None
    return pin


# What it means.


def test_a_tag_means_the_artifact_that_has_it_and_all_its_parts_are_fetched(house: House, registry: Registry) -> None:
    parts: dict[str, bytes | Path] = {"rootfs": ROOTFS, "initramfs": INITRAMFS, "kernel": KERNEL}
    digest = ironcore(registry, "org/parts", "v1", parts=parts, command_line="console=ttyS0 quiet")
    image = f"{registry.host}/org/parts:v1"
    pin = pinned(house.resolve(image))
    assert pin.reference == f"{registry.host}/org/parts@{digest}"
    assert (pin.boot, pin.initramfs, pin.command_line) == ("kernel", True, "console=ttyS0 quiet")
    base = house.base(image, pin)
    assert base.disk is not None
    assert base.kernel is not None
    assert base.initramfs is not None
    found = [Path(base.disk.path).read_bytes(), base.kernel.read_bytes(), base.initramfs.read_bytes()]
    assert found == [ROOTFS, KERNEL, INITRAMFS]
    assert (base.disk.format, base.size) == ("raw", MIB)


@pytest.mark.parametrize("generation", ["onmetal", "legacy", "current"])
def test_artifacts_of_every_generation_are_read_and_layers_that_nobody_knows_ignored(
    house: House, registry: Registry, generation: Generation
) -> None:
    types = TYPES[generation]
    config = push_blob(registry, generation, Blob(types["config"], b'{"commandLine": "a=b", "more": []}'))
    told = [
        ("application/vnd.example.signature", b"not for us"),
        (types["rootfs"], ROOTFS),
        (types["kernel"], KERNEL),
        ("text/plain", b"nor this"),
        (types["initramfs"], INITRAMFS),
    ]
    layers = [push_blob(registry, generation, Blob(kind, data)) for kind, data in told]
    push_manifest(registry, generation, "1", manifest(config, layers), OCI_MANIFEST)
    pin = pinned(house.resolve(f"{registry.host}/{generation}:1"))
    assert pin.parts == (digest_of(ROOTFS), digest_of(KERNEL), digest_of(INITRAMFS))
    assert (pin.boot, pin.initramfs, pin.command_line) == ("kernel", True, "a=b")


@pytest.mark.parametrize(
    ("parts", "boot", "taken"),
    [
        ({"squashfs": SQUASHFS, "rootfs": ROOTFS, "disk": DISK, "kernel": KERNEL}, "disk", [DISK]),
        ({"squashfs": SQUASHFS, "rootfs": ROOTFS, "kernel": KERNEL}, "kernel", [ROOTFS, KERNEL]),
        ({"squashfs": SQUASHFS, "kernel": KERNEL, "uki": UKI}, "kernel", [SQUASHFS, KERNEL]),
        ({"squashfs": SQUASHFS, "uki": UKI, "iso": b"an iso"}, "uki", [SQUASHFS, UKI]),
        ({"uki": UKI}, "uki", [UKI]),
    ],
    ids=["disk", "rootfs", "squashfs", "uki", "uki-alone"],
)
def test_of_several_disks_the_one_that_says_most_is_taken(
    house: House, registry: Registry, parts: Mapping[str, bytes], boot: str, taken: list[bytes]
) -> None:
    repository = "-".join(parts)
    ironcore(registry, repository, "1", parts=parts)
    pin = pinned(house.resolve(f"{registry.host}/{repository}:1"))
    assert (pin.boot, list(pin.parts)) == (boot, [digest_of(each) for each in taken])


@pytest.mark.parametrize(("packing", "docker"), [("gzip", False), ("zstd", False), ("", False), ("gzip", True)])
def test_the_disk_of_a_container_disk_is_unpacked(
    house: House, registry: Registry, packing: Packing, docker: bool
) -> None:
    repository = f"disk-{packing or 'plain'}-{docker}".lower()
    layers = [disk(DISK, "old.img"), disk(ROOTFS, "disk.img"), disk(b"", ".wh.old.img")]
    digest = container_disk(registry, repository, "1", layers=layers, packing=packing, docker=docker)
    image = f"{registry.host}/{repository}:1"
    pin = pinned(house.resolve(image))
    assert (pin.reference, pin.boot) == (f"{registry.host}/{repository}@{digest}", "disk")
    path = fetched(house, image, pin)
    assert path.read_bytes() == ROOTFS
    assert [each.name for each in house.paths.image_cache.iterdir()] == [path.name]
    assert path.name == f"{digest_of(ROOTFS).removeprefix('sha256:')}.raw"


# Indices.


@pytest.mark.parametrize("docker", [False, True])
def test_of_an_index_the_image_for_virtualisation_on_this_hosts_hardware_is_taken(
    house: House, registry: Registry, docker: bool
) -> None:
    name = f"index-{docker}".lower()
    listed, digests = [], []
    for number, (architecture, variant) in enumerate(
        [("arm64", "virtualization"), ("amd64", "metal"), ("amd64", "virtualization"), ("amd64", "")]
    ):
        data = noise(100_000, number)
        digests.append(container_disk(registry, name, "", layers=[disk(data)], docker=docker, packing=""))
        annotations = {"variant": variant} if variant else {}
        platform = {"os": "linux", "architecture": architecture, "variant": "v8"}
        listed.append(Listed(digests[-1], None, platform, annotations))
    index(registry, name, "all", listed, docker=docker)
    index(registry, name, "plain", [listed[0], listed[1], listed[3]], docker=docker)
    found = [pinned(house.resolve(f"{registry.host}/{name}:{tag}")).reference for tag in ("all", "plain")]
    assert found == [f"{registry.host}/{name}@{digests[2]}", f"{registry.host}/{name}@{digests[1]}"]


def test_an_index_without_an_image_for_this_hosts_hardware_is_refused(house: House, registry: Registry) -> None:
    digest = ironcore(registry, "other", "", parts={"disk": DISK})
    others = [Listed(digest, None, {"os": system, "architecture": "arm64"}) for system in ("linux", "windows")]
    index(registry, "other", "1", others)
    image = f"{registry.host}/other:1"
    words = r'no image for linux/amd64 \(it has "linux/arm64", "windows/arm64"\)'
    refused(lambda: house.resolve(image), "image-refused", image, words)


def test_an_index_in_an_index_is_not_followed(house: House, registry: Registry) -> None:
    digest = ironcore(registry, "nested", "", parts={"disk": DISK})
    inner = index(registry, "nested", "inner", [Listed(digest, None, LINUX)])
    index(registry, "nested", "1", [Listed(inner, None, LINUX, media_type=OCI_MANIFEST)])
    image = f"{registry.host}/nested:1"
    refused(lambda: house.resolve(image), "image-refused", image, "leads to another index")


# What is none.


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault(content=b" " * (4 << 20) + b"{}"), "its manifest has more than 4194304 bytes"),
        (Fault(content=b"<html>a portal</html>"), "not JSON"),
        (Fault(content=b"[" * 100_000), "not JSON"),
        (Fault(content=b'{"layers": [], "manifests": []}'), "an index and a manifest at once"),
        (Fault(content=b'{"layers": [{}]}'), "no sha256 digest"),
        (Fault(content=b'{"schemaVersion": 1, "fsLayers": []}', headers={"Content-Type": "text/html"}), "text/html"),
        (Fault(headers={"Content-Type": DOCKER_MANIFEST}), "the registry calls it .*docker.* and it calls itself"),
    ],
    ids=["large", "html", "deep", "both", "no-config", "other", "called-otherwise"],
)
def test_what_is_no_manifest_is_refused(
    house: House, registry: Registry, front: WebServer, fault: Fault, words: str
) -> None:
    ironcore(registry, "spoilt", "1", parts={"disk": DISK})
    headers = {"Docker-Content-Digest": "", "Content-Type": OCI_MANIFEST, **fault.headers}
    front.misbehave("/v2/*/manifests/*", Fault(content=fault.content, headers=headers))
    image = f"{front.host}/spoilt:1"
    refused(lambda: house.resolve(image), "image-refused", image, words)


@pytest.mark.parametrize(
    ("config", "layer", "words"),
    [
        ("application/vnd.cncf.helm.config.v1+json", "application/tar+gzip", "neither an ironcore-image nor a contain"),
        (TYPES["current"]["config"], TYPES["current"]["iso"], "holds an ISO image, which installs a machine"),
        (TYPES["current"]["config"], TYPES["current"]["initramfs"], "holds no disk and no kernel"),
        (
            OCI_CONFIG,
            "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "a layer of it is .*, which is not kno",
        ),
    ],
    ids=["helm", "iso", "initramfs", "layer"],
)
def test_an_artifact_of_which_no_machine_can_be_made_is_refused(
    house: House, registry: Registry, config: str, layer: str, words: str
) -> None:
    made = manifest(push_blob(registry, "none", Blob(config, b"{}")), [push_blob(registry, "none", Blob(layer, DISK))])
    push_manifest(registry, "none", "1", made, OCI_MANIFEST)
    image = f"{registry.host}/none:1"
    refused(lambda: house.resolve(image), "image-refused", image, words)


@pytest.mark.parametrize("told", [b'{"commandLine": "a\\nb"}', b'{"commandLine": "%s"}' % (b"x" * 2048), b"\xff"])
def test_a_config_that_no_kernel_can_be_told_is_refused(house: House, registry: Registry, told: bytes) -> None:
    config = push_blob(registry, "told", Blob(TYPES["current"]["config"], told))
    layers = [push_blob(registry, "told", Blob(TYPES["current"]["kernel"], KERNEL))]
    push_manifest(registry, "told", "1", manifest(config, layers), OCI_MANIFEST)
    image = f"{registry.host}/told:1"
    refused(lambda: house.resolve(image), "image-refused", image, "command line|not JSON")


def test_an_artifact_whose_config_is_gone_is_refused(house: House, registry: Registry) -> None:
    told = json.dumps({"commandLine": "that of this artifact alone"}).encode()
    ironcore(registry, "gone", "1", parts={"kernel": KERNEL}, command_line="that of this artifact alone")
    registry.blob(digest_of(told)).unlink()
    image = f"{registry.host}/gone:1"
    refused(lambda: house.resolve(image), "image-refused", image, "does not have the image's config")


# When it is asked.


def test_a_tag_is_asked_for_at_most_once_a_minute(house: House, registry: Registry, front: WebServer) -> None:
    ironcore(registry, "minute", "1", parts={"disk": DISK})
    image = f"{front.host}/minute:1"
    pins = [house.resolve(image), house.resolve(image)]
    house.later(59)
    pins.append(house.resolve(image))
    assert manifests(front) == 1
    house.later(2)
    pins.append(house.resolve(image))
    assert manifests(front) == 2
    assert len(set(pins)) == 1


def test_a_tag_that_moves_is_for_new_machines_alone(house: House, registry: Registry, front: WebServer) -> None:
    image = f"{front.host}/moved:1"
    ironcore(registry, "moved", "1", parts={"disk": DISK})
    old = pinned(house.resolve(image))
    ironcore(registry, "moved", "1", parts={"disk": ROOTFS})
    house.later(61)
    new = pinned(house.resolve(image))
    assert old.reference != new.reference
    assert fetched(house, image, old).read_bytes() == DISK
    assert fetched(house, image, new).read_bytes() == ROOTFS


def test_a_digest_that_is_known_is_never_asked_for_again(tmp_path: Path, registry: Registry, front: WebServer) -> None:
    ironcore(registry, "known", "1", parts={"disk": DISK})
    with House(tmp_path / "state", lenient(front)) as house:
        pin = pinned(house.resolve(f"{front.host}/known:1"))
        assert house.resolve(pin.reference) == pin
    front.close()
    with House(tmp_path / "state", lenient(front)) as house:
        house.later(30 * 24 * 3600)
        assert house.resolve(pin.reference) == pin
        assert house.resolve(pin.reference.replace("@", ":any@")) == pin
    assert manifests(front) == 1


def test_nor_is_the_digest_of_an_index(house: House, registry: Registry, front: WebServer) -> None:
    listed = Listed(ironcore(registry, "known-index", "", parts={"disk": DISK}), None, LINUX)
    image = f"{front.host}/known-index@{index(registry, 'known-index', '', [listed])}"
    pin = house.resolve(image)
    house.later(61)
    front.close()
    assert house.resolve(image) == pin


def test_without_its_registry_a_tag_means_nothing_rather_than_what_it_meant(
    house: House, registry: Registry, front: WebServer
) -> None:
    ironcore(registry, "away", "1", parts={"disk": DISK})
    image = f"{front.host}/away:1"
    pin = house.resolve(image)
    path = fetched(house, image, pin)
    house.later(61)
    front.close()
    refused(lambda: house.resolve(image), "image-unreachable", image, "Connection refused")
    house.later(MINUTE)
    refused(lambda: again(house, lambda: house.resolve(image)), "image-unreachable", image, "Connection refused")
    assert fetched(house, image, pin) == path
    front.start()
    house.later(MINUTE)
    assert again(house, lambda: house.resolve(image)) == pin
