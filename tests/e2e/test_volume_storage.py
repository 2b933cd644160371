"""What Ceph and iSCSI do to guests that run, and what they do not: rows of the fault table that an NBD server has not.

Faults that every backend can have are in test_volume_faults.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.backends.ceph import Ceph, new_key
from tests.backends.iscsi import Targets
from tests.e2e.connected import (
    MIB,
    OPTIONS,
    STILL,
    TOLD,
    Pauses,
    attach,
    ceph_volume,
    expect_mended,
    guest,
    iscsi,
    new_name,
    tick,
    volumes,
    wait_reason,
    zeroes,
)
from tests.e2e.provider import Provider, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SIZE = 8 * MIB


def test_a_lun_that_is_not_there_yet(provider: Provider, tiny_image: Path, targets: Targets, tmp_path: Path) -> None:
    provider.start(*OPTIONS)
    machine_id = guest(provider, tiny_image)
    tick(provider, machine_id)
    target = targets.target(new_name(), [])
    with Pauses(provider, machine_id) as pauses:
        attach(provider, machine_id, iscsi(targets, target))
        assert "does not exist" in wait_reason(provider, machine_id, "volume-refused", TOLD)
        assert volumes(provider, machine_id) == {"data": "PENDING"}
        targets.lun(target, zeroes(tmp_path / "lun.raw", SIZE))
        expect_mended(provider, machine_id)
    assert pauses.longest < STILL
    wait_for("no session", lambda: targets.sessions() == 0)


def test_a_chap_password_that_is_wrong(provider: Provider, tiny_image: Path, targets: Targets, tmp_path: Path) -> None:
    provider.start(*OPTIONS)
    machine_id = guest(provider, tiny_image)
    tick(provider, machine_id)
    target = targets.target(
        new_name(), [zeroes(tmp_path / "lun.raw", SIZE)], user=new_name(), password="some-other-pass"
    )
    user = new_name()
    with Pauses(provider, machine_id) as pauses:
        given = {"username": user.encode(), "password": b"secret-of-twelve"}
        attach(provider, machine_id, iscsi(targets, target, secrets=given))
        told = wait_reason(provider, machine_id, "volume-refused", TOLD)
        assert "refuses user name and password (CHAP)" in told
        assert volumes(provider, machine_id) == {"data": "PENDING"}
        targets.password(target, user, "secret-of-twelve")
        expect_mended(provider, machine_id)
    assert pauses.longest < STILL
    wait_for("no session", lambda: targets.sessions() == 0)


def test_monitors_that_are_dead(provider: Provider, tiny_image: Path, ceph: Ceph) -> None:
    provider.start(*OPTIONS, "--ceph-conf", str(ceph.client_settings))
    machine_id = guest(provider, tiny_image)
    tick(provider, machine_id)
    image = ceph.image(new_name(), 8 * MIB)
    ceph.monitor.kill()
    with Pauses(provider, machine_id) as pauses:
        attach(provider, machine_id, ceph_volume(ceph, image))
        assert "no answer" in wait_reason(provider, machine_id, "backend-silent", TOLD)
        ceph.start()
        expect_mended(provider, machine_id)
    assert pauses.longest < STILL
    assert ceph.watchers(image) == []


def test_a_ceph_key_that_is_wrong(provider: Provider, tiny_image: Path, ceph: Ceph) -> None:
    provider.start(*OPTIONS, "--ceph-conf", str(ceph.client_settings))
    machine_id = guest(provider, tiny_image)
    tick(provider, machine_id)
    image, user, key = ceph.image(new_name(), 8 * MIB), new_name(), new_key()
    with Pauses(provider, machine_id) as pauses:
        attach(provider, machine_id, ceph_volume(ceph, image, user=user, key=key))
        told = wait_reason(provider, machine_id, "volume-refused", TOLD)
        assert user in told
        assert key not in told
        ceph.let_in(user, key)
        expect_mended(provider, machine_id)
    assert pauses.longest < STILL
    assert ceph.watchers(image) == []


def test_a_ceph_image_that_is_not_there_yet(provider: Provider, tiny_image: Path, ceph: Ceph) -> None:
    provider.start(*OPTIONS, "--ceph-conf", str(ceph.client_settings))
    machine_id = guest(provider, tiny_image)
    tick(provider, machine_id)
    name = new_name()
    with Pauses(provider, machine_id) as pauses:
        attach(provider, machine_id, ceph_volume(ceph, f"vms/{name}"))
        assert name in wait_reason(provider, machine_id, "volume-refused", TOLD)
        ceph.image(name, 8 * MIB)
        expect_mended(provider, machine_id)
    assert pauses.longest < STILL


def test_a_ceph_image_that_another_host_has_open(provider: Provider, tiny_image: Path, ceph: Ceph) -> None:
    provider.start(*OPTIONS, "--ceph-conf", str(ceph.client_settings))
    machine_id = guest(provider, tiny_image)
    image = ceph.image(new_name(), 8 * MIB)
    with ceph.opened(image) as address:
        attach(provider, machine_id, ceph_volume(ceph, image))
        told = wait_reason(provider, machine_id, "in-use", TOLD)
        assert address.rpartition(":")[0] in told
        assert volumes(provider, machine_id) == {"data": "PENDING"}
    expect_mended(provider, machine_id)
