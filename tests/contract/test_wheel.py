"""What is shipped works by itself: the wheel built from the sdist, in a venv that never saw the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MACHINE = """\
metadata:
  labels: {machinepoollet.spheric.cloud/machine-name: web}
spec:
  class: c1-m1
  image: {image: /images/tiny.raw}
  volumes:
  - {name: data, device: oda, empty_disk: {size_bytes: 1073741824}}
  network_interfaces:
  - {name: lan, network_id: isolated}
"""


@dataclass(frozen=True)
class Shipped:
    sdist: Path
    wheel: Path
    bin: Path


def run(argv: Sequence[str | Path], cwd: Path, **environ: str) -> str:
    """Run a program outside of this interpreter's environment; its output, or an AssertionError with its words."""
    env = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "SRI_LIBVIRT_", "VIRTUAL_ENV"))
    }
    done = subprocess.run(argv, cwd=cwd, env=env | environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Shipped:
    """sdist, the wheel made of it, and a venv that has the wheel and, by a .pth, this environment's dependencies."""
    base = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", base / "dist", ROOT], base)
    (sdist,) = (base / "dist").glob("*.tar.gz")
    (wheel,) = (base / "dist").glob("*.whl")
    run([sys.executable, "-m", "venv", "--without-pip", base / "venv"], base)
    python = base / "venv" / "bin" / "python"
    run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel], base)
    site = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], base).strip())
    # .pth files in the directories named here are not read, so our own editable install stays out of sight
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")
    return Shipped(sdist, wheel, python.parent)


def test_the_package_is_the_wheels(shipped: Shipped, tmp_path: Path) -> None:
    where = run([shipped.bin / "python", "-c", "import sri_libvirt; print(sri_libvirt.__file__)"], tmp_path)
    assert Path(where.strip()).is_relative_to(shipped.bin.parent)


def test_render_works_outside_of_the_checkout(shipped: Shipped, tmp_path: Path) -> None:
    (tmp_path / "machine.yaml").write_text(MACHINE)
    xml = run([shipped.bin / "sri-libvirt", "render", "-f", "machine.yaml", "--state-dir", "/nowhere"], tmp_path)
    assert xml.startswith("<!--")
    assert "<title>web</title>" in xml
    assert "/images/tiny.raw" in xml
    assert [path.name for path in tmp_path.iterdir()] == ["machine.yaml"]


def test_every_command_is_in_the_wheel(shipped: Shipped, tmp_path: Path) -> None:
    for command in ("serve", "render", "version", "machine"):
        assert "Usage" in run([shipped.bin / "sri-libvirt", command, "--help"], tmp_path)


def test_templates_are_in_the_wheel(shipped: Shipped) -> None:
    templates = {path.relative_to(ROOT / "templates") for path in (ROOT / "templates").rglob("*.j2")}
    assert templates
    with zipfile.ZipFile(shipped.wheel) as wheel:
        names = set(wheel.namelist())
    assert {f"sri_libvirt/templates/{path}" for path in templates} <= names
    assert not any(name.startswith(("tests/", "proto/")) for name in names)


def test_the_sdist_holds_what_builds_and_tests_it(shipped: Shipped) -> None:
    with tarfile.open(shipped.sdist) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {"LICENSE", "pyproject.toml", "proto/machine/v1alpha1/api.proto", "tests/contract/test_wheel.py"} <= names


def test_stubs_are_fresh() -> None:
    run(["sh", ROOT / "proto" / "generate.sh", "--check"], ROOT, PYTHON=sys.executable)
