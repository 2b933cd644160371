"""What is on this host that the demo could leave behind: seen before and after, compared, and cleared after a failure.

Everything of the demo bears a mark: a random word in the names of its directory and its network, the UUIDs that came
into being with it. Only marked things are judged or removed; other people's changes are merely told.
What a machine does in between does not belong here.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import libvirt

LIBVIRT_DIRECTORIES = ("/etc/libvirt", "/run/libvirt", "/var/lib/libvirt", "/var/log/libvirt")
OTHER_DIRECTORIES = ("/run", "/tmp", "/var/tmp", "/var/lib")  # their own entries only, not what is below

NETWORK = """
<network>
  <name>{name}</name>
  <bridge name='{bridge}' stp='off' delay='0'/>
  <ip address='{gateway}' prefix='24'>
    <dhcp><range start='{first}' end='{last}'/></dhcp>
  </ip>
</network>
"""

UNDEFINE = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class DemoFailed(Exception):
    """A step of the demo did not come out as it should; the message says which and why."""


@dataclass
class Marks:
    """The words that only the demo's things bear."""

    words: set[str]

    def on(self, text: str) -> bool:
        return any(word in text for word in self.words)


@dataclass(frozen=True)
class Thing:
    """Something on the host. `text` is all that may bear a mark."""

    kind: str
    name: str
    text: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def connect(uri: str) -> libvirt.virConnect:
    """Open libvirt. Raises DemoFailed."""
    # Errors come as exceptions; printed too, they would look like failures.
    libvirt.registerErrorHandler(lambda *_: None, None)
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        raise DemoFailed(f"libvirt cannot be opened at {uri}: {error}") from None


def snapshot(connection: libvirt.virConnect) -> frozenset[Thing]:
    """Domains, networks, secrets, links, processes and files as they are now."""
    things: set[Thing] = set()
    for domain in connection.listAllDomains():
        things.add(_thing("domain", domain.name(), domain.XMLDesc))
    for network in connection.listAllNetworks():
        things.add(_thing("network", network.name(), network.XMLDesc))
    for secret in connection.listAllSecrets():
        things.add(_thing("secret", secret.UUIDString(), secret.XMLDesc))
    things.update(Thing("link", name, name + " " + master) for name, master in links().items())
    things.update(_processes())
    things.update(_files())
    return frozenset(things)


def _thing(kind: str, name: str, describe: Callable[[], str]) -> Thing:
    text = name
    with suppress(libvirt.libvirtError):  # it may vanish meanwhile
        text += describe()
    return Thing(kind, name, text)


def links() -> dict[str, str]:
    """Network links of this host, each with the bridge that it is in ("" = none)."""
    found = json.loads(_ip("-j", "link", "show"))
    return {link["ifname"]: link.get("master", "") for link in found}


def _ip(*arguments: str) -> str:
    return subprocess.run(["ip", *arguments], capture_output=True, text=True, check=True).stdout


def _processes() -> Iterable[Thing]:
    ours = {os.getpid(), os.getppid()}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) not in ours:
            with suppress(OSError):
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                if command:  # neither a thread of the kernel nor dead
                    yield Thing("process", f"{entry.name} ({command.split()[0]})", command)


def _files() -> Iterable[Thing]:
    for directory in LIBVIRT_DIRECTORIES:
        for parent, directories, names in os.walk(directory):
            yield from (Thing("file", path, path) for path in (f"{parent}/{name}" for name in (*names, *directories)))
    for directory in OTHER_DIRECTORIES:
        with suppress(OSError):
            yield from (Thing("file", str(path), str(path)) for path in Path(directory).iterdir())


def free_subnet() -> ipaddress.IPv4Network:
    """A private /24 that no route of this host touches. Raises DemoFailed."""
    taken = [
        ipaddress.ip_network(route["dst"], strict=False)
        for route in json.loads(_ip("-4", "-j", "route", "show", "table", "all"))
        if route["dst"][:1].isdecimal() and route["dst"] != "0.0.0.0/0"
    ]
    for third in range(249, 129, -1):
        candidate = ipaddress.IPv4Network(f"192.168.{third}.0/24")
        if not any(candidate.overlaps(other) for other in taken):
            return candidate
    raise DemoFailed("no 192.168.x.0/24 is free for the demo's network")


def create_network(connection: libvirt.virConnect, name: str, bridge: str) -> ipaddress.IPv4Network:
    """An isolated network with DHCP, gone when it is destroyed. Raises DemoFailed."""
    subnet = free_subnet()
    xml = NETWORK.format(name=name, bridge=bridge, gateway=subnet[1], first=subnet[10], last=subnet[99])
    try:
        connection.networkCreateXML(xml)
    except libvirt.libvirtError as error:
        raise DemoFailed(f"the demo's network does not start: {error}") from None
    return subnet


def clear(connection: libvirt.virConnect, marks: Marks, directory: Path) -> None:
    """Remove what bears the demo's marks: the network, the directory, and what a failure left. Idempotent."""
    for domain in connection.listAllDomains():
        with suppress(libvirt.libvirtError):
            if marks.on(domain.XMLDesc()):
                if domain.isActive():
                    domain.destroy()
                if domain.isPersistent():
                    domain.undefineFlags(UNDEFINE)
    for secret in connection.listAllSecrets():
        with suppress(libvirt.libvirtError):
            if marks.on(secret.XMLDesc()):
                secret.undefine()
    for network in connection.listAllNetworks():
        with suppress(libvirt.libvirtError):
            if marks.on(network.name()):
                network.destroy()
    shutil.rmtree(directory, ignore_errors=True)
    # libvirt keeps a domain's log for ever, a network's empty directory and pid file until the host boots.
    for place in ("/var/log/libvirt/qemu", "/run/libvirt/network"):
        for path in Path(place).glob("*"):
            if marks.on(path.name):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def end_process(process: subprocess.Popen[bytes], seconds: float) -> int:
    """End a process of the demo by SIGTERM, or SIGKILL when it takes too long; its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
