"""Between records and rows: messages as their bytes, small records as JSON columns.

Messages are serialised deterministically, so that an equal one does not look changed; bytes are never compared to
decide anything else. SQL does not belong here.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sri_libvirt import devices
from sri_libvirt.errors import StoreError
from sri_libvirt.records import (
    Attachment,
    ClassPolicy,
    Departed,
    Event,
    Machine,
    MachineClass,
    Profile,
    Reason,
    Run,
    StopCause,
    StopEvent,
    Stranger,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message  # who asks for sums only does not wait for protobuf


def message(value: Message) -> bytes:
    """The bytes of a message."""
    return value.SerializeToString(deterministic=True)


def record(value: Profile | Run | StopEvent | MachineClass) -> str:
    """A record as a JSON object."""
    return json.dumps(value, sort_keys=True, default=_fields)


def strings(value: dict[str, str]) -> str:
    """Labels or annotations."""
    return json.dumps(value, sort_keys=True)


def reasons(value: Iterable[Reason]) -> str:
    """Reasons, in their order."""
    return json.dumps(list(value), default=_fields)


def reasons_of(text: str) -> list[Reason]:
    """The reasons of a column; none of one that cannot be read."""
    try:
        return [Reason(**reason) for reason in json.loads(text)]
    except (ValueError, TypeError):
        return []


def backing(value: devices.Backing | None) -> str | None:
    """A backing, None for not prepared."""
    return None if value is None else devices.to_json(value)


def pin(value: devices.ImagePin | None) -> str | None:
    """What an image reference meant, None where nobody has asked."""
    return None if value is None else devices.pin_to_json(value)


def _fields(value: Any) -> dict[str, Any]:
    """A record's fields. dataclasses.asdict copies them deeply, at ten times the cost."""
    return {name: getattr(value, name) for name in value.__slots__}


@lru_cache(maxsize=256)  # many machines are of one class
def _class(text: str) -> MachineClass:
    data: dict[str, Any] = json.loads(text)
    return MachineClass(**{**data, "policy": ClassPolicy(**data["policy"])})


@lru_cache(maxsize=256)
def _profile(text: str) -> Profile:
    return Profile(**json.loads(text))


def _run(text: str) -> Run:
    data: dict[str, Any] = json.loads(text)
    stopped, ending = data["stopped"], data.get("ending")  # which older versions did not know
    strangers = data.get("strangers", ())
    return Run(
        **{
            **data,
            "stopped": stopped and StopCause(stopped),
            "ending": ending and StopCause(ending),
            "strangers": None if strangers is None else tuple(Stranger(**each) for each in strangers),
        }
    )


def attachment(row: sqlite3.Row) -> Attachment:
    """The attachment of a row that has all its columns."""
    values = {key: row[key] for key in row.keys()}  # noqa: SIM118 (iterating a Row gives its values)
    held, image = values.pop("backing"), values.pop("image")
    return Attachment(
        **values | {"wanted": bool(values["wanted"])},
        backing=None if held is None else devices.from_json(held),
        image=None if image is None else devices.pin_from_json(image),
    )


def machine(row: sqlite3.Row, attachments: Iterable[sqlite3.Row]) -> Machine:
    """The machine of its row and its attachments' rows. Raises StoreError, naming it, when they cannot be read."""
    from google.protobuf.message import DecodeError

    from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb

    try:
        return Machine(
            id=row["id"],
            labels=json.loads(row["labels"]),
            annotations=json.loads(row["annotations"]),
            spec=pb.MachineSpec.FromString(row["spec"]),
            status=pb.MachineStatus.FromString(row["status"]),
            generation=row["generation"],
            observed_generation=row["observed_generation"],
            created_at=row["created_at"],
            deleted_at=row["deleted_at"],
            power_at=row["power_at"],
            machine_class=_class(row["class"]),
            profile=None if row["profile"] is None else _profile(row["profile"]),
            run=_run(row["run"]),
            stop_event=None if row["stop_event"] is None else StopEvent(**json.loads(row["stop_event"])),
            reasons=tuple(Reason(**reason) for reason in json.loads(row["reasons"])),
            unconfirmed_since=row["unconfirmed_since"],
            attachments=tuple(attachment(each) for each in attachments),
            sequence=row["sequence"],
        )
    except (ValueError, TypeError, KeyError, DecodeError) as error:
        raise StoreError(
            f"the record of machine {row['id']} is damaged ({type(error).__name__}): "
            "stop the daemon and put back a backup of the state database (`sri-libvirt store backups` lists them)"
        ) from error


def remembrance(row: sqlite3.Row) -> str:
    """What is kept of a machine that goes, of its row: by what it was called, and how its last guest ended."""
    return json.dumps({
        "namespace": row["namespace"] or "",
        "name": row["name"] or "",
        "machine_class": json.loads(row["class"])["name"],
        "created_at": row["created_at"],
        "run": json.loads(row["run"]),
    })  # fmt: skip


def departed(machine_id: str, at: int, text: str) -> Departed:
    """What `remembrance` has kept; of one that an older version let go, its id and time alone."""
    found = json.loads(text)
    run = found.pop("run", None)
    return Departed(id=machine_id, gone_at=at, **found, run=None if run is None else _run(json.dumps(run)))


def event(row: sqlite3.Row) -> Event:
    """The event of its row."""
    return Event(
        kind=row["kind"],
        reason=row["reason"],
        message=row["message"],
        time=row["time"],
        took=row["took"],
        machine=row["machine"],
        count=row["count"],
        last=row["last"],
        measure=row["measure"],
    )
