"""Whether an empty store is the right one: an empty state directory may be a disk that was not mounted.

What an empty store lists is nothing, and who drives us takes that for the end of all machines: each is made a second
time beside the guest that runs, each volume is given to somebody else. So libvirt is asked first whether domains of
another store have their files below this very directory. Until it has answered, and while there are such, no RPC tells
or changes anything of machines. Which RPCs those are does not belong here (server/service.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from sri_libvirt.domain import observed as domain_view
from sri_libvirt.errors import ConfigError, SRIError
from sri_libvirt.hypervisor.base import Connection
from sri_libvirt.records import META_DOUBT
from sri_libvirt.store.store import Store

log = structlog.get_logger(__name__)

PERIOD = 2.0
"""Seconds between two questions; whoever would drive us waits for the answer."""

META_BESIDE = "beside"
"""Key in the store: an operator has let it begin beside the domains of another one."""

_SHOWN = 5


class Beginning(threading.Thread):
    """Asks until an empty store may begin, on a thread of its own: a hung libvirt delays nobody.

    `refused` says why it may not, once that is known; `words` also that it is not known yet. Both are "" of a store
    that has begun, or has machines. `changed` is told of other words. Safe from any thread.
    """

    def __init__(
        self, store: Store, root: Path, connect: Callable[[], Connection], changed: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(name="beginning", daemon=True)
        self._store = store
        self._root = root
        self._connect = connect
        self._changed = changed
        self._ending = threading.Event()
        empty = not store.machine_ids() and not store.meta(META_BESIDE)
        self.words = (
            "this store is empty, and libvirt has not been asked yet whether it is the right one" if empty else ""
        )
        self.refused = ""
        self.asked = threading.Event()
        """Set once libvirt was asked for the first time, whatever it said."""

    def beside(self) -> None:
        """Let it begin beside whatever there is. Raises ConfigError when it has begun: nobody may do so for ever."""
        if not self.words:
            raise ConfigError(f"--new-store: the store in {self._root} is not new: leave it out from now on")
        log.warning("an empty store begins without a question", state_dir=str(self._root))
        self._store.write(lambda tx: tx.set_meta(META_BESIDE, "1"))
        self._tell("", "")

    def start(self) -> None:
        """Ask at once and again until the store may begin; of one that has machines nothing is asked."""
        if self.words:
            super().start()
        else:
            self.asked.set()

    def run(self) -> None:
        while not self._ending.is_set():
            try:
                self.look()
            except Exception:  # a store that fails, too: without this thread the store would never begin
                log.exception("libvirt's word on the empty store is lost; it is asked again")
            self.asked.set()
            if not self.words:
                return
            self._ending.wait(PERIOD)

    def look(self) -> None:
        """Ask once."""
        try:
            others = self._others()
        except SRIError as error:
            self._tell(
                f"this store is empty, and libvirt has not told yet whether domains of another one have their disks "
                f"in {self._root}, as when its file system is not mounted: {error}",
                "",
            )
            return
        if others:
            shown = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
            words = (
                f"{self._root} holds an empty store, but {len(others)} domains of another store have their disks there "
                f"({shown}): probably its file system is not mounted. Mount it and restart the provider; or end "
                "them; or, to begin anew beside them, start once with --new-store"
            )
            self._tell(words, words)
        else:
            self._tell("", "")

    def stop(self) -> None:
        """End the thread soon; one that is stuck in a call of libvirt is left behind."""
        self._ending.set()

    def _others(self) -> list[str]:
        """Domains with the marks of any store, whose files lie here. Raises Unreachable, HypervisorError."""
        connection = self._connect()
        try:
            looked = {each: connection.snapshot(each) for each in sorted(connection.domain_ids())}
        finally:
            connection.close()
        return [
            each
            for each, domain in looked.items()
            if domain
            and domain_view.glance(domain.live_xml or domain.persistent_xml).instance
            and domain_view.names_files_below(self._root, domain.live_xml, domain.persistent_xml)
        ]

    def _tell(self, words: str, refused: str) -> None:
        if words == self.words:
            return
        self._store.write(lambda tx: tx.set_meta(META_DOUBT, words))
        self.words, self.refused = words, refused
        if words:
            log.error("the store may not begin", problem=words)
        else:
            log.info("the store begins")
        self._changed()
