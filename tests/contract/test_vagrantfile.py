"""The Vagrantfile, judged by vagrant itself: offline and without a libvirtd."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

VAGRANTFILE = Path(__file__).parents[2] / "vagrant" / "Vagrantfile"

pytestmark = pytest.mark.skipif(
    not shutil.which("vagrant"),
    reason="vagrant is not installed: `vagrant/provision.sh test`, where the release has it",
)


def validate(vagrantfile: str, directory: Path) -> subprocess.CompletedProcess[str]:
    (directory / "Vagrantfile").write_text(vagrantfile)
    env = {
        **os.environ,
        "VAGRANT_HOME": str(directory / "home"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "VAGRANT_DEFAULT_PROVIDER": "libvirt",
    }
    return subprocess.run(["vagrant", "validate"], cwd=directory, env=env, capture_output=True, text=True, check=False)


def test_is_valid(tmp_path: Path) -> None:
    done = validate(VAGRANTFILE.read_text(), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_settings_of_the_provider_are_judged_too(tmp_path: Path) -> None:
    done = validate(VAGRANTFILE.read_text().replace("libvirt.nested", "libvirt.nestled"), tmp_path)
    assert done.returncode != 0
    assert "nestled" in done.stdout + done.stderr
