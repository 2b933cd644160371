"""What of this host a volume may name: what the operator lists, and nothing by default.

A path is somebody else's string. So what lies outside of what is listed is refused by its words alone, without a look
that would tell what is there; a link that leads outside is refused with the same words. Links are followed once, here,
and QEMU is given the path that they led to; who can put links into a listed directory is its operator's to say.
File systems may hang, so each look can be left behind (`looks.py`). What a driver looks for does not belong here.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sri_libvirt.errors import NotReady
from sri_libvirt.looks import Looks
from sri_libvirt.paths import barred, unspeakable

LATER = "It is looked for every few seconds."

Check = Callable[[Path, os.stat_result], None]
"""A look at what a path has led to. Raises NotReady or OSError."""


@dataclass(frozen=True, slots=True)
class AllowedDirectories:
    """Directories of the operator's, by the flag that lists them. `noun` is what volumes may name below them.

    What lies below one of `closed` is the provider's, wherever the operator's directories are. `qemu_user` tells the
    number of the user as whom QEMU opens it, None while that is not known.
    """

    noun: str
    flag: str
    directories: Sequence[Path]
    looks: Looks
    closed: Sequence[Path] = ()
    qemu_user: Callable[[], int | None] = lambda: None

    def find(self, path: str, check: Check, aspect: str = "") -> Path:
        """Where a path leads, once `check` has found it fit. Raises NotReady. `aspect` tells checks apart."""
        directory = next((each for each in self.directories if Path(path).is_relative_to(each)), None)
        if directory is None:
            raise self._refusal(path)
        place = f"the {self.noun} directory {directory}"
        what = f"looking at the {self.noun} {path}"
        return self.looks.result(place, (path, aspect), what, lambda: self._look(path, check))

    def _look(self, path: str, check: Check) -> Path:
        resolved = Path(os.path.realpath(path))
        if not _is_below(resolved, self.directories) or _is_below(resolved, self.closed):
            raise self._refusal(path)
        if found := unspeakable(resolved):
            problem = f"the path of the {self.noun} {path} holds {found}, which libvirt cannot be told"
            raise NotReady(problem, "Rename it.")
        try:
            check(resolved, resolved.stat(follow_symlinks=False))
            user = self.qemu_user()
            directory = barred(resolved, user)
        except FileNotFoundError:
            raise NotReady(f"the {self.noun} {path} is not there (yet)", LATER) from None
        except OSError as error:
            raise NotReady(f"the {self.noun} {path} cannot be looked at: {error.strerror}") from error
        if directory is not None:
            problem = f"QEMU's user ({user}) cannot pass the directory {directory} of the {self.noun} {path}"
            raise NotReady(problem, f"chmod o+x {shlex.quote(str(directory))}, or put the {self.noun} elsewhere.")
        return resolved

    def _refusal(self, path: str) -> NotReady:
        return NotReady(
            f"the {self.noun} {path} is not below a directory that volumes may name",
            f"The operator lists them with {self.flag} (now: {', '.join(map(str, self.directories)) or 'none'}).",
        )


def _is_below(path: Path, directories: Sequence[Path]) -> bool:
    return any(path.is_relative_to(os.path.realpath(each)) for each in directories)


def matches(path: str, pattern: str) -> bool:
    """Whether a path is one of a pattern's: `*`, `?` and `[…]` stand for characters of one name, never for a slash."""
    names, patterns = path.split("/"), pattern.split("/")
    return len(names) == len(patterns) and all(map(fnmatch.fnmatchcase, names, patterns))
