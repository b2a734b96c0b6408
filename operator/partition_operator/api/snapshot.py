"""A PartitionSnapshot, and `spec.snapshots` of a Partition, as the operator reads them."""

import datetime as dt
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from partition_operator.api import names, schema, validation
from partition_operator.api.destination import (
    Destination,
    VolumeDestination,
    destination_of,
    parse_stored,
)
from partition_operator.api.durations import parse_duration
from partition_operator.api.rule import Rule
from partition_operator.api.times import parse_stamp
from partition_operator.errors import InvalidSpec


class VerifyMethod(StrEnum):
    """How a snapshot is verified after it was taken."""

    NONE = "None"
    CHECKSUM = "Checksum"
    RESTORE = "Restore"


class SnapshotState(StrEnum):
    """The values of status.state. Queued and Running are in progress; the others are final.
    Removing follows a final state, before the snapshot is deleted from its store."""

    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    VERIFIED = "Verified"
    VERIFY_FAILED = "VerifyFailed"
    FAILED = "Failed"
    REMOVING = "Removing"


STORED = frozenset({SnapshotState.SUCCEEDED, SnapshotState.VERIFIED, SnapshotState.VERIFY_FAILED})
"""States with a snapshot in the destination."""
GOOD = frozenset({SnapshotState.SUCCEEDED, SnapshotState.VERIFIED})


@dataclass(frozen=True, slots=True)
class SnapshotRetention:
    """None means no limit. min_successful: this many good snapshots stay, regardless of their
    age."""

    count: int | None = None
    max_age: dt.timedelta | None = None
    min_successful: int = 1


@dataclass(frozen=True, slots=True)
class SnapshotsSpec:
    """`spec.snapshots`, checked. schedule: "" for none; reconcile/cron.py parses it."""

    schedule: str
    time_zone: str
    deadline: dt.timedelta | None
    suspend: bool
    immediate: bool
    retention: SnapshotRetention
    verify: VerifyMethod
    destination: Destination | None


