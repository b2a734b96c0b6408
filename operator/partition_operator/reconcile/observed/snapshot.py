"""What the operator observes of one PartitionSnapshot at one moment."""

import datetime as dt
from dataclasses import dataclass
from enum import Enum
from typing import Any

from partition_operator.api.destination import DestinationProblem
from partition_operator.api.snapshot import STORED, Snapshot, SnapshotState
from partition_operator.api.words import JobState
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.observed.progress import JobProgress


@dataclass(frozen=True, slots=True)
class ObservedJob:
    """A job as its replica reports it."""

    state: JobState
    phase: str = ""
    percent: int = 0
    lsn: int = 0
    term: int = 0
    keys: int = 0
    files: int = 0
    size_bytes: int = 0
    transferred_bytes: int = 0
    digest: str = ""
    reason: str = ""
    message: str = ""
    retriable: bool = False
    snapshots_deleted: int = 0
    objects_deleted: int = 0
    bytes_deleted: int = 0


class NoJob(Enum):
    """Why no job was observed."""

    NONE = "none was started"
    UNKNOWN = "the replica does not know it"
    SILENT = "the replica does not answer"


ObservedJobOrNone = ObservedJob | NoJob


@dataclass(frozen=True, slots=True)
class ObservedSnapshot:
    """A PartitionSnapshot and what it depends on.

    group: the Partition, its pods and replicas; None if it does not exist. others: the other
    snapshots of the Partition. volumes: UIDs of claims by name; None if not read. refusal: what is
    wrong with the destination's Secret. authority: whether that Secret contains a CA. pod: the
    verifying pod. progress: what that pod reports; None if it reports nothing. taken: a pod of
    another owner has its name. refused: why the API server refused the pod, until the next try.
    """

    snapshot: Snapshot
    now: dt.datetime
    group: ObservedPartition | None
    others: tuple[Snapshot, ...] = ()
    volumes: dict[str, str] | None = None
    refusal: DestinationProblem | None = None
    authority: bool = False
    job: ObservedJobOrNone = NoJob.NONE
    pod: dict[str, Any] | None = None
    progress: JobProgress | None = None
    taken: bool = False
    refused: str = ""

    @property
    def replaced(self) -> bool:
        """Whether the Partition of this name is another group than when the snapshot began."""
        if self.group is None:
            return False
        now, before = self.group.partition.status.get("clusterID", ""), self.snapshot.cluster_id
        return bool(before and now) and now != before


def age_of(snapshot: Snapshot) -> tuple[dt.datetime, str]:
    """Returns the sort key of a snapshot: when it was taken, then its name."""
    return snapshot.started or snapshot.created, snapshot.name


def volume_lost(snapshot: Snapshot, volumes: dict[str, str] | None) -> bool:
    """Whether the snapshot's volume was deleted or recreated."""
    recorded = (snapshot.status.get("destination") or {}).get("volume")
    if volumes is None or not recorded or snapshot.state not in STORED | {SnapshotState.REMOVING}:
        return False
    return bool(volumes.get(recorded["claim"]) != recorded["claimUID"])
