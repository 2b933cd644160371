"""Whatever a tenant writes into names and labels, the XML says it back and nothing else."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from sri_libvirt import names, printable
from sri_libvirt.domain import observed
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
    assert observed.verify(spec, text) == []
    marks = root.find("metadata/{*}machine")
    assert marks is not None
    assert marks.get("class") == class_name
    assert (root.findtext("title") or "") == printable.line(" ".join(names.title(namespace, name).split()))
    if "/" not in network:  # which libvirt's schema and our driver refuse
        SCHEMA.validate(text)
