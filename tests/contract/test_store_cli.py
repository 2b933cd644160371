"""`sri-libvirt store` and `sweep` beside a working provider and without one, and a store whose disk gives out.

The provider runs on the fake hypervisor; the full disk is a real one, in a mount namespace of its own.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from sri_libvirt.hypervisor.base import Secret, SecretUsage
from sri_libvirt.hypervisor.fake import FakeHypervisor
from sri_libvirt.store import backup
from tests.contract.loop import Loop, serving_loop, spec_of


class Cli:
    """The command line, as a process of its own."""

    def __init__(self, root: Path) -> None:
        self._flags = ("--state-dir", str(root / "state"), "--config", str(root / "none.toml"))
        (root / "none.toml").touch()

    async def run(self, *argv: str) -> tuple[int, str]:
        """Exit status, and what it said."""
        command = [sys.executable, "-m", "sri_libvirt", *argv, *self._flags]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path)


async def forgotten(loop: Loop, machine_id: str) -> None:
    """The store loses a machine that is there: what nothing but a bug or an old backup does."""
    await asyncio.to_thread(loop.store.write, lambda tx: tx.forget(machine_id))


async def test_a_backup_beside_a_working_provider_and_back_without_it(tmp_path: Path, cli: Cli) -> None:
    hypervisor = FakeHypervisor()
    copy = tmp_path / "copy.sqlite"
    async with serving_loop(tmp_path, hypervisor) as loop:
        first = await loop.created()
        assert await cli.run("store", "backup", str(copy)) == (0, f"{copy}: 1 machines, verified\n")
        second = await loop.created()
        status, text = await cli.run("store", "check")
        assert (status, "sound, 2 machines" in text) == (0, True)
        status, text = await cli.run("store", "restore", str(copy))
        assert (status, "another provider runs" in text) == (1, True)
        status, text = await cli.run("store", "backup", str(copy))
        assert (status, "overwrites nothing" in text) == (1, True)
    status, text = await cli.run("store", "restore", str(copy))
    assert (status, "1 machines" in text, "is kept as" in text) == (0, True, True)
    async with serving_loop(tmp_path, hypervisor) as loop:
        await loop.state(first, "RUNNING")
        assert loop.store.machine_ids() == [first]
        assert hypervisor.connect().snapshot(second) is not None


async def test_a_backup_goes_where_the_command_line_sees_its_name(tmp_path: Path, cli: Cli) -> None:
    """A service has a /tmp of its own: the daemon's file of that name is another one."""
    private = tmp_path / "tmp"
    private.mkdir()
    script = 'mount -t tmpfs tmpfs "$0"; "$@" "$0/copy.sqlite"; "$1" -m sri_libvirt store check "$0/copy.sqlite"'
    in_a_namespace = ["unshare", "--mount", "sh", "-ec", script, str(private), sys.executable, "-m", "sri_libvirt"]
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        await loop.created()
        command = [*in_a_namespace, "store", "backup", "--state-dir", str(loop.paths.root)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "sound, 1 machines" in done.stdout
    assert list(private.iterdir()) == []


async def test_the_backups_are_listed_without_a_provider(tmp_path: Path, cli: Cli) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()):
        pass
    status, text = await cli.run("store", "backup")
    assert status == 0
    made = Path(text.partition(":")[0])
    assert backup.inspect(made).problems == ()
    status, text = await cli.run("store", "backups", "-o", "json")
    assert [entry["file"] for entry in json.loads(text)] == [str(made)]
    assert str(made) in (await cli.run("store", "backups"))[1]


@pytest.mark.rule("R-G6-1")
async def test_a_damaged_file_is_told_and_not_served(tmp_path: Path, cli: Cli) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        database = loop.paths.database
    database.write_bytes(b"nonsense" * 1024)
    status, text = await cli.run("store", "check")
    assert (status, "store restore FILE" in text) == (1, True)
    status, text = await cli.run("serve")
    begins, told = text.splitlines()
    assert (status, "sri-libvirt begins" in begins, "store restore FILE" in told) == (1, True, True)


