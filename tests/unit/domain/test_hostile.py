"""Whatever a tenant writes into names and labels, the XML says it back and nothing else."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sri_libvirt import names, printable
from sri_libvirt.devices import DiskHost, DiskKind, DiskSource, Encryption
from sri_libvirt.domain import compare, observed
from sri_libvirt.domain.render import Renderer
from sri_libvirt.domain.schema import DomainSchema
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE, MachineClass
from tests.unit.domain import samples

RENDERER = Renderer()
SCHEMA = DomainSchema()
PLAIN = {node.tag for node in etree.fromstring(RENDERER.render(samples.spec_of(samples.full()))).iter()}

line = st.text(st.characters(exclude_categories=("Cs", "Cc"), exclude_characters="\ufffe\uffff"), min_size=1)
markup = st.sampled_from(["</title><os/>", "'/><x y='", '"><!--', "]]>", "&lt;", "{{ 7*7 }}", "{% raw %}", "<?pi?>"])
hostile = st.one_of(line, markup, st.builds(lambda a, b: a + b, line, markup))


hosts = st.lists(
    st.one_of(
        st.builds(DiskHost, st.one_of(hostile, st.ip_addresses().map(str)), st.integers(0, 65535)),
        st.builds(lambda text: DiskHost(socket=f"/{text}"), hostile),
    ),
    min_size=1,
    max_size=3,
)
sources = st.builds(
    DiskSource,
    handle=hostile,
    path=st.just(""),
    format=st.just("raw"),
    size=st.just(0),
    kind=st.just("network"),
    protocol=st.sampled_from(["rbd", "nbd", "iscsi"]),
    name=st.one_of(hostile, st.sampled_from(["pool/im'a\"ge", "a@b/c@d,e", "iqn.x:t/1", ""])),
    hosts=hosts.map(tuple),
    user=hostile,
    config=hostile,
    tls=st.booleans(),
    initiator=hostile,
    reconnect=st.integers(0, 600),
    encryption=st.builds(Encryption, st.sampled_from(["qemu", "librbd"]), st.sampled_from(["luks", "luks2"])),
    secrets=st.just((samples.AUTH, samples.PASSPHRASE)),
)
EVERY = {
    node.tag
    for node in etree.fromstring(RENDERER.render(samples.spec_of(samples.every_disk(samples.RECONNECTING)))).iter()
}


@given(source=sources)
def test_nothing_escapes_from_a_network_disk(source: DiskSource) -> None:
    spec = samples.spec_of(samples.machine(samples.source_row(source)))
    text = RENDERER.render(spec)
    root = etree.fromstring(text)
    assert {node.tag for node in root.iter()} <= EVERY
    assert compare.verify(spec, text) == []
    alias = spec.disks[0].alias
    assert observed.glance(text).devices[alias].source == source.source == spec.disks[0].source
    disk = root.find("devices/disk/source")
    assert disk is not None
    assert (disk.get("name") or "") == source.name
    found = [(host.get("name") or "", host.get("socket") or "") for host in disk.iterfind("host")]
    assert found == [(host.name if not host.socket else "", host.socket) for host in source.hosts]


@given(path=hostile, kind=st.sampled_from(["file", "block"]), encrypted=st.booleans())
def test_nothing_escapes_from_a_local_disk(path: str, kind: DiskKind, *, encrypted: bool) -> None:
    source = replace(samples.FILE, path=f"/{path}", kind=kind)
    if encrypted:
        source = replace(source, encryption=samples.LUKS, secrets=(samples.PASSPHRASE,))
    spec = samples.spec_of(samples.machine(samples.source_row(source)))
    text = RENDERER.render(spec)
    assert {node.tag for node in etree.fromstring(text).iter()} <= EVERY
    assert compare.verify(spec, text) == []
    SCHEMA.validate(text)


@given(
    source=st.sampled_from([samples.NBD, samples.ISCSI, samples.RBD]),
    name=hostile,
    user=hostile,
    initiator=hostile,
    address=st.ip_addresses().map(str),
)
def test_libvirts_schema_takes_whatever_name_a_server_may_have(
    source: DiskSource, name: str, user: str, initiator: str, address: str
) -> None:
    changed = replace(
        source,
        name=f"pool/{name}",
        hosts=(DiskHost(address, 1),),
        user=source.user and user,
        initiator=source.initiator and initiator,
    )
    SCHEMA.validate(RENDERER.render(samples.spec_of(samples.machine(samples.source_row(changed)))))


@given(namespace=hostile, name=hostile, class_name=hostile, volume=hostile, nic=hostile, network=hostile)
def test_nothing_escapes(namespace: str, name: str, class_name: str, volume: str, nic: str, network: str) -> None:
    machine = replace(
        samples.machine(samples.image_row(), samples.volume_row(volume, "oda"), samples.nic_row(nic, network)),
        labels={LABEL_NAMESPACE: namespace, LABEL_NAME: name},
        machine_class=MachineClass(class_name, 1000, 1 << 30),
    )
    spec = samples.spec_of(machine)
    text = RENDERER.render(spec)
    root = etree.fromstring(text)
    assert {node.tag for node in root.iter()} <= PLAIN
    assert compare.verify(spec, text) == []
    marks = root.find("metadata/{*}machine")
    assert marks is not None
    assert marks.get("class") == class_name
    assert (root.findtext("title") or "") == printable.line(" ".join(names.title(namespace, name).split()))
    if "/" not in network:  # which libvirt's schema and our driver refuse
        SCHEMA.validate(text)
