"""Paths that name one thing here and another for libvirt, QEMU or the operator are refused, by their flags."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sri_libvirt import config
from sri_libvirt.config import Settings
from sri_libvirt.errors import ConfigError
from sri_libvirt.host import places


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return config.load({"state_dir": tmp_path / "state"}, environ={}, default_file=tmp_path / "none.toml")


@pytest.mark.parametrize(
    "name",
    ["state_dir", "machine_classes", "template_dir", "image_dir", "file_dir", "nbd_socket_dir", "ceph_conf"],
)
def test_a_path_that_libvirt_sees_elsewhere_is_refused(settings: Settings, name: str) -> None:
    own = "60 22 252:0 /var/tmp/systemd-private-1-x/tmp /var/tmp rw - ext4 /dev/vda1 rw"
    there = Path("/var/tmp/there")
    chosen = {
        "state_dir": replace(settings, state_dir=there),
        "machine_classes": replace(settings, machine_classes=there),
        "template_dir": replace(settings, template_dir=there),
        "image_dir": replace(settings, image_dir=(there,)),
        "file_dir": replace(settings, file_dir=(there,)),
        "nbd_socket_dir": replace(settings, nbd_socket_dir=(there,)),
        "ceph_conf": replace(settings, ceph_conf=there),
    }[name]
    with pytest.raises(
        ConfigError, match=f"--{name.replace('_', '-')} /var/tmp/there: this service has a directory of"
    ):
        places.check(chosen, own)
    places.check(chosen, own.replace("systemd-private-", ""))


@pytest.mark.parametrize("character", list("\"&',<>\t\n\x01\udcff"), ids=ascii)
def test_a_path_that_libvirt_cannot_be_told_is_refused(settings: Settings, character: str) -> None:
    wrong = Path(f"/srv/a{character}b")
    named = "byte 0xFF" if character == "\udcff" else f"U+{ord(character):04X}" if character < " " else character
    with pytest.raises(ConfigError, match=f"--state-dir .* holds .*{re.escape(named)}"):
        places.check_names(replace(settings, state_dir=wrong))
    of_images = replace(settings, image_dir=(Path("/srv/images"), wrong))
    if character < " " or character > "~":
        with pytest.raises(ConfigError, match=f"--image-dir .* holds .*{re.escape(named)}"):
            places.check_names(of_images)
    else:
        places.check_names(of_images)


@pytest.mark.parametrize(
    ("flag", "changes"),
    [
        ("--file-dir", {"file_dir": (Path("/srv/a\tb"),)}),
        ("--nbd-socket-dir", {"nbd_socket_dir": (Path("/srv/a\tb"),)}),
        ("--ceph-conf", {"ceph_conf": Path("/etc/ceph/a\tb.conf")}),
    ],
)
def test_the_places_of_volumes_must_be_ones_that_libvirt_can_be_told(
    settings: Settings, flag: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=rf"{flag} .* holds the character U\+0009"):
        places.check_names(replace(settings, **changes))


def test_other_characters_of_paths_are_fine(settings: Settings) -> None:
    places.check_names(replace(settings, state_dir=Path("/srv/a b:c=d%e*f[g]{h}\\i$j;k|l?m#n!ä\U0001f600")))