async def test_there_is_nothing_to_back_up(tmp_path: Path, cli: Cli) -> None:
    status, text = await cli.run("store", "backup")
    assert (status, "there is no state database" in text) == (1, True)
    assert not (tmp_path / "state").exists()


BLANK: dict[str, object] = {"by_name": False, "held": "", "outcome": ""}


async def test_sweep_through_the_daemon(tmp_path: Path, cli: Cli) -> None:
    async with serving_loop(tmp_path, FakeHypervisor()) as loop:
        kept, lost = await loop.created(), await loop.created(spec_of(disks=("data",)))
        assert await cli.run("sweep") == (0, "nothing: everything with this store's marks belongs to a machine\n")
        await forgotten(loop, lost)
        secret = Secret("5ec0ffee-0000-4000-8000-000000000001", SecretUsage.VOLUME, loop.store.instance)
        loop.hypervisor.connect().set_secret(secret, b"planted")
        status, text = await cli.run("sweep", "-o", "json")
        assert status == 0
        assert json.loads(text) == [
            {"id": secret.uuid, "domain": "none", "directory": False, "secret": True, "filter": False, **BLANK},
            {"id": lost, "domain": "running", "directory": True, "secret": False, "filter": False, **BLANK},
        ]
        status, text = await cli.run("sweep", "--yes")
        assert (status, "--running ends it" in text) == (1, True)
        assert loop.hypervisor.secrets == {}
        assert len(loop.left_over()[0]) == 2
        status, text = await cli.run("sweep", "--yes", "--running")
        assert (status, lost in text, "removed" in text) == (0, True, True)
        assert loop.left_over() == ([kept], [kept])


FULL = """
import sys
from pathlib import Path
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine, MachineClass
from sri_libvirt.store import Store, backup
from sri_libvirt.store.automatic import AutomaticBackups

root = Path(sys.argv[1])
paths = StatePaths(root / "state")
store = Store.open(paths, lambda: 1)

def machine(number):
    return Machine(
        id=f"m{number}", labels={}, annotations={"x": "y" * 2000}, spec=pb.MachineSpec(), status=pb.MachineStatus(),
        generation=1, observed_generation=0, created_at=number, deleted_at=0, power_at=0,
        machine_class=MachineClass("c", 1, 1),
    )

ballast = root / "ballast"
ballast.write_bytes(b"x" * (512 << 10))
answered = 0
try:
    while True:
        store.write(lambda tx: tx.insert(machine(answered)))
        answered += 1
except StoreError as error:
    assert "free some space" in str(error) or "is full" in str(error), error
assert answered > 20
assert len(store.frames()) == answered, "a list tells of what was not stored, or not of what was"
assert not AutomaticBackups(paths, 1, 1, lambda: 1).once()
assert not list(paths.backups.iterdir()), "half a backup was left"
ballast.unlink()
store.write(lambda tx: tx.insert(machine(answered)))
store.close()
again = Store.open(paths, lambda: 1)
assert sorted(again.machine_ids()) == sorted(f"m{number}" for number in range(answered + 1))
assert not backup.inspect(paths.database).problems
again.close()
"""

READ_ONLY = """
import sys
from pathlib import Path
from sri_libvirt.errors import StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store

try:
    Store.open(StatePaths(Path(sys.argv[1]) / "state"), lambda: 1)
except StoreError as error:
    assert "Read-only file system" in str(error), error
else:
    raise SystemExit("a store was opened that cannot be written")
"""


def on_a_small_disk(root: Path, *programs: tuple[str, str]) -> None:
    """Run Python programs on a file system of 2 MiB beside the reserve, each after a shell command."""
    script = ['mount -t tmpfs -o size=18m tmpfs "$1"']
    for number, (before, _) in enumerate(programs):
        script += [before, f'"$0" -c "${{{number + 2}}}" "$1"']
    argv = ["unshare", "--mount", "sh", "-ec", "\n".join(script), sys.executable, str(root)]
    done = subprocess.run([*argv, *(text for _, text in programs)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_full_disk_answers_errors_and_loses_nothing(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, (":", FULL))


def test_a_read_only_disk_is_told(tmp_path: Path) -> None:
    on_a_small_disk(tmp_path, (":", FULL), ('mount -o remount,ro "$1"', READ_ONLY))
