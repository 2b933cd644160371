"""The one XML parser of this room: no entities, no network, no huge trees; and the one way to an attribute.

What is in the XML does not belong here.
"""

from __future__ import annotations

from lxml import etree

from sri_libvirt.errors import HypervisorError


def parse(text: str, what: str) -> etree._Element:
    """The root element. Raises HypervisorError, naming `what`, the line and the fault, when it is not well-formed."""
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        return etree.fromstring(text.encode("utf-8", "surrogatepass"), parser)
    except etree.XMLSyntaxError as error:
        raise HypervisorError(f"{what}: not well-formed XML: {error.msg}") from error


def attribute(node: etree._Element | None, name: str) -> str:
    """An attribute of a node that may be absent; "" where nothing is said."""
    return (node.get(name) or "") if node is not None else ""
