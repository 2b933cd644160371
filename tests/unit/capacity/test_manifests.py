"""MachineClass objects for the cluster, and what the poollet makes of those that it has."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sri_libvirt import quantity
from sri_libvirt.capacity import classes, ladder, manifests
from sri_libvirt.capacity.manifests import Finding, compare, cpu_text
from sri_libvirt.capacity.policy import byte_text
from sri_libvirt.errors import ConfigError
from sri_libvirt.records import GIB, ClassPolicy, MachineClass

OWN = {
    "small": MachineClass("small", 500, 3 << 29),
    "large": MachineClass("large", 4000, 8 * GIB, ClassPolicy(40 * GIB, "uefi", 300 << 20)),
}


def test_what_is_printed_is_a_class_file() -> None:
    text = manifests.manifests(OWN.values())
    assert text.startswith("apiVersion: compute.spheric.cloud/v1alpha1\nkind: MachineClass\n")
    assert classes.parse(text, "own output") == OWN
    other = MachineClass("other", 1000, GIB, ClassPolicy(GIB, "bios", 0, "/t", "none", "native", "ignore", "on"))
    assert classes.parse(manifests.manifests([other]), "own output") == {"other": other}
    assert classes.parse(manifests.manifests(ladder.steps().values()), "own output") == ladder.steps()


@settings(deadline=None)
@given(st.integers(1, 1 << 62))
def test_amounts_are_written_exactly(amount: int) -> None:
    assert quantity.whole(byte_text(amount)) == amount
    assert quantity.millis(cpu_text(amount % 10**9)) == amount % 10**9


OF_CLUSTER = """
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: compute.spheric.cloud/v1alpha1
  kind: MachineClass
  metadata: {name: small, uid: abc, annotations: {sri-libvirt.spheric.cloud/new-word: x}}
  capabilities: {cpu: 500m, memory: 1536Mi, gpu: 1}
- apiVersion: compute.spheric.cloud/v1alpha1
  kind: MachineClass
  metadata: {name: large}
  capabilities: {cpu: 2, memory: 8G}
- apiVersion: compute.spheric.cloud/v1alpha1
  kind: MachineClass
  metadata: {name: mini}
  capabilities: {cpu: 1m, memory: 1Gi}
"""


@pytest.mark.rule("R-A8-2")
def test_every_class_is_compared() -> None:
    ours = {**OWN, "extra": MachineClass("extra", 1000, GIB)}
    assert compare(ours, classes.parse(OF_CLUSTER, "f", of_cluster=True)) == [
        Finding("small", False, "is equal"),
        Finding("large", True, "has cpu 4 here and 2 in the cluster; has memory 8Gi here and 7812500Ki there"),
        Finding("extra", True, "is not in the cluster"),
        Finding("mini", False, "is in the cluster and not offered by this host"),
    ]


def test_what_is_no_manifest_is_still_told() -> None:
    with pytest.raises(ConfigError, match="line 1: kind 'Pod' is not MachineClass"):
        classes.parse("kind: Pod", "f", of_cluster=True)
