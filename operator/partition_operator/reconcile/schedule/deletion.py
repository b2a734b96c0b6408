"""Deletes expired snapshots. Pure.

First their state becomes Removing. Then a job on a replica deletes them from their store. Then the
PartitionSnapshot objects are deleted. After a crash the job runs again and finds nothing to do.
Part of a Removing snapshot may be deleted already, so it can't be restored and its deletion always
continues.

A replica of the group that wrote the store deletes from it: any replica for an object store, the
replica with the volume for a volume.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from partition_common import backoff

from partition_operator.api import names, schema
from partition_operator.api.destination import Destination, VolumeDestination, describe
from partition_operator.api.partition import RETENTION_ENFORCED, SNAPSHOTS_PRUNED, Partition
from partition_operator.api.snapshot import Snapshot, SnapshotsSpec, SnapshotState, VerifyMethod
from partition_operator.api.times import stamp
from partition_operator.api.words import JobState, Reason
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.observed.snapshot import NoJob, ObservedJob, ObservedJobOrNone
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.reconcile.schedule.policy import ObservedSchedule
from partition_operator.reconcile.schedule.retention import begun, expired
from partition_operator.reconcile.snapshot import sources

BATCH_MAX = 50
"""Most snapshots that one job deletes."""
POLL_S, WAIT_S = 1.0, 10.0
"""Seconds between polls of a running job, and between tries to start a job that is due."""

UNCERTAIN = frozenset(
    {
        Reason.SOURCE_UNREACHABLE,
        Reason.SOURCE_RESTARTED,
        Reason.STALLED,
        "StoreUnavailable",
        "StoreBusy",
    }
)
"""Reasons with which a failed snapshot may still be in its store, because the operator may have
missed the result. After other reasons the store contains nothing of it; with SnapshotExists,
another snapshot has its name there."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """The work of one job. pod: the pod whose volume has the store; "" for an object store."""

    destination: Destination
    pod: str
    snapshot_ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hash of the snapshots and their store; identifies the attempts."""
        text = "\n".join([describe(self.destination, self.pod), *self.snapshot_ids])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Attempt:
    """A started job. It is kept in memory only; a lost attempt is started again. problem: (reason,
    message) of the last failure, reported until the job succeeds. done: the job that succeeded,
    while another job of the same snapshots still runs."""

    job_id: str
    ordinal: int
    failures: int = 0
    retry_at: dt.datetime | None = None
    problem: tuple[str, str] | None = None
    done: ObservedJob | None = None

    @property
    def running(self) -> bool:
        """Whether a job must be polled: it has neither succeeded nor waits for a retry."""
        return self.retry_at is None and self.done is None


@dataclass(frozen=True, slots=True)
class DeletionStep:
    """attempt: what to remember. start: whether to start the attempt now. done: the job that
    succeeded. problem: (reason, message) of what prevents the deletion."""

    attempt: Attempt | None = None
    start: bool = False
    done: ObservedJob | None = None
    problem: tuple[str, str] | None = None


def gone(
    view: ObservedSchedule,
    spec: SnapshotsSpec | None,
    attempts: Iterable[Attempt],
    held: frozenset[str] = frozenset(),
) -> list[Snapshot]:
    """Returns the snapshots to delete, oldest first. spec: None to only finish begun deletions.
    held: names of snapshots in use."""
    partition = view.partition
    cluster = partition.status.get("clusterID", "")
    # Snapshots of an earlier Partition of this name are in another store: they stay.
    ours = [s for s in view.snapshots if s.cluster_id in ("", cluster)]
    if spec is None:
        return begun(ours)
    damage = blocked_by_damage(as_it_stands(partition), attempts)
    proven = spec.verify != VerifyMethod.NONE
    return expired(ours, spec.retention, view.now, held, proven=proven, damage=damage)


def removals(due: Iterable[Snapshot], group: ObservedPartition) -> list[Deletion]:
    """Returns the jobs that must succeed before these objects are deleted. Some objects need
    none."""
    found: dict[tuple[Destination, str], list[str]] = {}
    pods = {names.pod(group.partition.name, pod.ordinal) for pod in group.pods}
    for snapshot in due:
        destination = snapshot.stored_in()
        if destination is None or not may_be_stored(snapshot):
            continue
        holders: tuple[str, ...] = ("",)
        if isinstance(destination, VolumeDestination):
            last, *tried = snapshot.source_pods or ("",)
            # A failed attempt may have left files on its pod's volume. A deleted pod is skipped.
            holders = (last, *(pod for pod in tried if pod in pods))
        for pod in holders:
            found.setdefault((destination, pod), []).append(str(snapshot.status["snapshotID"]))
    return [
        Deletion(destination, pod, tuple(sorted(ids)[:BATCH_MAX]))
        for (destination, pod), ids in found.items()
    ]


def may_be_stored(snapshot: Snapshot) -> bool:
    """Whether a store that can still be reached may contain part of the snapshot."""
    if snapshot.lost or snapshot.stored_in() is None:
        return False
    # The condition decides, not the state: a failed snapshot may be Removing now.
    failed = [c for c in snapshot.status.get("conditions") or [] if c["type"] == "Failed"]
    if snapshot.state != SnapshotState.FAILED and not failed:
        return True
    return any(c["reason"] in UNCERTAIN for c in failed)


