"""The scripts of the virtual machine where there is none, and its harness with an ssh that is a script."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vm.machine import VM, MachineError

SCRIPTS = Path(__file__).parents[2] / "vagrant"


def run(script: str, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    argv = [str(SCRIPTS / script), *words]
    return subprocess.run(argv, env={**os.environ, **(env or {})}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.sh")))
def test_is_a_shell_script(script: str) -> None:
    done = subprocess.run(["sh", "-n", SCRIPTS / script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("script", "words"),
    [("vm.sh", []), ("vm.sh", ["up"]), ("vm.sh", ["up", "sid"]), ("vm.sh", ["boot", "trixie"]), ("box.sh", ["sid"])],
)
def test_wrong_usage_is_told(script: str, words: list[str]) -> None:
    done = run(script, *words)
    assert done.returncode == 2
    assert f"{script} " in done.stderr
    assert "set -eu" not in done.stderr


@pytest.mark.parametrize("command", ["ssh", "virsh"])
def test_no_machine_is_said_with_the_cure(tmp_path: Path, command: str) -> None:
    done = run("vm.sh", command, "trixie", env={"SRI_VM_DIR": str(tmp_path)})
    assert done.returncode == 1
    assert "make vm RELEASE=trixie" in done.stderr


def test_a_machine_is_made_by_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "trixie").mkdir()
    with (tmp_path / "trixie" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = run("vm.sh", "up", "trixie", env={"SRI_VM_DIR": str(tmp_path)})
    assert done.returncode == 1
    assert "somebody else" in done.stderr


def test_what_is_not_there_can_be_destroyed(tmp_path: Path) -> None:
    assert run("vm.sh", "destroy", "trixie", env={"SRI_VM_DIR": str(tmp_path)}).returncode == 0


def test_what_a_reboot_of_this_host_has_ended_can_be_destroyed(tmp_path: Path) -> None:
    machine = tmp_path / "trixie"
    machine.mkdir()
    ended = subprocess.Popen(["true"])
    ended.wait()
    (machine / "anchor").write_text(f"{ended.pid} net:[1]\n")
    (machine / "ssh_config").write_text("Host vm\n")
    (machine / "driver").write_text("qemu\n")
    done = run("vm.sh", "destroy", "trixie", env={"SRI_VM_DIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert "trixie is gone" in done.stderr
    assert list(machine.iterdir()) == []


def test_the_box_gets_what_the_tests_need_but_no_vagrant() -> None:
    packages = run("provision.sh", "packages").stdout.split()
    assert {"libvirt-daemon-system", "qemu-system-x86", "ovmf", "tini"} <= set(packages)
    assert not [name for name in packages if name.startswith("vagrant")]


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> VM:
    """A machine on this host's libvirt, which ssh and virsh only pretend to reach; `calls` has what they were told."""
    directory = tmp_path / "trixie"
    programs = tmp_path / "bin"
    directory.mkdir()
    programs.mkdir()
    (directory / "ssh_config").write_text("Host vm\n")
    (directory / "domain").write_text("sri-libvirt-trixie\n")
    (directory / "boot").write_text("first")
    # The last word is the command; sudo is not needed to pretend.
    ssh = f"""#!/bin/sh
echo "ssh $*" >>{tmp_path}/calls
for word; do last=$word; done
case $last in
*boot_id*) cat {directory}/boot ;;
*is-system-running*) echo running ;;
*lost*) echo "no route" >&2; exit 255 ;;
*fail*) echo said; echo wrong >&2; exit 3 ;;
*) cat ;;
esac
"""
    virsh = f'#!/bin/sh\necho "virsh $*" >>{tmp_path}/calls\necho third >{directory}/boot\n'
    for name, text in (("ssh", ssh), ("virsh", virsh)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SRI_VM_DIR", str(tmp_path))
    return VM.of("trixie")


def calls(vm: VM) -> list[str]:
    return (vm.directory.parent / "calls").read_text().splitlines()


def test_a_command_runs_as_root_in_a_shell(vm: VM) -> None:
    assert vm.run("tee 'a file'", stdin="in and out") == "in and out"
    assert calls(vm)[0].endswith("vm sudo -n -H -u root sh -c " + shlex.quote("tee 'a file'"))


def test_a_command_that_fails_says_what_it_said(vm: VM) -> None:
    with pytest.raises(MachineError, match=r"(?s)status 3 from: fail.*said.*wrong"):
        vm.run("fail")
    assert vm.ask("fail").returncode == 3


def test_a_machine_that_is_not_reached_is_no_failed_command(vm: VM) -> None:
    with pytest.raises(MachineError, match="not reached by ssh: no route"):
        vm.ask("lost")


def test_after_the_plug_was_pulled_another_boot_answers(vm: VM) -> None:
    vm.reset()
    assert "virsh -q -c qemu:///system reset sri-libvirt-trixie" in calls(vm)
    assert vm.boot_id() == "third"


def test_a_machine_whose_namespaces_have_ended_is_said_so(vm: VM) -> None:
    (vm.directory / "anchor").write_text(f"{os.getpid()} net:[1]\n")
    with pytest.raises(MachineError, match="ended with its namespaces"):
        vm.run("true")


def test_no_machine(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="make vm RELEASE=bookworm"):
        VM(tmp_path / "bookworm")


def test_whether_there_is_kvm_is_told_without_any_package() -> None:
    program = (
        "import runpy, sys; sys.path[:] = [p for p in sys.path if 'packages' not in p]; runpy.run_path(sys.argv[1])"
    )
    argv = [sys.executable, "-I", "-S", "-c", program, str(SCRIPTS / "kvm.py")]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
