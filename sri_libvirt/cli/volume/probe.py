"""`sri-libvirt volume probe`: what the provider would hear of a volume before it gives it to a guest."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import click

from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.cli import manifest
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.planned import SAMPLE_ID
from sri_libvirt.cli.reading import open_store
from sri_libvirt.config import Settings
from sri_libvirt.devices import DiskSource, SecretPurpose
from sri_libvirt.errors import InvalidSpec, NotReady, SRIError
from sri_libvirt.records import SECOND
from sri_libvirt.resources import byte_words
from sri_libvirt.volumes import probe as volume_probe
from sri_libvirt.volumes.base import Found
from sri_libvirt.volumes.registry import HostAccess, VolumeRegistry

OPTIONS = ("state_dir", "file_dir", "nbd_socket_dir", "block_device", "image_dir", "ceph_conf", "probe_timeout")


@dataclass
class AskingNow:
    """Asks at once, in this process, and keeps what was asked for."""

    seconds: float
    source: DiskSource | None = None

    def ready(
        self,
        waiter: str,  # noqa: ARG002 of the contract, as below
        key: Hashable,  # noqa: ARG002
        source: DiskSource,
        secrets: Mapping[SecretPurpose, bytes],
        *,
        plugged: bool = False,  # noqa: ARG002
        since: int = 0,  # noqa: ARG002
    ) -> Found:
        self.source = source
        return volume_probe.probe(source, secrets, deadline=self.seconds)

    def busy_until(self, key: Hashable) -> int | None:  # noqa: ARG002
        return None

    def size_of(self, key: Hashable) -> int:  # noqa: ARG002
        return 0

    def forget(self, key: Hashable) -> None:
        pass


@click.command()
@click.option("-f", "--file", "file", type=click.File(encoding="utf-8"), required=True, help="Volume; - is stdin.")
@settings_options(*OPTIONS)
@out.form("table", "json", "yaml")
def probe(file: TextIO, settings: Settings, output: str) -> None:
    """Ask the backend of a volume in a file for it, as the provider does before a guest is given it.

    The file holds one Volume as srictl-machine attaches it, in YAML or JSON. Nothing is written, to the volume neither,
    and the daemon is not asked. A volume that a guest of this host has open is in use. Status 1 when it is not ready.
    """
    try:
        text = file.read()
    except UnicodeDecodeError:
        raise click.ClickException(f"{file.name}: not UTF-8 text") from None
    asked = manifest.volume(text, file.name, out.warn)
    told = _ask(asked, settings)
    if output == "table":
        for key, value in told.items():
            if value is not None:
                out.say(f"{key.replace('_', ' '):12} {byte_words(value) if key == 'bytes' else value}")
    else:
        out.data(told, output)
    if not told["ready"]:
        raise click.ClickException("a guest that has this volume would wait")


def _ask(asked: pb.Volume, settings: Settings) -> dict[str, Any]:
    """What is told, as plain data. Raises InvalidSpec for what is wrong in itself."""
    asking = AskingNow(settings.probe_timeout / SECOND)
    access = HostAccess.of(settings, _instance(settings), lambda: 0, asking=asking)
    driver = VolumeRegistry.load(access=access).select(asked)
    driver.validate(asked)
    if (look := getattr(driver, "look", None)) is None:
        raise InvalidSpec("", f"a volume of driver {driver.name} has no backend that could be asked")
    told: dict[str, Any] = {"driver": driver.name, "handle": driver.handle(SAMPLE_ID, asked), "ready": False}
    found, problem = None, None
    try:
        found = look(SAMPLE_ID, asked)
    except NotReady as error:
        problem = error
    encryption = found.encryption if found else None
    return told | {
        "ready": found is not None,
        "backend": asking.source.source if asking.source else None,
        "bytes": found.size if found else None,
        "encryption": f"{encryption.format} by {encryption.engine}" if encryption else None,
        "code": (problem.code or None) if problem else None,
        "problem": str(problem) if problem else None,
        "advice": (problem.advice or None) if problem else None,
    }


def _instance(settings: Settings) -> str:
    """The store's, of which this host's iSCSI name is made; "" where there is none yet, or none for this user."""
    try:
        with open_store(settings) as reader:
            return reader.instance
    except (SRIError, PermissionError):
        out.warn("the store cannot be read, so iSCSI targets meet another initiator than the provider's")
        return ""