def marked(snapshot: Snapshot, now: dt.datetime) -> schema.PartitionSnapshotStatus:
    """Returns the status with state Removing. It is written before the deletion begins."""
    message = f"{snapshot.state} until {stamp(now)}; retention is deleting it, irreversibly"
    return snapshot.status | {"state": str(SnapshotState.REMOVING), "message": message}


def pause_s(attempts: Iterable[Attempt], now: dt.datetime) -> float | None:
    """Returns the seconds until a deletion must be checked again; None if none is in progress."""
    ends = []
    for attempt in attempts:
        if attempt.running:
            ends.append(POLL_S)
        elif attempt.retry_at is not None:
            left = (attempt.retry_at - now).total_seconds()
            ends.append(left if left > 0 else WAIT_S)
    return min(ends, default=None)


def blocked_by_damage(condition: schema.Condition | None, attempts: Iterable[Attempt]) -> bool:
    """Whether a damaged snapshot prevents garbage collection in its store. condition: the present
    RetentionEnforced."""
    said = condition is not None and (condition["status"], condition["reason"]) == (
        "False",
        Reason.SNAPSHOT_DAMAGED,
    )
    return said or any(
        a.problem is not None and a.problem[0] == Reason.SNAPSHOT_DAMAGED for a in attempts
    )


def enforced(
    problem: tuple[str, str] | None, *, under_way: bool, old: schema.Condition | None
) -> Condition:
    """Returns RetentionEnforced. old: the present condition. Its failure stays until the deletion
    succeeds."""
    if problem is None and under_way and old is not None and old["status"] == "False":
        problem = (old["reason"], old["message"])
    if problem is None:
        message = "no snapshot is kept longer than retention asks"
        return Condition(RETENTION_ENFORCED, True, "Enforced", message)
    return Condition(RETENTION_ENFORCED, False, *problem)


def as_it_stands(partition: Partition) -> schema.Condition | None:
    """Returns RetentionEnforced of the Partition's status. The previous version wrote only its
    earlier name."""
    found = {c["type"]: c for c in partition.whole_status.get("conditions") or []}
    return found.get(RETENTION_ENFORCED) or found.get(SNAPSHOTS_PRUNED)


def deprecated(found: Condition) -> Condition:
    """Returns RetentionEnforced under its earlier name."""
    reason = "Pruned" if found.status else found.reason
    return replace(found, type=SNAPSHOTS_PRUNED, reason=reason)


def next_step(
    removal: Deletion,
    attempt: Attempt | None,
    seen: ObservedJobOrNone,
    group: ObservedPartition,
    newest_pod: str = "",
) -> DeletionStep:
    """Returns the next step of a deletion. newest_pod: the pod that took the newest snapshot. It is
    preferred, because the jobs of one replica run one after the other."""
    if attempt is not None:
        known = _of_attempt(attempt, seen, group.now)
        if known is not None:
            return known
    return _begin(removal, attempt, group, newest_pod)


def _of_attempt(attempt: Attempt, seen: ObservedJobOrNone, now: dt.datetime) -> DeletionStep | None:
    """Returns the step for an attempt that succeeded, runs or waits; None if a new one is due."""
    if attempt.done is not None:
        return DeletionStep(attempt, done=attempt.done)
    if attempt.retry_at is not None:
        return DeletionStep(attempt, problem=attempt.problem) if now < attempt.retry_at else None
    if isinstance(seen, ObservedJob):
        return _of_job(attempt, seen, now)
    if seen is NoJob.SILENT:
        message = "the replica that runs the job does not answer"
        return failed(attempt, now, Reason.SOURCE_UNREACHABLE, message)
    return None  # the replica was restarted, so the job starts again


def _of_job(attempt: Attempt, job: ObservedJob, now: dt.datetime) -> DeletionStep:
    if job.state == JobState.SUCCEEDED:
        return DeletionStep(replace(attempt, done=job), done=job)
    if job.state == JobState.FAILED:
        return failed(attempt, now, job.reason or "Failed", job.message)
    return DeletionStep(attempt, problem=attempt.problem)


def _begin(
    removal: Deletion, attempt: Attempt | None, group: ObservedPartition, newest_pod: str
) -> DeletionStep:
    """Starts an attempt if a replica can run it. attempt: the last one, or None."""
    found = sources.candidates(group)
    if removal.pod:
        found = [r for r in found if names.pod(group.partition.name, r.ordinal) == removal.pod]
    source = sources.choose(found, partition=group.partition.name, base=newest_pod)
    if source is None:
        who = removal.pod or "a replica"
        return DeletionStep(attempt, problem=("WaitingForReplica", f"waiting for {who} to serve"))
    failures = attempt.failures if attempt is not None else 0
    problem = attempt.problem if attempt is not None else None
    job_id = f"delete-{removal.digest}-{int(group.now.timestamp())}"
    again = Attempt(job_id, source.ordinal, failures, problem=problem)
    return DeletionStep(again, start=True, problem=problem)


def failed(attempt: Attempt, now: dt.datetime, reason: str, message: str) -> DeletionStep:
    if reason == Reason.SNAPSHOT_DAMAGED:
        message += (
            "; until the damaged snapshot is deleted, its store can't collect garbage: the "
            "operator deletes damaged snapshots (VerifyFailed) that are not pinned; delete others "
            "by hand"
        )
    pause = backoff.SNAPSHOT_DELETION.after(attempt.failures + 1)
    again = Attempt(
        attempt.job_id,
        attempt.ordinal,
        attempt.failures + 1,
        now + dt.timedelta(seconds=pause),
        (reason, message),
    )
    return DeletionStep(again, problem=again.problem)
