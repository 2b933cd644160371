"""Which QEMU is whose, of a procfs that somebody made."""

from __future__ import annotations

import os
from pathlib import Path

from sri_libvirt.host import guests

ID = "5f0d5c0e-0000-4000-8000-000000000001"
OTHER = "5f0d5c0e-0000-4000-8000-000000000002"
TICKS = os.sysconf("SC_CLK_TCK")


def process(
    procfs: Path, pid: int, arguments: str, *, command: str = "qemu-system-x86", cgroup: str = "0::/a.scope"
) -> None:
    directory = procfs / str(pid)
    directory.mkdir(parents=True)
    (directory / "cmdline").write_bytes(arguments.replace(" ", "\0").encode() + b"\0")
    numbers = ["S", *["1"] * 10, str(3 * TICKS), str(2 * TICKS), *["1"] * 6, str(100 * TICKS), "1"]
    (directory / "stat").write_text(f"{pid} ({command}) {' '.join(numbers)}")
    (directory / "statm").write_text("900 100 1 1 0 1 0")
    (directory / "cgroup").write_text(cgroup)


def test_what_is_told_of_a_guest(tmp_path: Path) -> None:
    process(tmp_path, 7, f"/usr/bin/qemu-system-x86_64 -name guest={ID},debug-threads=on -uuid {ID}")
    process(tmp_path, 8, f"/usr/bin/qemu-system-x86_64 -name guest={OTHER} -S", command="qemu) (x", cgroup=V1)
    found = guests.processes(tmp_path)
    assert set(found) == {ID, OTHER}
    page = os.sysconf("SC_PAGE_SIZE")
    assert found[ID] == guests.GuestProcess(7, 100.0, 5.0, 100 * page, "/a.scope")
    assert found[OTHER].cgroup == "/machine.slice/b"


V1 = "4:memory:/other\n3:cpu,cpuacct:/machine.slice/b\n1:name=systemd:/x\n"


def test_what_is_no_guest_or_has_ended_is_left_out(tmp_path: Path) -> None:
    process(tmp_path, 7, f"/bin/grep guest={ID}", command="grep")
    process(tmp_path, 8, "/usr/bin/qemu-system-x86_64 -name guest=somebody-elses")
    process(tmp_path, 9, f"/usr/bin/qemu-system-x86_64 -name guest={ID}")
    (tmp_path / "9" / "stat").unlink()
    process(tmp_path, 10, f"/usr/bin/qemu-system-x86_64 -name guest={OTHER}")
    (tmp_path / "10" / "stat").write_text("10 (qemu) S 1")
    (tmp_path / "self").mkdir()
    assert guests.processes(tmp_path) == {}
