"""Command line flags for the settings of `config.py`: made from its table, so that they cannot differ from it.

What a setting means does not belong here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from sri_libvirt import config, effective
from sri_libvirt.cli import output as out
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths

F = TypeVar("F", bound=Callable[..., Any])


class _Parsed(click.ParamType):  # type: ignore[type-arg]  # generic in click's types only
    """A value through the table's own parser: a mistake is a usage error that names the flag."""

    def __init__(self, option: config.Option) -> None:
        self.name = option.metavar
        self._option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._option.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Duration(click.ParamType):  # type: ignore[type-arg]  # generic in click's types only
    """A duration as settings have them (30s, 1m30s, 500ms), in nanoseconds."""

    name = "DURATION"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return config.duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def settings(*wanted: str) -> Callable[[F], F]:
    """Give a command these flags (all when none is named: the daemon) and `--config`; it gets `settings`.

    Where a daemon runs, a command's settings are those that it runs with: flags ask "what if", and that is said.
    """
    chosen = [config.BY_NAME[name] for name in wanted] or list(config.OPTIONS)

    def decorate(command: F) -> F:
        @functools.wraps(command)
        def run(*args: Any, config_file: Path | None, **kwargs: Any) -> Any:
            flags = {option.name: kwargs.pop(option.name) for option in chosen}
            loaded = config.load(flags, config=config_file)
            if wanted:
                loaded = _of_daemon(loaded, flags, config_file)
            return command(*args, settings=loaded, **kwargs)

        decorated: Any = run
        for option in reversed(chosen):
            decorated = _flag(option)(decorated)
        help_text = f"TOML file of settings [{config.DEFAULT_FILE}, when it exists]."
        file_type = click.Path(path_type=Path)
        add_config: Any = click.option("--config", "config_file", type=file_type, metavar="FILE", help=help_text)
        return cast(F, add_config(decorated))

    return decorate


def _of_daemon(loaded: Settings, flags: Mapping[str, Any], file: Path | None) -> Settings:
    """The same settings, but those that the daemon runs with where nothing else was asked for."""
    daemon = effective.of_daemon(StatePaths(loaded.state_dir))
    if daemon is None:
        return loaded
    found = config.load(flags, config=file, effective=daemon.values)
    asked = [
        f"{option.flag} {words(option.written(getattr(found, option.name)))}, not {words(option.written(value))}"
        for option in config.OPTIONS
        if found.sources[option.name] != config.RUNNING
        and option.name in daemon.values
        and (value := daemon.values[option.name]) != getattr(found, option.name)
    ]
    if asked:
        out.warn(f"what if: the provider does not run so: {'; '.join(asked)}")
    return found


def words(written: Any) -> str:
    """A setting's value as a user writes it."""
    if isinstance(written, list):
        return " ".join(written) or '""'
    return str(written).lower() if isinstance(written, bool) else written or '""'


def _flag(option: config.Option) -> Callable[[Any], Any]:
    shown = f"  [{option.default}]" if option.default and not option.is_switch else ""
    text = f"{option.help}{shown}"
    if option.is_switch:
        return click.option(f"{option.flag}/--no-{option.flag[2:]}", option.name, default=None, help=text)
    return click.option(
        option.flag,
        option.name,
        type=_Parsed(option),
        default=None,
        multiple=option.multiple,
        metavar=option.metavar,
        help=text,
    )
