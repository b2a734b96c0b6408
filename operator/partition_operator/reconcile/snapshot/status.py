"""Builds the next status of a PartitionSnapshot from the last one."""

import datetime as dt
from typing import Unpack, cast

from partition_operator.api import schema
from partition_operator.api.events import Event
from partition_operator.api.snapshot import Snapshot, SnapshotState
from partition_operator.api.times import stamp
from partition_operator.api.words import EventKind, SnapshotCondition
from partition_operator.reconcile.partition.conditions import Condition, written

TYPES: tuple[SnapshotCondition, ...] = (
    "Queued",
    "Running",
    "Succeeded",
    "Failed",
    "Verified",
    "Available",
)
"""The types of conditions, in their order in status."""


class Draft:
    """The next status. Fields and conditions that are not set keep their values. A transition time
    changes only if its status changes."""

    def __init__(self, snapshot: Snapshot, now: dt.datetime) -> None:
        self._snapshot = snapshot
        self._now = now
        old = snapshot.status
        self.fields = old.copy()
        """All fields but the conditions."""
        self.fields.pop("conditions", None)
        self._conditions = {c["type"]: c for c in old.get("conditions") or []}
        self.events: list[Event] = []
        self.partition_events: list[Event] = []

    def set(self, **fields: Unpack[schema.PartitionSnapshotStatus]) -> None:
        self.fields |= fields

    def drop(self, *fields: str) -> None:
        kept = {name: value for name, value in self.fields.items() if name not in fields}
        self.fields = cast(schema.PartitionSnapshotStatus, kept)

    def reason(self, kind: SnapshotCondition) -> str:
        """Returns the present reason of a condition; "" if there is no such condition."""
        found = self._conditions.get(kind)
        return found["reason"] if found is not None else ""

    def condition(
        self, kind: SnapshotCondition, status: bool | None, reason: str, message: str
    ) -> None:
        self._conditions[kind] = written(
            Condition(kind, status, reason, message),
            self._conditions.get(kind),
            self._now,
            self._snapshot.generation,
        )

    def queued(self, reason: str, message: str) -> None:
        self.set(state=str(SnapshotState.QUEUED), message=message)
        self.drop("phase")
        self.condition("Queued", True, reason, message)
        self.condition("Running", False, reason, message)
        self.condition("Succeeded", None, reason, message)

    def running(self, message: str) -> None:
        self.set(state=str(SnapshotState.RUNNING), message=message)
        self.condition("Queued", False, "Started", "the snapshot has started")
        self.condition("Running", True, "Running", message)
        self.condition("Succeeded", None, "Running", message)

    def succeeded(self, message: str) -> None:
        self.set(state=str(SnapshotState.SUCCEEDED), message=message, percent=100)
        self.drop("phase")
        self.condition("Queued", False, "Succeeded", "the snapshot has ended")
        self.condition("Running", False, "Succeeded", "the snapshot has ended")
        self.condition("Succeeded", True, "Succeeded", message)

    def failed(self, reason: str, message: str) -> None:
        """Sets the state to Failed. An event on both objects contains the reason."""
        text = f"{reason}: {message}"
        self.set(state=str(SnapshotState.FAILED), message=text, completionTime=stamp(self._now))
        self.drop("phase")
        self.condition("Queued", False, "Failed", "the snapshot has ended")
        self.condition("Running", False, "Failed", "the snapshot has ended")
        self.condition("Succeeded", False, reason, message)
        self.condition("Failed", True, reason, message)
        self.event("Warning", "SnapshotFailed", text, both=True)

    def event(self, kind: EventKind, reason: str, message: str, *, both: bool = False) -> None:
        self.events.append(Event(kind, reason, message))
        if both:
            about = f"{self._snapshot.name}: {message}"
            self.partition_events.append(Event(kind, reason, about))

    def body(self) -> schema.PartitionSnapshotStatus:
        found = [self._conditions[kind] for kind in TYPES if kind in self._conditions]
        return self.fields | {
            "observedGeneration": self._snapshot.generation,
            "conditions": found,
        }
