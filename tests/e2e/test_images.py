"""Images from a registry, from reference to a guest that runs: in each form that one can have, by each firmware.

What a registry does wrong does not belong here (tests/contract/images).
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from tests import guest
from tests.backends import artifacts
from tests.backends.registry import Registry
from tests.e2e.libvirtd import PrivateLibvirt
from tests.e2e.provider import Provider, spec, wait_for
from tests.guest import build, parts

pytestmark = pytest.mark.e2e

UP = "tiny: up"


@dataclass(frozen=True)
class Served:
    """A registry that the worker's providers can reach, by the name that they use; it is filled beside it."""

    host: str
    fill: Registry


@pytest.fixture(scope="module")
def served(libvirt_of_worker: PrivateLibvirt) -> Iterator[Served]:
    directory = libvirt_of_worker.directory("registry")
    with Registry(directory, inside=libvirt_of_worker.inside) as registry, Registry(directory) as fill:
        yield Served(registry.host, fill)


def whole_disk(fill: Registry, tag: str, _: Path) -> None:
    artifacts.ironcore(fill, "tiny", tag, parts={"rootfs": guest.image()})


def kernel_and_rootfs(fill: Registry, tag: str, work: Path) -> None:
    files = {"rootfs": guest.image(), "kernel": parts.kernel(work), "initramfs": parts.initramfs(work)}
    artifacts.ironcore(fill, "tiny", tag, generation="legacy", parts=files, command_line=f"{build.OPTIONS} direct=yes")


def uki(fill: Registry, tag: str, work: Path) -> None:
    files = {"rootfs": guest.image(), "uki": parts.uki(work, f"{build.OPTIONS} direct=yes")}
    artifacts.ironcore(fill, "tiny", tag, parts=files)


def container_disk(fill: Registry, tag: str, _: Path) -> None:
    artifacts.container_disk(fill, "tiny", tag, layers=[artifacts.disk(guest.image().read_bytes())], packing="zstd")


FORMS: dict[str, Callable[[Registry, str, Path], None]] = {
    "whole-disk": whole_disk,
    "kernel": kernel_and_rootfs,
    "uki": uki,
    "container-disk": container_disk,
}


def asked(provider: Provider, served: Served, tag: str) -> pb.Machine:
    made = spec()
    made.image.image = f"{served.host}/tiny:{tag}"
    return provider.create(made)


def end(provider: Provider, machine_id: str) -> None:
    provider.delete(machine_id)
    wait_for("its end", lambda: provider.get(machine_id) is None)


@pytest.mark.parametrize(
    ("form", "firmware"),
    [
        ("whole-disk", "bios"),
        ("whole-disk", "uefi"),
        ("kernel", "bios"),
        ("kernel", "uefi"),
        ("uki", "uefi"),
        ("container-disk", "bios"),
        ("container-disk", "uefi"),
    ],
)
def test_it_boots(provider: Provider, served: Served, tmp_path: Path, form: str, firmware: str) -> None:
    FORMS[form](served.fill, form, tmp_path)
    provider.start("--insecure-registry", served.host, "--firmware", firmware)
    made = asked(provider, served, form)
    machine_id = made.metadata.id
    provider.wait_state(machine_id, "MACHINE_RUNNING")
    provider.wait_console(machine_id, UP)
    listed = provider.get(machine_id)
    assert listed is not None
    assert re.fullmatch(rf"{re.escape(served.host)}/tiny@sha256:[0-9a-f]{{64}}", listed.status.image_ref)
    with provider.domain(machine_id) as domain:
        assert ("<kernel>" in domain.XMLDesc()) == (form in ("kernel", "uki"))
        assert ("<loader" in domain.XMLDesc()) == (firmware == "uefi")
    cache = provider.state / "images" / "sha256"
    assert {(path.stat().st_mode & 0o777, path.stat().st_uid) for path in cache.iterdir()} == {(0o444, 0)}
    end(provider, machine_id)
    assert not (provider.state / "machines" / machine_id).exists()


def questions(registry: Registry) -> int:
    """How often manifests were asked for."""
    return sum(each.method == "GET" and "/manifests/" in each.path for each in registry.requests())


def test_a_private_image_is_asked_for_once_and_its_password_is_nowhere(
    private_libvirt: PrivateLibvirt, provider: Provider
) -> None:
    directory, password = private_libvirt.directory("private"), "sesame-open-9"
    users = {"host": password}
    with (
        Registry(directory, users=users, inside=private_libvirt.inside) as registry,
        Registry(directory, users=users) as fill,
    ):
        whole_disk(fill, "v1", directory)
        auth = provider.root / "auth.json"
        provider.start("--insecure-registry", registry.host, "--registry-auth", str(auth))
        made = spec()
        made.image.image = f"{registry.host}/tiny:v1"
        machine_id = provider.create(made).metadata.id
        wait_for("its refusal", lambda: "--registry-auth" in provider.why(machine_id))
        basic = base64.b64encode(f"host:{password}".encode()).decode()
        auth.write_text(json.dumps({"auths": {registry.host: {"auth": basic}}}))
        provider.wait_console(machine_id, UP)
        asked_before = questions(registry)
        pinned = provider.record(machine_id).image
        artifacts.ironcore(fill, "tiny", "v1", parts={"rootfs": b"\xeb\x3c\x90" + bytes(1 << 20)})  # the tag moves
        provider.kill()
        provider.start_again()
        provider.power(machine_id, pb.POWER_OFF)
        provider.wait_state(machine_id, "MACHINE_SUSPENDED")
        provider.power(machine_id, pb.POWER_ON)
        provider.wait_console(machine_id, UP, count=2)
        assert provider.record(machine_id).image == pinned
        assert questions(registry) == asked_before, "neither a restart nor a cold start asks again"
        end(provider, machine_id)
        kept = [path for path in provider.root.rglob("*") if path.is_file() and path != auth]
        for secret in (password.encode(), basic.encode()):
            assert [path for path in kept if secret in path.read_bytes()] == []


def test_images_are_listed_pulled_pruned_and_checked(provider: Provider, served: Served, tmp_path: Path) -> None:
    whole_disk(served.fill, "cli", tmp_path)
    options = ("--state-dir", str(provider.state), "--insecure-registry", served.host)

    def images(*words: str) -> str:
        argv = [sys.executable, "-m", "sri_libvirt", "images", *words, *options]
        done = subprocess.run(provider.libvirt.inside(argv), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    provider.start("--insecure-registry", served.host)
    for number in range(2):  # through the daemon, then in its place
        reference = images("pull", f"{served.host}/tiny:cli").strip()
        assert re.fullmatch(rf"{re.escape(served.host)}/tiny@sha256:[0-9a-f]{{64}}", reference)
        (listed,) = json.loads(images("list", "-o", "json"))["files"]
        assert (listed["source"], listed["machines"], listed["bytes"]) == (reference, 0, build.SIZE)
        assert "as it was fetched" in images("check")
        if number:
            provider.start_again()
            machine_id = asked(provider, served, "cli").metadata.id
            provider.wait_console(machine_id, UP)
            images("prune", "--all")
            assert json.loads(images("list", "-o", "json"))["files"][0]["machines"] == 1
            end(provider, machine_id)
        assert "came free" in images("prune", "--all")
        assert json.loads(images("list", "-o", "json"))["files"] == []
        if not number:
            assert provider.stop() == 0
