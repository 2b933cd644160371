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


NETWORK = """<source protocol='rbd' name='pool/image'{index}><host name='mon' port='6789'/>
  <auth username='tenant'><secret type='ceph' uuid='7d3c1a5e-0b52-4d2f-9a51-2c8f6e1b0a01'/></auth>
  <encryption format='luks2' engine='librbd'><secret type='passphrase' uuid='7d3c1a5e-0b52-4d2f-9a51-2c8f6e1b0a02'/>
  </encryption></source>"""


def test_a_snapshot_of_a_network_disk() -> None:
    """What was the disk is the base of a local file then, with all that it is opened by."""
    base = "<source file='/m/data.raw'><seclabel model='dac' relabel='no'/></source>"
    live = LIVE.replace(base, NETWORK.format(index=" index='1'")).replace(
        "backingStore type='file' index='1'", "backingStore type='network' index='1'"
    )
    persistent = PERSISTENT.replace(
        "<disk type='file' device='disk'>\n    <driver name='qemu' type='raw' cache='writeback'/>"
        "<source file='/m/data.raw'/>",
        f"<disk type='network' device='disk'><driver name='qemu' type='raw'/>{NETWORK.format(index='')}",
    )
    assert glance(persistent).devices[ALIAS].source == "rbd:pool/image@mon:6789"
    got = chain.follow(live, persistent, ALIAS)
    assert glance(got).devices[ALIAS].source == "/b/snap.qcow2"
    disk = etree.fromstring(got).findall("devices/disk")[1]
    assert disk.get("type") == "file"
    assert disk.find("backingStore[@type='network']/source/auth/secret") is not None
    assert disk.find("backingStore/source/encryption/secret") is not None
    assert disk.find("source/auth") is None
    assert "index" not in got


@pytest.mark.parametrize(
    ("kind", "source", "told"),
    [
        ("network", NETWORK.format(index=" index='2'"), "rbd:pool/image@mon:6789"),
        ("network", "<source protocol='nbd' name='x'><host name='::1'/></source>", "nbd:x@[::1]:10809"),
        ("block", "<source dev='/dev/vg/lv' index='2'/>", "/dev/vg/lv"),
    ],
)
def test_a_disk_that_was_moved_to_what_is_no_file(kind: str, source: str, told: str) -> None:
    live = LIVE.replace("type='file' device", f"type='{kind}' device").replace(
        "<source file='/b/snap.qcow2' index='2'/>", source
    )
    got = chain.follow(live, PERSISTENT, ALIAS)
    assert glance(got).devices[ALIAS].source == told
    disk = etree.fromstring(got).findall("devices/disk")[1]
    assert disk.get("type") == kind
    assert (disk.find("source/auth") is not None) == ("rbd" in told)


def test_what_it_cannot_follow() -> None:
    with pytest.raises(HypervisorError, match="no disk ua-vol-c-1"):
        chain.follow(LIVE, PERSISTENT, "ua-vol-c-1")
    with pytest.raises(HypervisorError, match="was moved to a volume"):
        chain.follow(LIVE.replace("type='file' device", "type='volume' device"), PERSISTENT, ALIAS)
