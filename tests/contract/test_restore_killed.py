"""`store restore` killed at every line of it: the old database or the new one is there, whole, or a start says that it
is lost. Never a part of one, and never one with the other's log.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

KILLED = """
import json, os, shutil, signal, sqlite3, sys
from contextlib import closing
from pathlib import Path
from sri_libvirt.errors import StoreError
from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store, backup
from tests.unit.store.records import machine

OLD, NEW = 6, 1
MACHINE = "11111111-aaaa-4000-8000-000000000001"
root, harm = Path(sys.argv[1]), sys.argv[2]
ours = (backup.__file__, backup.database.__file__, sys.modules["sri_libvirt.paths"].__file__)


def made():
    '''A directory as a kill of the daemon leaves it: what is new is in the log alone.'''
    paths = StatePaths(root / "alive")
    store = Store.open(paths, lambda: 1)
    (paths.machines / MACHINE).mkdir()
    store.write(lambda tx: tx.insert(machine("m0")))
    backup.backup(paths.database, root / "copy.sqlite", 1)
    for number in range(1, OLD):
        store.write(lambda tx: tx.insert(machine(f"m{number}")))
    if harm == "unreadable":
        with closing(sqlite3.connect(paths.database)) as folding:
            folding.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        store.write(lambda tx: tx.set_meta("a small", "log"))
    shutil.copytree(paths.root, root / "killed")
    store.close()
    current = StatePaths(root / "killed").database
    if harm == "unreadable":
        current.write_bytes(b"nonsense" * (current.stat().st_size // 8))
    elif harm == "lost":
        current.unlink()


def restore_and_die(paths, line):
    '''In a child: dies before the `line`th line that is run in the store's and paths' modules; ends well after all.'''
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in ours:
            return None
        count += event == "line"
        if count == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    backup.restore(paths, root / "copy.sqlite", 10**18)
    os._exit(0)


def found(paths):
    '''What a start finds.'''
    try:
        store = Store.open(paths, lambda: 1)
    except StoreError as error:
        assert "sri-libvirt store restore FILE" in str(error), error
        return "told"
    ids = store.machine_ids()
    store.close()
    assert not backup.inspect(paths.database).problems
    return {OLD: "old", NEW: "new"}.get(len(ids), f"a store with {len(ids)} machines")


made()
seen, status, line = [], 1, 0
while status:
    line += 1
    paths = StatePaths(root / "case")
    shutil.copytree(root / "killed", paths.root)
    pid = os.fork()
    if not pid:
        restore_and_die(paths, line)
    status = os.waitpid(pid, 0)[1]
    assert status in (0, signal.SIGKILL), status
    seen.append(found(paths))
    kept = [path for path in paths.backups.glob("replaced-*.sqlite")]
    if harm == "whole" and seen[-1] == "new":
        assert [backup.inspect(path).machines for path in kept] == [OLD], kept
    if harm == "unreadable":
        assert kept or b"nonsense" in paths.database.read_bytes(), "the old file is nowhere"
    backup.restore(paths, root / "copy.sqlite", 2 * 10**18)
    assert found(paths) == "new", "it cannot be done again"
    shutil.rmtree(paths.root)
print(json.dumps(seen))
"""


@pytest.mark.parametrize(("harm", "before"), [("whole", "old"), ("unreadable", "told"), ("lost", "told")])
def test_a_restore_that_is_killed_leaves_one_whole_database(tmp_path: Path, harm: str, before: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), harm]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    changed = seen.index("new")
    assert changed > 50
    assert set(seen[:changed]) == {before}
    assert set(seen[changed:]) == {"new"}
