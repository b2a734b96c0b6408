"""What the operator's metrics say about the snapshots of one Partition. Pure."""

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from partition_operator.api.partition import SNAPSHOT_CONDITIONS
from partition_operator.api.snapshot import Snapshot, SnapshotState
from partition_operator.api.times import parse_stamp
from partition_operator.reconcile.observed.snapshot import age_of
from partition_operator.reconcile.partition.figures import ConditionLabels, labels_of
from partition_operator.reconcile.schedule.policy import ObservedSchedule
from partition_operator.reconcile.schedule.status import Told


@dataclass(frozen=True, slots=True)
class SnapshotFigures:
    """states: how many PartitionSnapshots are in each state, zeros included. missed: runs since the
    schedule began. last_failure: of the failed snapshots that still exist. Times are of the
    beginning."""

    conditions: tuple[ConditionLabels, ...]
    states: Mapping[str, int]
    missed: int
    last_success: dt.datetime | None
    last_failure: dt.datetime | None
    next_run: dt.datetime | None


def figures(view: ObservedSchedule, told: Told) -> SnapshotFigures:
    """Returns the figures of a Partition's snapshots. told: the status of the same turn."""
    known = view.partition.whole_status if told.status is None else told.status
    conditions = [c for c in known.get("conditions") or [] if c["type"] in SNAPSHOT_CONDITIONS]
    recorded = known.get("snapshots") or {}
    # A snapshot whose state is not written yet waits, like a queued one.
    counted = Counter(s.state or str(SnapshotState.QUEUED) for s in view.snapshots)
    return SnapshotFigures(
        conditions=labels_of(conditions),
        states=dict.fromkeys(map(str, SnapshotState), 0) | counted,
        missed=recorded.get("missed", 0),
        last_success=parse_stamp(recorded.get("lastSuccessfulTime")),
        last_failure=_last_failure(view.snapshots),
        next_run=parse_stamp(recorded.get("nextScheduleTime")),
    )


def _last_failure(snapshots: tuple[Snapshot, ...]) -> dt.datetime | None:
    failed = [s for s in snapshots if s.state == SnapshotState.FAILED]
    return max((age_of(s)[0] for s in failed), default=None)
