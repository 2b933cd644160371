"""Finding the machine that a user means. Read-only.

What is shown of a machine does not belong here (that is `show.py`).
"""

from __future__ import annotations

from sri_libvirt.errors import NotFound, StoreError
from sri_libvirt.records import Departed, Machine
from sri_libvirt.store import Reader

_SHOWN = 5


def find(reader: Reader, word: str) -> Machine:
    """The machine of this id, unique beginning of an id, `namespace/name` or name. Raises NotFound.

    A name that several machines have means the one that is not being deleted, if there is only one. Tenants choose
    names: one that is the beginning of another's id hides it from nobody, and neither is guessed.
    """
    exact = reader.machine(word)
    if exact is not None:
        return exact
    machines, damaged = reader.readable() if word else ([], {})
    if unreadable := [problem for each, problem in damaged.items() if each.startswith(word)]:
        raise StoreError(unreadable[0])
    matching = [
        each for each in machines if word in (each.name, f"{each.namespace}/{each.name}") or each.id.startswith(word)
    ]
    if len(matching) > 1 and not any(each.id.startswith(word) for each in matching):
        matching = [each for each in matching if not each.deleted_at] or matching
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise NotFound(f"there is no machine {word!r}; see: sri-libvirt machine list")
    ids = ", ".join(each.id for each in matching[:_SHOWN]) + (", …" if len(matching) > _SHOWN else "")
    raise NotFound(f"{word!r} means {len(matching)} machines ({ids}): give more of the id, or namespace/name")


def find_ever(reader: Reader, word: str) -> str:
    """The id of the machine that `find` finds, or of one that is no more. Raises NotFound."""
    try:
        return find(reader, word).id
    except NotFound:
        gone = find_gone(reader, word)
        if gone is None:
            raise
        return gone.id


def find_gone(reader: Reader, word: str) -> Departed | None:
    """The machine that is no more with this id, unique beginning of one, `namespace/name` or name; of those of one name
    that which went last. None if there is none.
    """
    departed = reader.departed()
    by_id = [each for each in departed if each.id == word or (word and each.id.startswith(word))]
    if by_id:
        return by_id[0] if len(by_id) == 1 or by_id[0].id == word else None
    return next((each for each in departed if word and word in (each.name, f"{each.namespace}/{each.name}")), None)
