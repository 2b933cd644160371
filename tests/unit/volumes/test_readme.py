"""The README's volumes are ones that the drivers take: an example of each."""

from __future__ import annotations

import re
from pathlib import Path

from sri_libvirt.cli import manifest
from sri_libvirt.volumes.ceph import CephVolumes
from sri_libvirt.volumes.registry import HostAccess, VolumeRegistry
from tests.unit.volumes.test_registry import OURS

README = Path(__file__).parents[3] / "README.md"


def test_there_is_a_right_example_of_each_driver() -> None:
    found = re.search(r"^```\n(volumes:.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found
    text = "spec:\n" + "".join(f"  {line}\n" for line in found[1].splitlines())
    volumes = manifest.machine(text, "README.md", lambda warning: None).spec.volumes
    registry = VolumeRegistry.load([], HostAccess())
    drivers = [registry.select(each) for each in volumes]
    for driver, volume in zip(drivers, volumes, strict=True):
        driver.validate(volume)
    assert sorted(driver.name for driver in drivers) == [name for name in OURS.split(", ") if name != "empty_disk"]
    assert CephVolumes().secrets(volumes[0])["encryption"] == b"correct horse"
