"""`machine create|start|stop|delete|attach|detach`: over the provider's socket, also by a user who is not root."""

from __future__ import annotations

import asyncio
import json
import os
import pwd
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.records import LABEL_NAME, LABEL_NAMESPACE
from tests.contract.loop import serving_loop

MACHINE = {
    "metadata": {"labels": {LABEL_NAMESPACE: "default", LABEL_NAME: "web"}},
    "spec": {"class": "c1-m1", "power": "POWER_ON"},
}


class User:
    """Who runs the command line: root, or somebody else, in a group."""

    def __init__(self, root: Path, uid: int = 0, gid: int = 0) -> None:
        self.root = root
        # Who may read all, so that he gets to where the tests' Python lies, and write nothing of others'.
        caps = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        self.become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", *caps] if uid else []

    async def run(self, *words: str, typed: str = "") -> tuple[int, str, str]:
        program = [*self.become, sys.executable, "-m", "sri_libvirt"]
        argv = [*program, "machine", *words, "--address", f"unix://{self.root}/sri.sock"]
        env = {**os.environ, "SRI_LIBVIRT_STATE_DIR": str(self.root / "state"), "HOME": "/nonexistent"}
        process = await asyncio.create_subprocess_exec(*argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env)
        async with asyncio.timeout(60):
            out, told = await process.communicate(typed.encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), told.decode()

    def file(self, name: str, document: object) -> str:
        path = self.root / f"{name}.json"
        path.write_text(json.dumps(document))
        return str(path)


async def made(user: User, name: str = "web", **spec: object) -> str:
    labels = {LABEL_NAMESPACE: "default", LABEL_NAME: name}
    document = {"metadata": {"labels": labels}, "spec": {"class": "c1-m1", **spec}}
    status, out, told = await user.run("create", "-f", user.file(name, document), "--wait", "--timeout", "30s")
    assert (status, told) == (0, "")
    return out.strip()


async def test_the_life_of_a_machine_by_hand(tmp_path: Path) -> None:
    user = User(tmp_path)
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        machine_id = await made(user)
        assert (await loop.machine(machine_id)).status.state == pb.MACHINE_RUNNING
        disk = {"name": "data", "device": "oda", "empty_disk": {"size_bytes": 1 << 20}}
        assert await user.run("attach", "web", "-f", user.file("disk", disk), "--wait") == (0, "", "")
        nic = {"name": "lan", "network_id": "isolated"}
        assert await user.run("attach", "default/web", "-f", user.file("nic", nic), "--wait") == (0, "", "")
        machine = await loop.machine(machine_id)
        assert [each.state for each in machine.status.volumes] == [pb.VOLUME_ATTACHED]
        assert [each.state for each in machine.status.network_interfaces] == [pb.NETWORK_INTERFACE_ATTACHED]
        for name in ("data", "lan"):
            assert await user.run("detach", machine_id[:8], name, "--wait") == (0, "", "")
        machine = await loop.machine(machine_id)
        assert not machine.spec.volumes or machine.status.volumes
        assert await user.run("stop", "web", "--wait") == (0, "", "")
        assert (await loop.machine(machine_id)).status.state == pb.MACHINE_SUSPENDED
        assert await user.run("start", "web", "--wait", "--timeout", "30s") == (0, "", "")
        assert await user.run("delete", "web", "--yes", "--wait") == (0, "", "")
        assert await loop.find(machine_id) is None


async def test_nothing_is_deleted_by_half_a_word(tmp_path: Path) -> None:
    user = User(tmp_path)
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        ids = {await made(user, "web"), await made(user, "web")}
        status, _, told = await user.run("delete", "web", "--yes")
        assert status == 1
        assert "'web' means 2 machines (" in told
        assert {each.metadata.id for each in await loop.machines() if not each.metadata.deleted_at} == ids
        one = sorted(ids)[0]
        status, _, told = await user.run("delete", one, typed="n\n")
        assert (status, f"Delete machine default/web ({one}) and its disks?" in told) == (130, True)
        status, _, _ = await user.run("delete", one)  # nobody to ask
        assert status == 130
        assert len(await loop.machines()) == 2
        assert (await user.run("delete", one, "--wait", typed="y\n"))[0] == 0
        assert [each.metadata.id for each in await loop.machines()] == sorted(ids)[1:]
        status, _, told = await user.run("stop", "other")
        assert (status, "has no machine 'other'" in told) == (1, True)


async def test_what_is_wrong_the_provider_says(tmp_path: Path) -> None:
    user = User(tmp_path)
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        wrong = user.file("wrong", {"spec": {"class": "none"}})
        status, out, told = await user.run("create", "-f", wrong)
        assert (status, out) == (1, "")
        assert told.startswith("sri-libvirt: INVALID_ARGUMENT: ")
        assert "machine.spec.class" in told
        good = user.file("good", MACHINE)
        for words, why in ((("--wait", "--timeout", "soon"), "'soon'"), (("--timeout", "3s"), "give --wait, too")):
            status, out, told = await user.run("create", "-f", good, *words)
            assert (status, out, why in told) == (2, "", True), told
        assert await loop.machines() == []
        machine_id = await made(user, image={"image": f"{tmp_path}/images/none.raw"}, power="POWER_OFF")
        status, _, told = await user.run("start", machine_id, "--wait", "--timeout", "300ms")
        assert (status, "is not running after 300 ms; see: sri-libvirt machine why" in told) == (1, True)
        assert (await user.run("detach", machine_id, "none"))[2].endswith("has no volume or nic 'none'\n")
        same = {"name": "same", "network_id": ""}
        await user.run("attach", machine_id, "-f", user.file("same", same))
        disk = {"name": "same", "device": "oda", "empty_disk": {"size_bytes": 1 << 20}}
        await user.run("attach", machine_id, "-f", user.file("disk", disk))
        assert "give --kind" in (await user.run("detach", machine_id, "same"))[2]
        assert (await user.run("detach", machine_id, "same", "--kind", "nic"))[0] == 0
        assert [each.name for each in (await loop.machine(machine_id)).spec.volumes] == ["same"]
    status, _, told = await user.run("stop", machine_id)
    assert status == 1
    assert "no provider answers at unix://" in told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
async def test_who_is_in_the_sockets_group_needs_neither_root_nor_the_store(tmp_path: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    for path in (tmp_path, *tmp_path.parents):
        if str(path).startswith("/tmp/pytest"):
            path.chmod(0o755)
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        user = User(tmp_path, nobody.pw_uid, nobody.pw_gid)
        refused, _, told = await user.run("stop", "web")
        assert (refused, "no provider answers" in told) == (1, True)
        os.chown(tmp_path / "sri.sock", 0, nobody.pw_gid)
        status, out, told = await user.run("create", "-f", user.file("web", MACHINE), "--wait")
        assert (status, told) == (0, "")
        machine_id = out.strip()
        assert await user.run("stop", machine_id, "--wait") == (0, "", "")
        assert (await loop.machine(machine_id)).status.state == pb.MACHINE_SUSPENDED
