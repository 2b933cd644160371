"""What libvirt is told of a secret, and whose one is."""

from __future__ import annotations

from dataclasses import dataclass, field

import libvirt
import pytest
from lxml import etree

from sri_libvirt.domain.schema import DIRECTORY
from sri_libvirt.hypervisor import secrets
from sri_libvirt.hypervisor.base import Secret, SecretUsage
from tests.unit.hypervisor.test_faults import CLOSED, Fault

UUID = "6a1f7b0e-7d5a-4c56-9a6e-2f6f4f4f0001"
INSTANCE = "11111111-2222-4333-8444-555555555555"
OTHERS = "99999999-2222-4333-8444-555555555555"
NONE = Fault(libvirt.VIR_ERR_NO_SECRET, libvirt.VIR_FROM_SECRET, "Secret not found")
NO_DRIVER = Fault(libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_FROM_NONE, "this function is not supported")


@dataclass
class Found:
    """A virSecret that may vanish before it is undefined."""

    name: str
    vanishes: bool = False
    undefined: bool = False

    def UUIDString(self) -> str:  # noqa: N802 (libvirt's name)
        return UUID

    def usageID(self) -> str:  # noqa: N802
        return self.name

    def undefine(self) -> None:
        if self.vanishes:
            raise NONE
        self.undefined = True


@dataclass
class Wire:
    """A virConnect with these secrets, or that fails."""

    there: list[Found] = field(default_factory=list)
    fault: Fault | None = None

    def secretLookupByUUIDString(self, _uuid: str) -> Found:  # noqa: N802
        if self.fault or not self.there:
            raise self.fault or NONE
        return self.there[0]

    def listAllSecrets(self, _flags: int) -> list[Found]:  # noqa: N802
        if self.fault:
            raise self.fault
        return self.there


@pytest.mark.parametrize("usage", SecretUsage)
def test_libvirts_schema_takes_it_and_the_mark_is_found_again(usage: SecretUsage) -> None:
    root = etree.fromstring(secrets.xml(Secret(UUID, usage, INSTANCE)))
    schema = etree.RelaxNG(file=str(DIRECTORY / "secret.rng"))
    assert schema.validate(root), schema.error_log
    assert (root.get("ephemeral"), root.get("private")) == ("yes", "yes")
    assert root.findtext("uuid") == UUID
    assert secrets.instance_of(root.findall("usage/*")[0].text or "") == INSTANCE


def test_what_needs_escapes_gets_them() -> None:
    root = etree.fromstring(secrets.xml(Secret("<&>", SecretUsage.CEPH, "'\"")))
    assert root.findtext("uuid") == "<&>"


@pytest.mark.parametrize("name", ["", "client.admin", "sri-libvirt", f"/{INSTANCE}", f"other:{INSTANCE}:{UUID}"])
def test_what_carries_no_mark_is_nobodys(name: str) -> None:
    assert secrets.instance_of(name) == ""
    assert secrets.marked(Wire([Found(name)])) == {}


def test_only_ours_is_dropped() -> None:
    ours, theirs = Found(f"/sri-libvirt:{INSTANCE}:{UUID}"), Found(f"sri-libvirt:{OTHERS}:{UUID}")
    for each in (ours, theirs):
        secrets.drop(Wire([each]), UUID, INSTANCE)
    assert (ours.undefined, theirs.undefined) == (True, False)
    secrets.drop(Wire([Found(ours.name, vanishes=True)]), UUID, INSTANCE)


def test_a_lost_line_is_not_taken_for_no_secret() -> None:
    with pytest.raises(libvirt.libvirtError):
        secrets.drop(Wire(fault=CLOSED), UUID, INSTANCE)
    with pytest.raises(libvirt.libvirtError):
        secrets.marked(Wire(fault=CLOSED))


def test_a_libvirt_without_a_driver_for_secrets_has_none() -> None:
    assert secrets.marked(Wire(fault=NO_DRIVER)) == {}
