"""A provider on a private libvirt with real QEMU, and what is heard beside it.

Which figures are made of it does not belong here.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

from bench.client import Provider, until
from sri_libvirt.hypervisor.base import DomainEvent, EventKind
from sri_libvirt.hypervisor.libvirt import LibvirtHypervisor
from tests.e2e.libvirtd import PrivateLibvirt

ASK_EVERY = 0.002
"""Seconds between two questions; without a pause they take the CPU from what is asked about."""


@dataclass
class Watch:
    """When this process heard of which event, in seconds of the monotonic clock."""

    heard: dict[tuple[str, EventKind, str], float] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def on_connected(self) -> None:
        pass

    def on_disconnected(self, reason: str) -> None:
        raise RuntimeError(f"libvirt was lost: {reason}")

    def on_network(self, name: str) -> None:
        pass

    def on_event(self, event: DomainEvent) -> None:
        now = time.perf_counter()
        alias = event.detail if event.kind in (EventKind.DEVICE_ADDED, EventKind.DEVICE_REMOVED) else ""
        with self.changed:
            self.heard[event.machine_id, event.kind, alias] = now
            self.changed.notify_all()

    def wait(self, machine_id: str, kind: EventKind, alias: str = "") -> float:
        """When the event came that comes next, or came since it was forgotten."""
        with self.changed:
            if not self.changed.wait_for(lambda: (machine_id, kind, alias) in self.heard, 60):
                raise RuntimeError(f"no event {kind} {alias} of {machine_id}")
            return self.heard.pop((machine_id, kind, alias))

    def forget(self) -> None:
        with self.changed:
            self.heard.clear()


@dataclass
class World:
    """A provider on a private libvirt, a connection beside it, and what is heard there."""

    private: PrivateLibvirt
    served: Provider
    connection: libvirt.virConnect
    watch: Watch

    @property
    def ceph_conf(self) -> Path:
        """What the provider gives to librados, once it is there."""
        return self.served.root / "librados.conf"

    def shown(self, machine_id: str, state: str) -> float:
        """When the list showed a state, asked for without a pause."""
        until(f"{state} of {machine_id}", lambda: self.served.state(machine_id) == state, ASK_EVERY)
        return time.perf_counter()


@contextmanager
def world(private: PrivateLibvirt, *options: str) -> Iterator[World]:
    """One with these options besides."""
    root = private.directory("bench")
    images = root / "images"
    images.mkdir(mode=0o755)
    command = [
        sys.executable, "-m", "sri_libvirt", "serve", "--address", f"unix://{root}/sri.sock", "--state-dir",
        str(root / "state"), "--image-dir", str(images), "--domain-type", "qemu", "--log-format", "json",
        "--shutdown-grace", "100ms", "--detach-settle", "0s", "--ceph-conf", str(root / "librados.conf"),
        "--cpu-overcommit", "100", "--disk-overcommit", "1000", "--reserved-memory", "0", *options,
    ]  # fmt: skip
    served = Provider(root, command, private.popen)
    watch = Watch()
    stop = LibvirtHypervisor(private.uri).watch(watch)
    connection = libvirt.open(private.uri)
    try:
        yield World(private, served, connection, watch)
    finally:
        connection.close()
        stop()
        served.stop()
        private.remove_domains()
