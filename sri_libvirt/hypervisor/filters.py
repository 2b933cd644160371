"""How libvirt is given our network filters. What they say is in `filter_rules.py`; when one is needed does not belong
here.
"""

from __future__ import annotations

import libvirt
from lxml import etree

from sri_libvirt.errors import HypervisorError, NotReady
from sri_libvirt.hypervisor import faults, filter_rules

NO_DRIVER_ADVICE = (
    "Install libvirt's nwfilter driver (where its daemons are separate, enable virtnwfilterd.socket too), or let the "
    "network map say antispoof: false."
)


def have(connection: libvirt.virConnect, name: str) -> None:
    """Let there be the filter of this name. Raises libvirtError, and NotReady where this libvirt has no filters."""
    try:
        try:
            connection.nwfilterLookupByName(name)
        except libvirt.libvirtError as error:
            if not faults.is_code(error, libvirt.VIR_ERR_NO_NWFILTER):
                raise
            connection.nwfilterDefineXML(filter_rules.xml(name))
    except libvirt.libvirtError as error:
        if faults.is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
            raise NotReady("libvirt has no network filters on this host", NO_DRIVER_ADVICE) from error
        raise


def bindings(connection: libvirt.virConnect) -> dict[str, str]:
    """The devices of guests that a filter of ours is put up on, of any version, each with its domain's UUID. Raises
    libvirtError, HypervisorError.
    """
    try:
        found = connection.listAllNWFilterBindings(0)
    except libvirt.libvirtError as error:
        if faults.is_code(error, libvirt.VIR_ERR_NO_SUPPORT):
            return {}
        raise
    ours = [each for each in found if each.filterName().startswith(filter_rules.PREFIX)]
    return {each.portDev(): _owner(each) for each in ours}


def drop_binding(connection: libvirt.virConnect, device: str) -> None:
    """Take the rules of a device down; of one that has none of ours: nothing. Raises libvirtError."""
    try:
        found = connection.nwfilterBindingLookupByPortDev(device)
        if found.filterName().startswith(filter_rules.PREFIX):
            found.delete()
    except libvirt.libvirtError as error:
        if not faults.is_code(error, libvirt.VIR_ERR_NO_NWFILTER_BINDING):
            raise


def _owner(binding: libvirt.virNWFilterBinding) -> str:
    try:
        root = etree.fromstring(binding.XMLDesc(0).encode())
    except etree.XMLSyntaxError as error:
        raise HypervisorError(f"a filter binding from libvirt: not well-formed: {error.msg}") from error
    return root.findtext("owner/uuid") or ""
