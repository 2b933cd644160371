"""What one piece of work may read and write. SQL only: whether something may be is the caller's to decide.

Two writers with columns of their own, so that neither loses the other's update (design, "What is stored"): RPCs own
spec, generation, annotations, power and `wanted`; the loop owns status, run, profile, backing and port. The frame is
rebuilt, once, at the end of any work that touched what it shows. An update that changes nothing writes nothing.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sri_libvirt import devices, names
from sri_libvirt.api.machine.v1alpha1 import api_pb2 as pb
from sri_libvirt.errors import NotFound
from sri_libvirt.records import (
    LABEL_NAME,
    LABEL_NAMESPACE,
    LABEL_UID,
    Attachment,
    CachedImage,
    Event,
    Key,
    Machine,
    Profile,
    Reason,
    Run,
    StopEvent,
)
from sri_libvirt.resources import Claim, Usage
from sri_libvirt.store import codec, images, queries, timeline
from sri_libvirt.store.frames import Frame, Listing

_UNSEEN = frozenset({"run", "profile", "reasons", "unconfirmed_since"})
"""Columns that no frame shows."""


class Transaction:
    """One work's view of the store; valid only while the work runs, on the writer's thread.

    `pending` holds the frames, `usage` the sums of claims, of works that come before it in the same commit.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        listing: Listing,
        pending: Mapping[str, Frame | None],
        clock: Callable[[], int],
        usage: Usage,
    ) -> None:
        self._connection = connection
        self._listing = listing
        self._pending = pending
        self._clock = clock
        self.usage = usage
        """What is claimed with what this work has done so far."""
        self.events: list[tuple[str, Event]] = []
        """Lines that timelines have got by this work, with the machine of each."""
        self.changed: set[str] = set()
        """Machines that this work may have changed anything of, in their timeline too."""
        self._touched: set[str] = set()
        self._frames: dict[str, Frame | None] = {}

    def finish(self) -> Mapping[str, Frame | None]:
        """Rebuild the frames of what was touched; returns all that this work changed. Called by the writer."""
        for machine_id in self._touched:
            machine = queries.machine(self._connection, machine_id, devices=False)
            frame = None if machine is None else Frame.of(machine)
            self._frames[machine_id] = frame
            if frame is not None:
                self._connection.execute(
                    "UPDATE machine SET frame = ?1 WHERE id = ?2 AND frame <> ?1", (frame.data, machine_id)
                )
        self._touched.clear()
        return self._frames

    # Reading

    def machine(self, machine_id: str) -> Machine | None:
        """The machine as this work sees it."""
        return queries.machine(self._connection, machine_id)

    def attachment(self, machine_id: str, key: Key) -> Attachment | None:
        """One device of a machine as this work sees it."""
        return queries.attachment(self._connection, machine_id, key)

    def machines(self) -> list[Machine]:
        """All machines as this work sees them, oldest first."""
        return queries.machines(self._connection)

    def find_uid(self, uid: str) -> Machine | None:
        """The machine that carries the poollet's three labels and this uid (contract G.1)."""
        row = self._connection.execute(
            "SELECT id FROM machine WHERE uid = ? AND namespace IS NOT NULL AND name IS NOT NULL", (uid,)
        ).fetchone()
        return None if row is None else self.machine(row["id"])

    def mac_owner(self, mac: str) -> tuple[str, str] | None:
        """The machine and network interface that hold a MAC, plugged or not."""
        return queries.mac_owner(self._connection, mac)

    def machines_on(self, network: str) -> list[str]:
        """Ids of the machines that have a network interface prepared for a libvirt network."""
        rows = self._connection.execute(
            "SELECT DISTINCT machine FROM attachment WHERE kind = 'nic' AND json_extract(backing, '$.network') = ?",
            (network,),
        )
        return [row["machine"] for row in rows]

    def listing_most(self) -> int:
        """What the whole list reply can come to with what this work has done so far (`Frame.most`)."""
        self.finish()
        changed = {**self._pending, **self._frames}
        before = sum(old.most for old in map(self._listing.get, changed) if old)
        return self._listing.most - before + sum(frame.most for frame in changed.values() if frame)

    def holder(self, disk: devices.DiskSource, besides: str) -> str:
        """The machine, other than that one, that has this disk ready as a volume, wanted or not; "" for none."""
        return queries.holder(self._connection, disk.handle, disk.identity, besides)

    def mac_user(self, mac: str, besides: Attachment) -> tuple[str, str] | None:
        """The machine and network interface, of another name or machine, that has this MAC ready, wanted or not."""
        return queries.mac_user(self._connection, mac, besides.machine, besides.name, ready=True)

    def address_user(self, backend: devices.NicBackend, besides: Attachment) -> tuple[str, str, str] | None:
        """An address of it that such another one has ready on the same link, and which that is."""
        return queries.address_user(self._connection, backend, besides.machine, besides.name)

    def holds(self, machine_id: str, holder: str) -> bool:
        """Whether a machine has anything for this holder; at the cost of one look, however much it has."""
        found = self._connection.execute(
            "SELECT 1 FROM claim WHERE machine = ? AND holder = ? LIMIT 1", (machine_id, holder)
        )
        return found.fetchone() is not None

    def unclaimed(self) -> list[str]:
        """Ids of machines whose class claims nothing: those of an older version."""
        return queries.unclaimed(self._connection)

    def unconfirmed(self) -> list[str]:
        """Ids of machines of a restored backup that nobody has confirmed yet."""
        return queries.unconfirmed(self._connection)

    def meta(self, key: str) -> str | None:
        """A value of the store as a whole."""
        return queries.meta(self._connection, key)

    # Written by RPCs

    def insert(self, machine: Machine) -> None:
        """A new machine with its attachments."""
        values = {
            "id": machine.id,
            "uid": machine.labels.get(LABEL_UID),
            "namespace": machine.labels.get(LABEL_NAMESPACE),
            "name": machine.labels.get(LABEL_NAME),
            "labels": codec.strings(machine.labels),
            "annotations": codec.strings(machine.annotations),
            "spec": codec.message(machine.spec),
            "class": codec.record(machine.machine_class),
            "generation": machine.generation,
            "created_at": machine.created_at,
            "deleted_at": machine.deleted_at,
            "power_at": machine.power_at,
            "status": codec.message(machine.status),
            "observed_generation": machine.observed_generation,
            "profile": None if machine.profile is None else codec.record(machine.profile),
            "run": codec.record(machine.run),
            "stop_event": None if machine.stop_event is None else codec.record(machine.stop_event),
            "reasons": codec.reasons(machine.reasons),
            "unconfirmed_since": machine.unconfirmed_since,
            "frame": b"",
        }
        self._insert("machine", values)
        self._touched.add(machine.id)
        self.usage = self.usage.with_machine(machine.machine_class.name)
        for attachment in machine.attachments:
            self.put_attachment(attachment)

    def set_spec(self, machine_id: str, spec: pb.MachineSpec, generation: int, power_at: int | None = None) -> None:
        """A changed spec, its generation, and when its power changed if it did."""
        values: dict[str, Any] = {"spec": codec.message(spec), "generation": generation}
        self._update(machine_id, **values, **({} if power_at is None else {"power_at": power_at}))

    def set_annotations(self, machine_id: str, annotations: dict[str, str]) -> None:
        """The whole map anew."""
        self._update(machine_id, annotations=codec.strings(annotations))

    def set_deleted(self, machine_id: str, at: int) -> None:
        """The machine is to go."""
        self._update(machine_id, deleted_at=at)

    def set_unconfirmed(self, machine_id: str, since: int) -> None:
        """Since when its wishes are those of a restored backup and not confirmed; 0 once they are."""
        self._update(machine_id, unconfirmed_since=since)

    def put_attachment(self, attachment: Attachment) -> None:
        """A new incarnation of a device."""
        fields = {name: getattr(attachment, name) for name in Attachment.__slots__}
        plain = {"backing": codec.backing(attachment.backing), "image": codec.pin(attachment.image)}
        self._insert("attachment", {**fields, "wanted": int(attachment.wanted), **plain})
        self.changed.add(attachment.machine)

    def set_wanted(self, machine_id: str, key: Key, wanted: bool, changed_at: int, spec: bytes | None = None) -> None:
        """Whether a device should be plugged, and its spec if that changed with it."""
        values: dict[str, Any] = {"wanted": int(wanted), "changed_at": changed_at}
        self._update_attachment(machine_id, key, **values, **({} if spec is None else {"spec": spec}))

    # Written by the loop

    def record_pass(
        self,
        machine_id: str,
        *,
        status: pb.MachineStatus,
        run: Run,
        reasons: Sequence[Reason],
        observed_generation: int,
        consumed_stop_at: int = 0,
        events: Sequence[Event] = (),
    ) -> None:
        """What a pass of the loop found. The stop event goes only if it is the one that the pass saw."""
        self._update(
            machine_id,
            status=codec.message(status),
            run=codec.record(run),
            reasons=codec.reasons(reasons),
            observed_generation=observed_generation,
        )
        if consumed_stop_at:
            self._connection.execute(
                "UPDATE machine SET stop_event = NULL WHERE id = ? AND json_extract(stop_event, '$.at') = ?",
                (machine_id, consumed_stop_at),
            )
        for event in events:
            self.add_event(machine_id, event)

    def set_run(self, machine_id: str, run: Run) -> None:
        """What the loop remembers of the guest's run."""
        self._update(machine_id, run=codec.record(run))

    def add_reason(self, machine_id: str, reason: Reason, kind: str) -> None:
        """One more reason until the next pass finds its own, and an event of this kind unless it is there already.

        One that is the same is replaced and goes on from when it began. It is kept even with a record that
        cannot be read. Of a machine that is gone: nothing.
        """
        row = self._connection.execute("SELECT reasons FROM machine WHERE id = ?", (machine_id,)).fetchone()
        if row is None:
            return
        before = codec.reasons_of(row["reasons"])
        old = next((each for each in before if each.identity == reason.identity), None)
        since = old.since if old else reason.since or self._clock()
        kept = [each for each in before if each is not old]
        self._update(machine_id, reasons=codec.reasons([*kept, replace(reason, since=since, told=True)]))
        if old is None:
            took = max(self._clock() - since, 0)
            event = Event(kind=kind, reason=reason.code, message=reason.message, took=took, measure="waited")
            self.add_event(machine_id, event)

    def set_profile(self, machine_id: str, profile: Profile) -> None:
        """What was chosen for the machine at its first define."""
        self._update(machine_id, profile=codec.record(profile))

    def set_ports(self, machine_id: str, ports: Mapping[Key, int]) -> None:
        """Root ports of devices."""
        for key, port in ports.items():
            self._update_attachment(machine_id, key, port=port)

    def set_backing(
        self,
        machine_id: str,
        key: Key,
        backing: devices.Backing | None,
        problem: str = "",
        advice: str = "",
        problem_at: int = 0,
        code: str = "",
    ) -> None:
        """What a device was prepared as, or why it could not be."""
        self._update_attachment(
            machine_id,
            key,
            backing=codec.backing(backing),
            problem=problem,
            problem_advice=advice,
            problem_at=problem_at,
            problem_code=code,
        )

    def set_image(self, machine_id: str, key: Key, pin: devices.ImagePin) -> None:
        """What the machine's image reference means, from now on; what is fetched for it stays as long as it has it."""
        self._update_attachment(machine_id, key, image=codec.pin(pin))
        images.use(self._connection, pin.parts, self._clock())

    def keep_reference(self, name: str, pin: devices.ImagePin) -> None:
        """What a reference by content holds."""
        images.keep_reference(self._connection, name, pin, self._clock())

    def keep_image(self, image: CachedImage) -> None:
        """A file is in the image cache, whole. Of a new one `used` is now; one that was hashed anew was not needed."""
        images.keep(self._connection, replace(image, used=image.used or self._clock()))

    def drop_images(self, choose: Callable[[Sequence[CachedImage]], Sequence[CachedImage]]) -> list[CachedImage]:
        """Forget files of the cache that `choose` takes of those that no machine needs; the oldest are first there.

        Returns those of which nothing by the same digest is left.
        """
        return images.drop(self._connection, choose)

    def forget_image(self, name: str) -> None:
        """A file of the cache is not what it was, or not there any more."""
        images.forget(self._connection, name)

    def retry_held(self) -> list[str]:
        """Let all devices that wait for another machine to give a volume up be tried at once; their machines."""
        waiting = self._connection.execute(
            "UPDATE attachment SET problem_at = 0 WHERE problem_code = 'held' RETURNING machine"
        ).fetchall()
        return [row[0] for row in waiting]

    def retry_links(self) -> set[str]:
        """Let all network interfaces that are not ready, or were refused, be tried at once; their machines."""
        waiting = self._connection.execute(
            "UPDATE attachment SET problem_at = 0 WHERE kind = 'nic' AND wanted AND problem != '' RETURNING machine"
        ).fetchall()
        return {row[0] for row in waiting}

    def set_unplug(self, machine_id: str, key: Key, at: int) -> None:
        """When the guest was last asked to let the device go."""
        self._update_attachment(machine_id, key, unplug_at=at)

    def set_plugged(self, machine_id: str, key: Key, at: int, plugs: int) -> None:
        """When the device was last plugged into a running guest, for the how manieth time in a row."""
        self._update_attachment(machine_id, key, plugged_at=at, plugs=plugs)

    def delete_attachment(self, machine_id: str, key: Key) -> None:
        """A device is gone from guest and spec, its own claims with it. Of one that is gone already: nothing."""
        self._connection.execute(
            "DELETE FROM attachment WHERE machine = ? AND kind = ? AND name = ? AND incarnation = ?", (machine_id, *key)
        )
        self.changed.add(machine_id)
        self.unclaim(machine_id, names.alias(*key))

    def note_stop(self, machine_id: str, stop: StopEvent | None) -> None:
        """What libvirt said of a stop, for the loop's next pass; None takes it back. Of an unknown machine: nothing."""
        noted = None if stop is None else codec.record(stop)
        self._connection.execute("UPDATE machine SET stop_event = ? WHERE id = ?", (noted, machine_id))

    def forget(self, machine_id: str) -> None:
        """Remove the machine, its attachments and its claims; its events stay for a while."""
        self._end_claims("machine = ?", (machine_id,))
        images.use(self._connection, images.pinned_by(self._connection, machine_id), self._clock())
        found = self._connection.execute(
            "DELETE FROM machine WHERE id = ? RETURNING namespace, name, class, created_at, run", (machine_id,)
        ).fetchone()
        if found is not None:
            self.usage = self.usage.with_machine(json.loads(found["class"])["name"], -1)
        remembered = codec.remembrance(found) if found is not None else "{}"
        timeline.machine_gone(self._connection, machine_id, self._clock(), remembered)
        self._touched.add(machine_id)

    # Written by both

    def claim(self, machine_id: str, claims: Sequence[Claim]) -> None:
        """A machine has these from now on. One that it has already stays as it is, whatever its amount."""
        for claim in claims:
            done = self._connection.execute(
                "INSERT OR IGNORE INTO claim (machine, holder, resource, node, amount) VALUES (?, ?, ?, ?, ?)",
                (machine_id, claim.holder, claim.resource, claim.node, claim.amount),
            )
            if done.rowcount:
                self.usage = self.usage.plus([claim])

    def unclaim(self, machine_id: str, holder: str) -> None:
        """A machine has nothing any more of what it had for this holder."""
        self._end_claims("machine = ? AND holder = ?", (machine_id, holder))

    def _end_claims(self, where: str, which: tuple[Any, ...]) -> None:
        ended = self._connection.execute(
            f"DELETE FROM claim WHERE {where} RETURNING resource, amount, node, holder",  # noqa: S608 (our own words)
            which,
        ).fetchall()
        if ended:
            self.usage = self.usage.plus((Claim(*row) for row in ended), -1)

    def add_event(self, machine_id: str, event: Event) -> None:
        """Add a line to the machine's timeline; `time` 0 means now. Of a machine that was never here: nothing."""
        self.changed.add(machine_id)
        if timeline.add(self._connection, machine_id, replace(event, time=event.time or self._clock())):
            self.events.append((machine_id, event))

    def set_meta(self, key: str, value: str) -> None:
        """Set a value of the store as a whole."""
        self._connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def _insert(self, table: str, values: Mapping[str, Any]) -> None:
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))  # noqa: S608

    def _update(self, machine_id: str, **values: Any) -> None:
        if not self._set("machine", "id = ?", (machine_id,), values):
            raise NotFound(f"there is no machine {machine_id}")
        self.changed.add(machine_id)
        if not values.keys() <= _UNSEEN:
            self._touched.add(machine_id)

    def _update_attachment(self, machine_id: str, key: Key, **values: Any) -> None:
        where = "machine = ? AND kind = ? AND name = ? AND incarnation = ?"
        if not self._set("attachment", where, (machine_id, *key), values):
            raise NotFound(f"machine {machine_id} has no {key[0]} {key[1]!r} of incarnation {key[2]}")
        self.changed.add(machine_id)

    def _set(self, table: str, where: str, which: tuple[Any, ...], values: Mapping[str, Any]) -> bool:
        """Set columns unless they are so already, which would cost a sync of the disk; False if there is no row."""
        assign = ", ".join(f"{column} = ?" for column in values)
        differ = " OR ".join(f"{column} IS NOT ?" for column in values)
        given = tuple(values.values())
        done = self._connection.execute(
            f"UPDATE {table} SET {assign} WHERE {where} AND ({differ})",  # noqa: S608 (names are our own)
            (*given, *which, *given),
        )
        if done.rowcount:
            return True
        found = self._connection.execute(f"SELECT 1 FROM {table} WHERE {where}", which)  # noqa: S608
        return found.fetchone() is not None
