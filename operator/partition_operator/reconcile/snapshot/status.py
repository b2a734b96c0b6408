"""The next status of a PartitionSnapshot, drafted from the last one."""

import datetime as dt
from typing import Any

from partition_operator.api.snapshot import Snapshot, State
from partition_operator.api.times import stamp
from partition_operator.reconcile.partition.conditions import Condition, Event

TYPES = ("Queued", "Running", "Succeeded", "Failed", "Verified", "Available")
"""In the order in which they stand in status."""


def written(
    condition: Condition, old: dict[str, Any] | None, now: dt.datetime, generation: int
) -> dict[str, Any]:
    """As it stands in status; its time changes with its status alone."""
    value = {True: "True", False: "False", None: "Unknown"}[condition.status]
    return {
        "type": condition.type,
        "status": value,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": old["lastTransitionTime"]
        if old and old["status"] == value
        else stamp(now),
        "observedGeneration": generation,
    }


class Draft:
    """Fields and conditions that are not set stay as they were; times change with status alone."""

    def __init__(self, snapshot: Snapshot, now: dt.datetime) -> None:
        self._snapshot = snapshot
        self._now = now
        old = snapshot.status
        self._fields = {k: v for k, v in old.items() if k != "conditions"}
        self._conditions = {c["type"]: c for c in old.get("conditions") or []}
        self.events: list[Event] = []
        self.partition_events: list[Event] = []

    def set(self, **fields: Any) -> None:
        """None removes a field."""
        for name, value in fields.items():
            if value is None:
                self._fields.pop(name, None)
            else:
                self._fields[name] = value

    def get(self, name: str) -> Any:
        return self._fields.get(name)

    def reason(self, kind: str) -> str:
        """Of a condition, as it is now; "" if there is none."""
        return str(self._conditions.get(kind, {}).get("reason", ""))

    def condition(self, kind: str, status: bool | None, reason: str, message: str) -> None:
        self._conditions[kind] = written(
            Condition(kind, status, reason, message),
            self._conditions.get(kind),
            self._now,
            self._snapshot.generation,
        )

    def queued(self, reason: str, message: str) -> None:
        self.set(state=str(State.QUEUED), message=message, phase=None)
        self.condition("Queued", True, reason, message)
        self.condition("Running", False, reason, message)
        self.condition("Succeeded", None, reason, message)

    def running(self, message: str) -> None:
        self.set(state=str(State.RUNNING), message=message)
        self.condition("Queued", False, "Started", "it has been started")
        self.condition("Running", True, "Running", message)
        self.condition("Succeeded", None, "Running", message)

    def succeeded(self, message: str) -> None:
        self.set(state=str(State.SUCCEEDED), message=message, percent=100, phase=None)
        self.condition("Queued", False, "Succeeded", "it has ended")
        self.condition("Running", False, "Succeeded", "it has ended")
        self.condition("Succeeded", True, "Succeeded", message)

    def failed(self, reason: str, message: str) -> None:
        """An end: status says why, and an event on both objects does."""
        text = f"{reason}: {message}"
        self.set(state=str(State.FAILED), message=text, completionTime=stamp(self._now), phase=None)
        self.condition("Queued", False, "Failed", "it has ended")
        self.condition("Running", False, "Failed", "it has ended")
        self.condition("Succeeded", False, reason, message)
        self.condition("Failed", True, reason, message)
        self.event("Warning", "SnapshotFailed", text, both=True)

    def event(self, kind: str, reason: str, message: str, *, both: bool = False) -> None:
        self.events.append(Event(kind, reason, message))
        if both:
            about = f"{self._snapshot.name}: {message}"
            self.partition_events.append(Event(kind, reason, about))

    def body(self) -> dict[str, Any]:
        found = [self._conditions[kind] for kind in TYPES if kind in self._conditions]
        return self._fields | {
            "observedGeneration": self._snapshot.generation,
            "conditions": found,
        }
