"""The command line's entry: which commands there are, and how a failure ends the process.

Exit status: 0 done, 1 an error (one line on standard error), 2 wrong usage, 130 interrupted. A traceback means a bug.
What a command does does not belong here.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Sequence

import click

from sri_libvirt import __version__, printable
from sri_libvirt.cli.lazy import LazyGroup
from sri_libvirt.errors import NotReady, SRIError

COMMANDS = {
    "serve": ("sri_libvirt.cli.serve:serve", "Serve this host as a pool of machines."),
    "machine": ("sri_libvirt.cli.machine:machine", "Look at machines: list, get, events, why."),
    "console": ("sri_libvirt.cli.console:console", "Have a machine's serial console, or its log."),
    "top": ("sri_libvirt.cli.top:top", "Show what guests use: CPU, memory, disks, network."),
    "volume": ("sri_libvirt.cli.volume:volume", "Ask backends for volumes: probe, rescan."),
    "network": ("sri_libvirt.cli.network:network", "Network ids: check what one leads to."),
    "images": ("sri_libvirt.cli.images:images", "Fetched images: list, pull, prune, check."),
    "config": ("sri_libvirt.cli.configuration:configuration", "Show the settings that the provider runs with."),
    "capacity": ("sri_libvirt.cli.capacity:capacity", "Show what this host is, can sell, and what limits that."),
    "render": ("sri_libvirt.cli.render:render", "Print a machine's domain XML; touches nothing."),
    "store": ("sri_libvirt.cli.store:store", "Back up, check and restore the state database."),
    "classes": ("sri_libvirt.cli.classes:classes", "List the machine classes; compare them with the cluster's."),
    "cordon": ("sri_libvirt.cli.cordon:cordon", "Take no new machines."),
    "uncordon": ("sri_libvirt.cli.cordon:uncordon", "Take new machines again; start what drain switched off."),
    "drain": ("sri_libvirt.cli.drain:drain", "Take no new machines and switch every guest off."),
    "sweep": ("sri_libvirt.cli.sweep:sweep", "List and remove what belongs to no machine."),
    "purge": ("sri_libvirt.cli.purge:purge", "End a pool: all its machines, gone with their disks."),
    "version": ("sri_libvirt.cli.version:version", "Print the version."),
}


_UNWRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""What a file that output goes to may answer."""


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="sri-libvirt", message="%(prog)s %(version)s")
def sri_libvirt() -> None:
    """A libvirt/QEMU pool provider for the Spheric Runtime Interface."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status. Letters that the terminal does not have are no reason to fail."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    status = run(sys.argv[1:] if argv is None else argv)
    try:
        sys.stdout.flush()
    except OSError as error:
        status = status if error.errno == errno.EPIPE else _unwritten(error)
    sys.exit(status)


def run(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    try:
        status = sri_libvirt.main(list(argv), prog_name="sri-libvirt", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except click.UsageError as error:
        usage = io.StringIO()
        error.show(usage)
        click.echo(printable.lines(usage.getvalue()), nl=False, err=True)
        return 2
    except click.ClickException as error:
        return _failed(error.format_message())
    except NotReady as error:
        return _failed(f"{error}. {error.advice}" if error.advice else str(error))
    except SRIError as error:
        return _failed(str(error))
    except PermissionError as error:
        return _failed(f"{error.filename}: {error.strerror}: this is for root")
    except OSError as error:
        if error.filename is None and error.errno in _UNWRITTEN:
            return _unwritten(error)
        raise
    except (click.Abort, KeyboardInterrupt):
        return 130


def _unwritten(error: OSError) -> int:
    """What was to be printed did not go, or not all of it."""
    # Python would try once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return _failed(f"standard output: {error.strerror}: not everything was written")


def _failed(message: str) -> int:
    click.echo(f"sri-libvirt: {printable.lines(message)}", err=True)
    return 1
