"""`sri-libvirt config`: the settings, and where each comes from."""

from __future__ import annotations

import click

from sri_libvirt import config, effective
from sri_libvirt.cli import output as out
from sri_libvirt.cli.options import settings as settings_options
from sri_libvirt.cli.options import words
from sri_libvirt.config import Settings
from sri_libvirt.effective import Effective
from sri_libvirt.paths import StatePaths
from sri_libvirt.views.show import timestamp


@click.command("config")
@click.option("--changed", is_flag=True, help="Only those that are not left at their default.")
@settings_options("state_dir")
@out.form("table", "json", "yaml")
def configuration(settings: Settings, output: str, *, changed: bool) -> None:
    """Show the settings that the provider runs with, and where each comes from.

    While none runs they are those that `serve` would have without flags, as this process finds its environment and its
    file.
    """
    daemon = effective.of_daemon(StatePaths(settings.state_dir))
    sources = {**settings.sources, **(daemon.sources if daemon else {})}
    chosen = [each for each in config.OPTIONS if not changed or sources[each.name] != config.DEFAULT]
    if output == "table":
        if daemon is None:
            out.warn("no provider runs whose settings could be read: these are what `serve` would find here")
        else:
            out.warn(f"{_who(daemon)} runs with these since {timestamp(daemon.started)}")
        rows = [(each.name, words(each.written(getattr(settings, each.name))), sources[each.name]) for each in chosen]
        out.table(("SETTING", "VALUE", "FROM"), rows)
        return
    shown = {
        each.name: {"value": each.written(getattr(settings, each.name)), "source": sources[each.name]}
        for each in chosen
    }
    provider = daemon and {"version": daemon.version, "pid": daemon.pid, "started": timestamp(daemon.started)}
    out.data({"provider": provider, "settings": shown}, output)


def _who(daemon: Effective) -> str:
    return f"sri-libvirt {daemon.version} (process {daemon.pid})"
