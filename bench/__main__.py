"""`python -m bench`: measures all figures, prints the table, writes text and JSON."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from bench import consoles, images, on_fake, on_libvirt
from bench.table import Report

PARTS = {
    "busy": on_fake.busy,
    "start": on_fake.start,
    "idle": on_fake.idle,
    "many": on_fake.many,
    "pulls": images.memory,
    "consoles": consoles.busy,
}
"""What is measured on the fake hypervisor."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description="Measure the provider; some minutes.")
    parser.add_argument("--only", choices=("fake", *PARTS, "libvirt"), help="measure this part alone")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything: does it work at all?")
    parser.add_argument("--output", type=Path, default=Path("build"), help="where bench.txt and bench.json go")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench: real guests on a private libvirtd need root")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="bench-") as root:
        for name, measure in PARTS.items():
            if options.only in (None, "fake", name):
                measure(Path(root), report, quick=options.quick)
    if options.only in (None, "libvirt"):
        on_libvirt.measure(report, quick=options.quick)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench.txt").write_text(report.text() + "\n")
    (options.output / "bench.json").write_text(report.json() + "\n")
    print(report.text())


if __name__ == "__main__":
    main()
