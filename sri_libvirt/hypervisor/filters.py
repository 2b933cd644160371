"""How libvirt is given our network filters. What they say is in `filter_rules.py`; when one is needed does not belong
here.
"""

from __future__ import annotations

import libvirt

from sri_libvirt.errors import NotReady
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
