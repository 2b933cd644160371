"""The settings that a daemon runs with, kept beside its lock: commands go by them, and not by what they would be given.

A flag on the daemon's own command line, a unit's drop-in or a file that was changed since are known to nobody else.
What a setting means, and where it comes from otherwise, does not belong here (`config.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sri_libvirt import __version__, config, statedir
from sri_libvirt.config import Settings
from sri_libvirt.paths import StatePaths, install, unfinished


@dataclass(frozen=True, slots=True)
class Effective:
    """What one daemon runs with. `values` are parsed, by name; `started` is of the wall clock, in nanoseconds."""

    version: str
    pid: int
    started: int
    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


def keep(paths: StatePaths, settings: Settings, now: int) -> None:
    """Write down what this process runs with. For the one who has the lock. Raises OSError."""
    kept = {
        option.name: {"value": option.written(getattr(settings, option.name)), "source": settings.sources[option.name]}
        for option in config.OPTIONS
    }
    made = unfinished(paths.settings)
    made.write_text(json.dumps({"version": __version__, "pid": os.getpid(), "started": now, "settings": kept}))
    install(made, paths.settings)


def of_daemon(paths: StatePaths) -> Effective | None:
    """What the daemon that runs on this state directory has kept; None where none runs, or where that cannot be read.

    What another version has written of settings that are not known here is left out.
    """
    if statedir.is_held(paths) is False:
        return None
    try:
        found = json.loads(paths.settings.read_text())
        if str(found["pid"]) != paths.lock.read_text().strip():
            return None  # of the one before, which had the lock until a moment ago
        values, sources = {}, {}
        for name, each in found["settings"].items():
            if name in config.BY_NAME:
                values[name], sources[name] = config.BY_NAME[name].of_toml(each["value"]), str(each["source"])
        return Effective(str(found["version"]), int(found["pid"]), int(found["started"]), values, sources)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
