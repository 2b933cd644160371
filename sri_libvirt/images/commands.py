"""What an operator asks of the image cache: by the admin socket of a daemon that runs, or in its place where none does.

Commands take and give what JSON can hold, and are blocking. What is said to people does not belong here (cli/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sri_libvirt.errors import UNDER_WAY, FailedPrecondition, InvalidSpec, NotReady
from sri_libvirt.images.cache import Books, Cache
from sri_libvirt.images.collecting import Collector
from sri_libvirt.images.parts import parts_of
from sri_libvirt.images.pulling import Pulling
from sri_libvirt.images.reference import parse
from sri_libvirt.records import SECOND

NOBODY = ""
"""Who waits for a pull that is for no machine: nobody is woken by it."""


@dataclass(frozen=True, slots=True)
class ImageCommands:
    """See the methods for their arguments. All raise InvalidSpec for wrong ones."""

    cache: Cache
    books: Books
    pulling: Pulling
    collector: Collector
    clock: Callable[[], int]

    def table(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """By the name of each."""
        return {
            "images": self.listed,
            "images-pull": self.pull,
            "images-prune": self.prune,
            "images-check": self.check,
        }

    def listed(self, _: Mapping[str, Any]) -> dict[str, Any]:
        """All files of the cache, the longest unused first, and what is being fetched."""
        now = self.clock()
        files = [
            {
                "source": image.source,
                "file": str(self.cache.path(image)),
                "digest": image.digest,
                "format": image.format,
                "bytes": image.size,
                "machines": machines,
                "unused_seconds": max(now - image.used, 0) // SECOND if not machines else 0,
            }
            for image, machines in self.books.images()
        ]
        pulls = [
            {"source": pace.source, "bytes": pace.done, "of": pace.of, "seconds": max(now - pace.since, 0) // SECOND}
            for pace in self.pulling.pace()
        ]
        return {"files": files, "pulls": pulls, "bytes": self.cache.held()}

    def pull(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """One step of having an `image` here: its `reference` by content once that is known, whether it is `ready`, and
        how far it is. To be asked again until then. With `anew` it is tried at once, whatever failed before.

        Raises FailedPrecondition with why it cannot be had now.
        """
        image = arguments.get("image")
        if not isinstance(image, str):
            raise InvalidSpec("image", "must be a reference")
        try:
            wanted = parse(image)
        except ValueError as error:
            raise InvalidSpec("image", str(error)) from error
        reference = None
        if arguments.get("anew") is True:
            self.pulling.forgive()
        try:
            pin = self.pulling.means(wanted, NOBODY)
            reference = pin.reference
            missing = [part for part in parts_of(pin).values() if self.cache.find(part.name) is None]
            if missing:
                raise self.pulling.fetch(missing, NOBODY)
        except NotReady as error:
            if error.code != UNDER_WAY:
                raise FailedPrecondition(f"{error}. {error.advice}") from error
            pace = [each for each in self.pulling.pace() if each.source in (reference, str(wanted))]
            done, of = sum(each.done for each in pace), [each.of for each in pace]
            return {"reference": reference, "ready": False, "bytes": done, "of": sum(filter(None, of)) or None}
        return {"reference": reference, "ready": True, "bytes": None, "of": None}

    def prune(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Give up what no machine needs: what is too old, or `all` of it."""
        return {"bytes": self.collector.prune(everything=arguments.get("all") is True)}

    def check(self, _: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Hash all files anew."""
        return [
            {"source": found.image.source, "digest": found.image.digest, "problem": found.problem or None}
            for found in self.cache.check()
        ]
