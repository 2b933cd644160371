"""Validation against libvirt's own RelaxNG schemas, before libvirt is asked.

libvirt ignores what it does not know, so that a misspelt element would be lost without a word; its schemas refuse it.
Ten times cheaper than VIR_DOMAIN_DEFINE_VALIDATE. What libvirt makes of valid XML does not belong here (see
`observed.py`).
"""

from __future__ import annotations

import threading
from functools import cached_property
from pathlib import Path

import structlog
from lxml import etree

from sri_libvirt.domain import xml
from sri_libvirt.errors import HypervisorError

log = structlog.get_logger(__name__)

DIRECTORY = Path("/usr/share/libvirt/schemas")
"""Where libvirt installs its schemas."""


class DomainSchema:
    """libvirt's schema of a domain, read from `directory` at the first use, for that takes a while.

    Without one everything is valid, and the log says so.
    """

    def __init__(self, directory: Path = DIRECTORY) -> None:
        # The error log belongs to the schema, not to the call; and libxml2 sets its types up at the first load.
        self._lock = threading.RLock()
        self._path = directory / "domain.rng"

    @cached_property
    def _schema(self) -> etree.RelaxNG | None:
        with self._lock:  # since Python 3.12 two threads may come here at once
            return _load(self._path)

    @property
    def present(self) -> bool:
        return self._schema is not None

    def validate(self, text: str) -> None:
        """Raise HypervisorError, with the schema's words and line, unless libvirt would know all of this XML."""
        if self._schema is None:
            return
        # Parsed from text again, so that lines are those of the XML that a message can be looked up in.
        root = xml.parse(text, "domain XML")
        for auth in root.iterfind("devices/disk/source/auth[@username]"):
            # libvirt takes any, its schema letters and digits: Ceph's users have dots, those of CHAP are often iqns.
            auth.set("username", "any")
        with self._lock:
            if self._schema.validate(root):
                return
            faults = [f"line {fault.line}: {fault.message}" for fault in self._schema.error_log]
        raise HypervisorError(f"the domain XML is not what libvirt's schema allows: {'; '.join(faults[:3])}")


def _load(path: Path) -> etree.RelaxNG | None:
    try:
        return etree.RelaxNG(etree.parse(str(path)))
    except (OSError, etree.LxmlError) as error:
        log.warning(
            "libvirt's schemas are not used: domain XML goes to libvirt unchecked", path=str(path), error=str(error)
        )
        return None
