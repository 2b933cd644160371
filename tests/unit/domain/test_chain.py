"""A persistent domain that follows its guest to another file."""

from __future__ import annotations

import pytest
from lxml import etree

from sri_libvirt.domain import chain
from sri_libvirt.domain.observed import glance
from sri_libvirt.errors import HypervisorError

ALIAS = "ua-vol-a-1"
LIVE = f"""<domain id='1'><devices>
  <disk type='file' device='disk'>
    <driver name='qemu' type='qcow2' cache='writeback'/>
    <source file='/b/snap.qcow2' index='2'/>
    <backingStore type='file' index='1'>
      <format type='qcow2'/><source file='/m/data.raw'><seclabel model='dac' relabel='no'/></source><backingStore/>
    </backingStore>
    <target dev='vda' bus='virtio'/><alias name='{ALIAS}'/>
  </disk></devices></domain>"""
PERSISTENT = f"""<domain><devices>
  <disk type='file' device='disk'><source file='/m/other'/><target dev='vdb'/><alias name='ua-vol-b-1'/></disk>
  <disk type='file' device='disk'>
    <driver name='qemu' type='raw' cache='writeback'/><source file='/m/data.raw'/><backingStore/>
    <target dev='vda' bus='virtio'/><serial>s</serial><alias name='{ALIAS}'/>
  </disk></devices></domain>"""


def test_it_names_the_chain_that_the_guest_has_and_keeps_the_rest() -> None:
    got = chain.follow(LIVE, PERSISTENT, ALIAS)
    assert {alias: place.source for alias, place in glance(got).devices.items()} == {
        ALIAS: "/b/snap.qcow2",
        "ua-vol-b-1": "/m/other",
    }
    disk = etree.fromstring(got).findall("devices/disk")[1]
    assert [each.tag for each in disk] == ["driver", "source", "backingStore", "target", "serial", "alias"]
    assert (disk.find("driver").get("type"), disk.find("serial").text) == ("qcow2", "s")  # type: ignore[union-attr]
    assert disk.find("backingStore/source").get("file") == "/m/data.raw"  # type: ignore[union-attr]
    assert disk.find("backingStore/source/seclabel") is not None
    assert "index" not in got


def test_what_it_cannot_follow() -> None:
    with pytest.raises(HypervisorError, match="no disk ua-vol-c-1"):
        chain.follow(LIVE, PERSISTENT, "ua-vol-c-1")
    with pytest.raises(HypervisorError, match="is no file"):
        chain.follow(LIVE.replace("type='file' device", "type='network' device"), PERSISTENT, ALIAS)
