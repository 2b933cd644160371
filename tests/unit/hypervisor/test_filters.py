"""Our network filters: that libvirt could take them, and that one of a version never changes."""

from __future__ import annotations

import hashlib
import re

import libvirt
import pytest
from lxml import etree

from sri_libvirt.errors import NotReady
from sri_libvirt.hypervisor import filter_rules, filters

AS_DEFINED = "20aac7732d14dcd9528a14c5a25308b82a9fcddf4921e01447367c704c3cc3c5"
"""Of the four of version 1: hosts have them, and what exists is never changed. Other rules are another version."""


def test_what_hosts_have_by_this_name_does_not_change() -> None:
    assert filter_rules.VERSION == 1
    every = "".join(map(filter_rules.xml, filter_rules.NAMES))
    assert hashlib.sha256(every.encode()).hexdigest() == AS_DEFINED


@pytest.mark.parametrize("name", filter_rules.NAMES)
def test_they_are_ebtables_rules_that_end_in_no(name: str) -> None:
    rules = list(etree.fromstring(filter_rules.xml(name)).iterfind("rule"))
    assert {rule.get("direction") for rule in rules} == {"out"}
    assert {match.tag for rule in rules for match in rule} <= {"mac", "arp", "ip", "ipv6"}
    assert (rules[-1].get("action"), rules[-1][0].keys()) == ("drop", [])
    assert [int(rule.get("priority", "")) for rule in rules] == sorted(int(rule.get("priority", "")) for rule in rules)


@pytest.mark.parametrize(
    ("versions", "name"),
    [([], "any"), ([4], "ipv4"), ([6, 6], "ipv6"), ([6, 4, 4], "ipv4-ipv6")],
)
def test_there_is_one_for_each_kind(versions: list[int], name: str) -> None:
    found = filter_rules.name_of(versions)
    assert found == f"sri-libvirt-1-{name}"
    wanted = set(re.findall(r"\$(IPV[46])", filter_rules.xml(found)))
    assert wanted == {f"IPV{each}" for each in versions}, "all parameters that it asks for are given"


class Refusing:
    """A libvirt that answers every question about filters with an error of this code."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.defined: list[str] = []

    def nwfilterLookupByName(self, _name: str) -> None:  # noqa: N802 of libvirt
        error = libvirt.libvirtError("no")
        error.err = (self.code, 0, "no", 0, "", None, None, 0, 0)
        raise error

    def nwfilterDefineXML(self, xml: str) -> None:  # noqa: N802
        self.defined.append(xml)


def test_one_that_is_missing_is_defined() -> None:
    there = Refusing(libvirt.VIR_ERR_NO_NWFILTER)
    filters.have(there, filter_rules.NAMES[0])
    assert there.defined == [filter_rules.xml(filter_rules.NAMES[0])]


def test_a_libvirt_without_filters_says_what_to_do() -> None:
    there = Refusing(libvirt.VIR_ERR_NO_SUPPORT)
    with pytest.raises(NotReady, match="no network filters") as caught:
        filters.have(there, filter_rules.NAMES[0])
    assert "antispoof: false" in caught.value.advice
    assert there.defined == []


def test_what_cannot_be_asked_is_not_defined() -> None:
    there = Refusing(libvirt.VIR_ERR_RPC)
    with pytest.raises(libvirt.libvirtError):
        filters.have(there, filter_rules.NAMES[0])
    assert there.defined == []
