"""The last sign of life of each boot, over restarts and reboots."""

from __future__ import annotations

import pytest

from sri_libvirt.reconcile import boots
from sri_libvirt.reconcile.boots import Boots
from sri_libvirt.store import Store


class Host:
    """A host whose boot and time are told."""

    def __init__(self) -> None:
        self.boot, self.now = "boot-1", 100

    def boots(self, store: Store) -> Boots:
        return Boots(store, lambda: self.boot, lambda: self.now)


def test_a_later_boot_knows_when_the_earlier_gave_its_last_sign(store: Store) -> None:
    host = Host()
    seen = host.boots(store)
    seen.sign()
    host.now = 160
    seen.sign()
    assert seen.ended("boot-1") == 0, "it goes on"
    host.boot, host.now = "boot-2", 900
    later = host.boots(store)
    later.sign()
    assert (later.ended("boot-1"), later.ended("boot-2"), later.ended("unknown")) == (160, 0, 0)
    assert host.boots(store).ended("boot-1") == 160, "over a restart of the provider"


def test_few_boots_are_kept(store: Store) -> None:
    host = Host()
    for number in range(100):
        host.boot, host.now = f"boot-{number}", number + 1
        host.boots(store).sign()
    assert (host.boots(store).ended("boot-98"), host.boots(store).ended("boot-3")) == (99, 0)


def test_it_signs_at_once_and_at_its_end(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boots, "PERIOD", 3600)
    host = Host()
    seen = host.boots(store)
    seen.start()
    host.now = 170
    seen.stop()
    host.boot = "boot-2"
    assert host.boots(store).ended("boot-1") == 170


def test_a_store_that_is_closed_is_no_harm(store: Store) -> None:
    seen = Host().boots(store)
    store.close()
    seen.sign()
