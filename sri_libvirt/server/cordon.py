"""Whether this host takes new machines, and whether it is drained: the operator's word, kept in the store.

A drained host's guests are off and stay so, over restarts and host boots, until it is uncordoned; what each machine
should be is not touched by it, so they come back by themselves then. How a guest is switched off does not belong here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sri_libvirt.store import Store, Transaction  # the capacity report reads the state and does not wait for them

META_KEY = "cordon"


@dataclass(frozen=True, slots=True)
class Cordon:
    """`since` when (0: not at all), `reason` in the operator's words, `drained` since when (0: not)."""

    since: int = 0
    reason: str = ""
    drained: int = 0

    @property
    def words(self) -> str:
        """Why no new machine is taken; "" when they are."""
        if not self.since:
            return ""
        what = "drained" if self.drained else "cordoned"
        because = f" ({self.reason})" if self.reason else ""
        return f"this host is {what}{because} and takes no new machines; `sri-libvirt uncordon` ends that"


def of_text(text: str | None) -> Cordon:
    """What the store says; of one that says nothing: open."""
    return Cordon(**json.loads(text)) if text else Cordon()


def changed(now: Cordon, command: str, reason: str, at: int) -> Cordon:
    """The state after `cordon`, `drain` or `uncordon`. A drained host that is cordoned stays drained."""
    if command == "uncordon":
        return Cordon()
    drained = (now.drained or at) if command == "drain" else now.drained
    return Cordon(now.since or at, reason or now.reason, drained)


def put(tx: Transaction, command: str, reason: str, at: int) -> Cordon:
    """Carry out a command in the store."""
    state = changed(of_text(tx.meta(META_KEY)), command, reason, at)
    tx.set_meta(META_KEY, json.dumps(asdict(state)))
    return state


class CordonKeeper:
    """The state in memory; `told` is called after each change, for every machine may have something to do."""

    def __init__(self, store: Store, clock: Callable[[], int], told: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._told = told
        self.state = of_text(store.meta(META_KEY))

    def command(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The admin command `cordon`, `uncordon` or `drain`; the state after it."""
        reason = str(arguments.get("reason", ""))
        self.state = self._store.write(lambda tx: put(tx, name, reason, self._clock()))
        self._told()
        return asdict(self.state)

    def drained_since(self) -> int:
        """When the host was drained, 0 if it is not."""
        return self.state.drained
