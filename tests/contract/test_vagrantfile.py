"""The Vagrantfile, judged by vagrant itself: offline and without a libvirtd."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

VAGRANTFILE = Path(__file__).parents[2] / "vagrant" / "Vagrantfile"

pytestmark = pytest.mark.skipif(
    not shutil.which("vagrant"),
    reason="vagrant is not installed: `vagrant/provision.sh test`, where the release has it",
)


def validate(vagrantfile: str, directory: Path, **more: str) -> subprocess.CompletedProcess[str]:
    (directory / "Vagrantfile").write_text(vagrantfile)
    env = {
        **os.environ,
        "VAGRANT_HOME": str(directory / "home"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
        **more,
    }
    return subprocess.run(["vagrant", "validate"], cwd=directory, env=env, capture_output=True, text=True, check=False)


def test_is_valid(tmp_path: Path) -> None:
    done = validate(VAGRANTFILE.read_text(), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_of_the_provider_are_judged_too(tmp_path: Path) -> None:
    done = validate(VAGRANTFILE.read_text().replace("libvirt.nested", "libvirt.nestled"), tmp_path)
    assert done.returncode != 0
    assert "nestled" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("driver", "said", "cpus"),
    [
        ("qemu", "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", 1),
        ("qemu", "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", 2),
        ("qemu", "", 1),
        ("kvm", "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)", 2),
    ],
)
def test_an_emulated_machine_has_as_many_cpus_as_its_qemu_can_bear(
    tmp_path: Path, driver: str, said: str, cpus: int
) -> None:
    qemu = tmp_path / "bin" / "qemu-system-x86_64"
    qemu.parent.mkdir()
    qemu.write_text(f"#!/bin/sh\necho '{said}'\n")
    qemu.chmod(0o755)
    shown = VAGRANTFILE.read_text().replace(
        "libvirt.memory =", '$stderr.puts "cpus: #{libvirt.cpus}"\nlibvirt.memory ='
    )
    path = f"{qemu.parent}:{os.environ['PATH']}"
    done = validate(shown, tmp_path, PATH=path, SRI_VAGRANT_DRIVER=driver)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall("cpus: ([0-9]+)", done.stdout + done.stderr)) == {str(cpus)}
