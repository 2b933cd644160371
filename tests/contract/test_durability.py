"""What was answered is there after a kill, whatever the moment."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from sri_libvirt.paths import StatePaths
from sri_libvirt.store import Store

WRITER = """
import sys
from pathlib import Path
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.paths import StatePaths
from sri_libvirt.records import Machine, MachineClass
from sri_libvirt.store import Store

store = Store.open(StatePaths(Path(sys.argv[1])), lambda: 1)

def machine(number):
    return Machine(
        id=f"m{number}", labels={}, annotations={}, spec=pb.MachineSpec(), status=pb.MachineStatus(), generation=1,
        observed_generation=0, created_at=number, deleted_at=0, power_at=0, machine_class=MachineClass("c", 1, 1),
    )

for number in range(int(sys.argv[2]), 10**9):
    store.write(lambda tx: tx.insert(machine(number)))
    print(number, flush=True)
"""


def test_kill_at_any_moment(tmp_path: Path) -> None:
    state, answered = tmp_path / "state", -1
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(state), str(answered + 2)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for _ in range(40):
                answered = int(writer.stdout.readline())
            writer.send_signal(signal.SIGKILL)
            rest = writer.stdout.read().split("\n")[:-1]  # answers that it gave before it died
            answered = int(rest[-1]) if rest else answered
        store = Store.open(StatePaths(state), lambda: 1)
        listed = [int(machine_id[1:]) for machine_id in store.machine_ids()]
        store.close()
        assert listed[0] in (answered, answered + 1)  # the one more was stored and not yet answered
        assert answered in listed
        assert len(listed) >= 40