@dataclass(frozen=True, slots=True)
class SnapshotAsked:
    """`spec` of a PartitionSnapshot, checked. None means that the Partition's value applies."""

    verify: VerifyMethod | None
    destination: Destination | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One PartitionSnapshot, at one resource version. Its spec is parsed once, here."""

    namespace: str
    name: str
    uid: str
    generation: int
    created: dt.datetime
    body: dict[str, Any]
    _asked: SnapshotAsked | InvalidSpec = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The class is frozen, so plain assignment is not possible.
        try:
            object.__setattr__(self, "_asked", parse_snapshot_spec(self.body.get("spec")))
        except InvalidSpec as error:
            object.__setattr__(self, "_asked", error)

    @property
    def kind(self) -> str:
        return names.SNAPSHOT_KIND

    @property
    def status(self) -> schema.PartitionSnapshotStatus:
        return cast(schema.PartitionSnapshotStatus, self.body.get("status") or {})

    @property
    def state(self) -> str:
        """The value of status.state; "" before the operator has written it."""
        return str(self.status.get("state", ""))

    @property
    def ended(self) -> bool:
        return self.state in STORED or self.state in (SnapshotState.FAILED, SnapshotState.REMOVING)

    @property
    def partition(self) -> str:
        spec = self.body.get("spec") or {}
        return str((spec.get("partitionRef") or {}).get("name", ""))

    @property
    def full(self) -> bool:
        return bool((self.body.get("spec") or {}).get("full", False))

    @property
    def pinned(self) -> bool:
        annotations = self.body["metadata"].get("annotations") or {}
        return bool(annotations.get(names.ANNOTATION_PINNED) == "true")

    @property
    def scheduled_at(self) -> dt.datetime | None:
        annotations = self.body["metadata"].get("annotations") or {}
        return parse_stamp(annotations.get(names.ANNOTATION_SCHEDULED_AT))

    @property
    def cluster_id(self) -> str:
        return str(self.status.get("clusterID", ""))

    @property
    def claim(self) -> str:
        """The PersistentVolumeClaim of the volume with the snapshot; "" for none."""
        volume = (self.status.get("destination") or {}).get("volume") or {}
        return str(volume.get("claim", ""))

    @property
    def source_pods(self) -> tuple[str, ...]:
        """Every pod whose volume may have part of the snapshot, the last one first."""
        pods = [self.status.get("sourcePod", ""), *self.status.get("triedPods", [])]
        return tuple(dict.fromkeys(pod for pod in pods if pod))

    @property
    def lost(self) -> bool:
        """Whether the snapshot was lost with its volume."""
        return any(
            c["type"] == "Available" and c["status"] == "False"
            for c in self.status.get("conditions") or []
        )

    @property
    def verifying(self) -> bool:
        """Whether it is stored and its verification has not ended."""
        found = self.status.get("verification") or {}
        return (
            self.state == SnapshotState.SUCCEEDED
            and bool(found)
            and not found.get("completionTime")
        )

    @property
    def started(self) -> dt.datetime | None:
        return parse_stamp(self.status.get("startTime"))

    @property
    def completed(self) -> dt.datetime | None:
        return parse_stamp(self.status.get("completionTime"))

    def asked(self) -> SnapshotAsked:
        """Raises InvalidSpec."""
        if isinstance(self._asked, InvalidSpec):
            raise InvalidSpec(str(self._asked))
        return self._asked

    def stored_in(self) -> Destination | None:
        """Returns its destination as status records it, with the whole prefix of the group's store;
        None if none is recorded."""
        body = self.status.get("destination")
        if not body:
            return None
        if "volume" in body:
            return VolumeDestination()
        return parse_stored(body["objectStore"], "status.destination.objectStore")


def parse_snapshot(body: dict[str, Any]) -> Snapshot:
    metadata = body["metadata"]
    created = parse_stamp(metadata.get("creationTimestamp"))
    return Snapshot(
        namespace=metadata["namespace"],
        name=metadata["name"],
        uid=metadata["uid"],
        generation=metadata.get("generation", 0),
        created=created or dt.datetime.fromtimestamp(0, dt.UTC),
        body=body,
    )


def parse_snapshot_spec(body: object) -> SnapshotAsked:
    """Raises InvalidSpec."""
    spec = validation.checked(schema.PartitionSnapshotSpec, body, "spec")
    verify, destination = spec.get("verify"), spec.get("destination")
    return SnapshotAsked(
        verify=None if verify is None else VerifyMethod(verify),
        destination=None if destination is None else destination_of(destination),
    )


def parse_snapshots_spec(partition_spec: dict[str, Any]) -> SnapshotsSpec | None:
    """Returns spec.snapshots, or None if it is absent. reconcile/cron.py parses the
    schedule later. Raises InvalidSpec with the field's path."""
    given = partition_spec.get("snapshots")
    if given is None:
        return None
    words = {"schedule": Rule("string")}
    body = validation.checked(schema.Snapshots, given, "spec.snapshots", instead=words)
    deadline, destination = body.get("startingDeadlineSeconds"), body.get("destination")
    return SnapshotsSpec(
        schedule=body.get("schedule", "").strip(),
        # An empty name means the default, too.
        time_zone=body["timeZone"] or "Etc/UTC",
        deadline=None if deadline is None else dt.timedelta(seconds=deadline),
        suspend=body.get("suspend", False),
        immediate=body.get("immediate", False),
        retention=_retention(body.get("retention", schema.Retention())),
        verify=VerifyMethod(body["verify"]),
        destination=destination_of(destination) if destination else None,
    )


def _retention(body: schema.Retention) -> SnapshotRetention:
    age = parse_duration(body.get("maxAge"))
    return SnapshotRetention(body.get("count"), age, body.get("minSuccessful", 1))
