"""`sri-libvirt machine`: looks at machines through the store, read-only, whether the daemon runs or not; and asks the
provider for changes as a poollet does."""

from __future__ import annotations

import click

from sri_libvirt.cli.lazy import LazyGroup

_ROOM = "sri_libvirt.cli.machine"
COMMANDS = {
    "list": (f"{_ROOM}.listing:list_machines", "List the machines of this host."),
    "get": (f"{_ROOM}.get:get", "Show one machine with its devices."),
    "describe": (f"{_ROOM}.describe:describe", "Show all of one machine on a page, also of one that is gone."),
    "events": (f"{_ROOM}.events:events", "Show a machine's timeline."),
    "trace": (f"{_ROOM}.trace:trace", "Show where the time of what was asked of a machine went."),
    "xml": (f"{_ROOM}.domain_xml:domain_xml", "Print a machine's domain XML, or in what wish and reality differ."),
    "wait": (f"{_ROOM}.wait:wait", "Wait until a machine runs, is off, is gone, or has a device."),
    "create": (f"{_ROOM}.hands:create", "Create a machine of a file."),
    "start": (f"{_ROOM}.hands:start", "Set a machine's power ON."),
    "stop": (f"{_ROOM}.hands:stop", "Set a machine's power OFF."),
    "delete": (f"{_ROOM}.hands:delete", "Delete a machine and its disks."),
    "attach": (f"{_ROOM}.hands:attach", "Attach the volume or network interface of a file."),
    "detach": (f"{_ROOM}.hands:detach", "Detach a volume or network interface."),
    "why": (f"{_ROOM}.why:why", "Say why a machine is not what it should be, and what to do."),
}


@click.group(cls=LazyGroup, table=COMMANDS)
def machine() -> None:
    """Look at the machines of this host, and change them.

    A MACHINE is an id, the beginning of one, or namespace/name. Looking works while the daemon runs and while it does
    not; secrets and ignition data are never shown. Changes are asked by the provider's socket, which is for its group.
    """
