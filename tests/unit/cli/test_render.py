"""`render`: what would be defined, printed, with nothing touched."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from sri_libvirt.cli import planned
from sri_libvirt.devices import DiskSource
from sri_libvirt.records import Profile, Run
from sri_libvirt.store import Store
from tests.unit.cli.conftest import NOW, SECRET, WEB, Cli

MACHINE = """\
metadata:
  id: 33333333-aaaa-4000-8000-000000000003
  labels:
    machinepoollet.spheric.cloud/machine-namespace: default
    machinepoollet.spheric.cloud/machine-name: web
spec:
  class: c2-m4
  image: {image: file:///images/tiny.raw}
  ignition_data: I2Nsb3VkLWNvbmZpZwo=
  volumes:
  - {name: data, device: odb, empty_disk: {size_bytes: 1000}}
  - {name: logs, empty_disk: {}}
  network_interfaces:
  - {name: lan, network_id: network://blue, ips: [10.0.0.1]}
  - {name: later}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "machine.yaml"
    path.write_text(MACHINE)
    return path


def domain(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


def text_of(root: ElementTree.Element, path: str) -> str:
    found = root.find(path)
    assert found is not None, path
    return found.text or ""


def test_a_file_offline(cli: Cli, file: Path, tmp_path: Path, state_dir: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    result = cli("render", "-f", str(file))
    assert (result.status, result.err) == (0, "")
    root = domain(result.out)
    assert root.get("type") == "qemu"
    assert text_of(root, "uuid") == text_of(root, "name") == "33333333-aaaa-4000-8000-000000000003"
    assert text_of(root, "title") == "default/web"
    assert text_of(root, "vcpu") == "2"
    targets = [each.get("dev") for each in root.iterfind("devices/disk/target")]
    assert sorted(filter(None, targets)) == ["vda", "vdaaa", "vdb", "vdzzz"]
    sources = {each.get("file", "") for each in root.iterfind("devices/disk//source")}
    assert "/images/tiny.raw" in sources
    assert any(source.startswith(str(state_dir / "machines")) for source in sources)
    assert [each.get("network") for each in root.iterfind("devices/interface/source")] == ["blue"]
    comment = result.out.partition("-->")[0]
    assert "machine type q35, qemu, bios: offline" in comment
    assert "nic later is left out: it has no network_id" in comment
    assert "taken for raw" in comment
    assert sorted(tmp_path.rglob("*")) == before


def test_the_network_map_is_followed_and_no_bridge_looked_for(cli: Cli, file: Path, tmp_path: Path) -> None:
    networks = tmp_path / "networks.yaml"
    networks.write_text("networks: [{network_id: 'net://*', driver: bridge, bridge: br-none, vlan: 7}]")
    file.write_text(
        MACHINE.replace("network://blue", "net://blue").replace("name: later", "name: x, network_id: ovn://x")
    )
    result = cli("render", "-f", str(file), "--network-map", str(networks))
    assert (result.status, result.err) == (0, "")
    (interface,) = domain(result.out).iterfind("devices/interface")
    assert [each.get("bridge") for each in interface.iterfind("source")] == ["br-none"]
    assert [each.get("id") for each in interface.iterfind("vlan/tag")] == ["7"]
    assert "nic x is left out: nobody takes its network id" in result.out.partition("-->")[0]


def test_a_connected_volume_is_taken_as_its_connection_says(cli: Cli, file: Path) -> None:
    connection = "{driver: file, handle: h, attributes: {path: /nfs/a.raw, format: raw}}"
    file.write_text(MACHINE.replace("empty_disk: {}}", f"connection: {connection}}}"))
    result = cli("render", "-f", str(file))
    assert (result.status, result.err) == (0, "")
    assert "/nfs/a.raw" in {each.get("file") for each in domain(result.out).iterfind("devices/disk/source")}
    assert "the file volume logs is taken as its connection says; nobody is asked" in result.out.partition("-->")[0]


CONNECTED = """
  - name: a
    connection:
      driver: ceph
      handle: h
      attributes: {monitors: "mon-a:6789,[2001:db8::1]:3300", image: pool/image.1}
      secret_data: {userID: Z3Vlc3QuMQ==, userKey: UVZGRA==}
      encryption_data: {encryptionKey: a2V5}
  - {name: b, connection: {driver: nbd, handle: h, attributes: {address: "nbd:10809", export: "a b<c", tls: "yes"}}}
  - {name: c, connection: {driver: nbd, handle: h, attributes: {socket: /run/nbd.sock}}}
  - name: d
    connection:
      driver: iscsi
      handle: h
      attributes: {portal: 10.0.0.1, target: "iqn.2001-04.com.example:a", lun: "0"}
      secret_data: {username: aXFuLjpfLQ==, password: cGFzc3dvcmQ=}
  - {name: e, connection: {driver: block, handle: h, attributes: {path: /dev/vg0/data}}}
"""


def test_every_driver_gives_what_libvirts_schema_takes(cli: Cli, file: Path) -> None:
    file.write_text(MACHINE.replace("\n  - {name: logs, empty_disk: {}}\n", CONNECTED))
    result = cli("render", "-f", str(file))
    assert (result.status, result.err) == (0, "")
    disks = domain(result.out).findall("devices/disk")
    assert [each.get("type") for each in disks].count("network") == 4
    sources = [each for disk in disks for each in disk.findall("source")]
    assert {each.get("name") for each in sources if each.get("protocol")} == {
        "pool/image.1", "a b<c", None, "iqn.2001-04.com.example:a/0",
    }  # fmt: skip
    assert {each.get("username") for disk in disks for each in disk.iter("auth")} == {"guest.1", "iqn.:_-"}
    for secret in ("UVZGRA==", "QVFD", "a2V5", "key", "password"):
        assert f">{secret}<" not in result.out
        assert f"'{secret}'" not in result.out


def test_a_connected_volume_that_is_wrong_in_itself(cli: Cli, file: Path) -> None:
    file.write_text(MACHINE.replace("empty_disk: {}}", "connection: {driver: file, handle: h}}"))
    result = cli("render", "-f", str(file))
    assert result.status
    assert 'machine.spec.volumes[1].connection.attributes["format"]: must be set' in result.err


def test_the_same_file_gives_the_same_xml(cli: Cli, file: Path) -> None:
    assert cli("render", "-f", str(file)).out == cli("render", "-f", str(file)).out


def test_standard_input_and_json(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in.json").write_text('{"spec": {"class": "c1-m1"}}')
    with (tmp_path / "in.json").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        result = cli("render", "-f", "-")
    assert (result.status, result.err) == (0, "")
    assert text_of(domain(result.out), "name") == planned.SAMPLE_ID


def test_classes_and_templates_of_the_operator(cli: Cli, file: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.yaml").write_text("classes: [{name: c2-m4, cpu: 7, memory: 1Gi, firmware: uefi}]")
    result = cli("render", "-f", str(file), "--machine-classes", str(tmp_path / "classes.yaml"))
    assert text_of(domain(result.out), "vcpu") == "7"
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "domain.xml.j2").write_text("<domain>{{ nonsense }}</domain>")
    result = cli("render", "-f", str(file), "--template-dir", str(templates))
    assert result.status == 1
    assert "domain.xml.j2" in result.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("c2-m4", "c9-m9"), "machine.spec.class: 'c9-m9' is not one of c1-m1"),
        (("device: odb", "device: nonsense"), "machine.spec.volumes[0].device"),
        (("file:///images", "ftp://images"), "machine.spec.image.image"),
        (("metadata:", "metadata: ["), "not YAML"),
    ],
)
def test_a_wrong_file_is_told_as_the_rpc_would(cli: Cli, file: Path, change: tuple[str, str], words: str) -> None:
    file.write_text(MACHINE.replace(*change))
    result = cli("render", "-f", str(file))
    assert (result.status, result.out) == (1, "")
    assert words in result.err


def test_wrong_usage(cli: Cli, file: Path) -> None:
    assert cli("render").status == 2
    assert cli("render", WEB, "-f", str(file)).status == 2
    assert cli("render", "-f", "/absent").status == 2


def test_a_machine_without_hardware_yet(cli: Cli, store: Store) -> None:
    result = cli("render", "web")
    assert result.status == 1
    assert "not chosen yet" in result.err


def test_a_machine_of_the_store(cli: Cli, store: Store) -> None:
    profile = Profile(
        layout=1,
        domain_type="kvm",
        machine_type="pc-q35-7.2",
        cpu_mode="host-passthrough",
        cpu_model="",
        vcpus=1,
        cpu_millis=1000,
        memory_bytes=1 << 30,
        firmware="bios",
        loader="",
        loader_format="raw",
        nvram_template="",
        ports=24,
        emulator="/usr/bin/qemu-system-x86_64",
    )
    store.write(lambda tx: tx.set_profile(WEB, profile))
    store.write(lambda tx: tx.set_run(WEB, Run(uuid="run-7", started_at=NOW)))
    store.write(lambda tx: tx.set_backing(WEB, ("volume", "data", 1), DiskSource("h", "/d.raw", "raw", 5)))
    result = cli("render", "default/web")
    assert result.status == 0, result.err
    root = domain(result.out)
    assert root.get("type") == "kvm"
    assert [each.get("file") for each in root.iterfind("devices/disk/source")] == ["/d.raw"]
    assert not root.findall("devices/interface")  # prepared, but without a port yet
    assert "nic lan is left out" in result.out
    assert store.instance in result.out
    assert "run-7" in result.out
    assert SECRET not in result.out


def test_the_offline_offer_is_not_a_real_hosts() -> None:
    """Whoever renders offline gets BIOS and TCG, whatever the class's firmware policy says."""
    assert not planned.OFFLINE.firmware
    assert planned.OFFLINE.domain_types == {"qemu"}
