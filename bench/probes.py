"""`python -m bench.probes`: asks a backend for a volume as the provider does before a plug, and prints milliseconds.

It runs where guests run. What the figure is compared with does not belong here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench.client import milliseconds
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli.volume.probe import AskingNow
from sri_libvirt.volumes.ceph import CephVolumes

SECONDS = 10.0
NOBODY = "00000000-0000-4000-8000-000000000000"


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.probes")
    parser.add_argument("--ceph-conf", type=Path, required=True)
    parser.add_argument("--times", type=int, required=True)
    parser.add_argument("volume", type=Path, help="a file with a Volume's message")
    options = parser.parse_args()
    volume = pb.Volume.FromString(options.volume.read_bytes())
    driver = CephVolumes(AskingNow(SECONDS), options.ceph_conf)
    print(json.dumps([milliseconds(lambda: driver.look(NOBODY, volume)) for _ in range(options.times)]))


if __name__ == "__main__":
    main()
