"""How expired snapshots are removed: they are marked as Removing, a job on a replica takes them out
of their store, then the objects go. Pure. A crash in between repeats the job, which finds nothing
left to do. What is marked may be gone already: nobody restores it, and its removal is always
finished.

What a store holds is removed by a replica of the group that wrote it: any for an object store, the
one with the volume for a volume.
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
"""Snapshots of one job."""
POLL_S, WAIT_S = 1.0, 10.0
"""How often a job that runs is looked at, and whether one that is due can be started."""

UNCERTAIN = frozenset(
    {
        Reason.SOURCE_UNREACHABLE,
        Reason.SOURCE_RESTARTED,
        Reason.STALLED,
        "StoreUnavailable",
        "StoreBusy",
    }
)
"""Reasons of a failed snapshot that may have been stored all the same, unheard. After others
nothing of it is in the store; what has its name there (SnapshotExists) is somebody else's."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """One job's work. pod: whose volume the store is on, "" for an object store."""

    destination: Destination
    pod: str
    snapshot_ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of what is removed and where: names the attempt."""
        text = "\n".join([describe(self.destination, self.pod), *self.snapshot_ids])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was started; kept in memory: one that is forgotten is made again. problem: of the last
    failure, which is said until it is done. done: the job that succeeded, while another of the same
    snapshots is waited for."""

    job_id: str
    ordinal: int
    failures: int = 0
    retry_at: dt.datetime | None = None
    problem: tuple[str, str] | None = None
    done: ObservedJob | None = None

    @property
    def running(self) -> bool:
        """Whether there is a job to look at; of one that ended nothing new will be heard."""
        return self.retry_at is None and self.done is None


@dataclass(frozen=True, slots=True)
class DeletionStep:
    """start: the attempt to start now. done: the job that has done it. problem: (reason, message)
    of what keeps it from being done. attempt: what to remember."""

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
    """The snapshots to remove, oldest first. spec: None removes only what was begun. held: names
    that something uses just now."""
    partition = view.partition
    cluster = partition.status.get("clusterID", "")
    # Those of an earlier Partition of this name are in another store: they stay.
    ours = [s for s in view.snapshots if s.cluster_id in ("", cluster)]
    if spec is None:
        return begun(ours)
    damage, proven = (
        blocked_by_damage(as_it_stands(partition), attempts),
        spec.verify != VerifyMethod.NONE,
    )
    return expired(ours, spec.retention, view.now, held, proven=proven, damage=damage)


def removals(due: Iterable[Snapshot], group: ObservedPartition) -> list[Deletion]:
    """The jobs that must have succeeded before these objects may go; some need none."""
    found: dict[tuple[Destination, str], list[str]] = {}
    pods = {names.pod(group.partition.name, pod.ordinal) for pod in group.pods}
    for snapshot in due:
        destination = snapshot.stored_in()
        if destination is None or not may_be_stored(snapshot):
            continue
        holders: tuple[str, ...] = ("",)
        if isinstance(destination, VolumeDestination):
            last, *tried = snapshot.source_pods or ("",)
            # Of an attempt that failed something may be left; where that pod is gone, so be it.
            holders = (last, *(pod for pod in tried if pod in pods))
        for pod in holders:
            found.setdefault((destination, pod), []).append(str(snapshot.status["snapshotID"]))
    return [
        Deletion(destination, pod, tuple(sorted(ids)[:BATCH_MAX]))
        for (destination, pod), ids in found.items()
    ]


def may_be_stored(snapshot: Snapshot) -> bool:
    """Whether something of it may be in a store that can still be reached."""
    if snapshot.lost or snapshot.stored_in() is None:
        return False
    # The condition, not the state: one that failed may be Removing now.
    failed = [c for c in snapshot.status.get("conditions") or [] if c["type"] == "Failed"]
    if snapshot.state != SnapshotState.FAILED and not failed:
        return True
    return any(c["reason"] in UNCERTAIN for c in failed)


def marked(snapshot: Snapshot, now: dt.datetime) -> schema.PartitionSnapshotStatus:
    """The status that says that its removal has begun: written before anything of it goes."""
    message = f"{snapshot.state} until {stamp(now)}; retention removes it, which can't be undone"
    return snapshot.status | {"state": str(SnapshotState.REMOVING), "message": message}


def pause_s(attempts: Iterable[Attempt], now: dt.datetime) -> float | None:
    """Until a removal is to be looked at again; None where there is none under way."""
    ends = []
    for attempt in attempts:
        if attempt.running:
            ends.append(POLL_S)
        elif attempt.retry_at is not None:
            left = (attempt.retry_at - now).total_seconds()
            ends.append(left if left > 0 else WAIT_S)
    return min(ends, default=None)


def blocked_by_damage(condition: schema.Condition | None, attempts: Iterable[Attempt]) -> bool:
    """Whether a store could not be collected because what one of its snapshots names can't be read.
    condition: RetentionEnforced as it stands."""
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
    """The condition RetentionEnforced. old: as it stands; what it says of a failure stands until
    the deletion is done."""
    if problem is None and under_way and old is not None and old["status"] == "False":
        problem = (old["reason"], old["message"])
    if problem is None:
        return Condition(RETENTION_ENFORCED, True, "Enforced", "no more is kept than is wanted")
    return Condition(RETENTION_ENFORCED, False, *problem)


def as_it_stands(partition: Partition) -> schema.Condition | None:
    """RetentionEnforced in the Partition's status; the version before wrote it under its earlier
    name alone."""
    found = {c["type"]: c for c in partition.whole_status.get("conditions") or []}
    return found.get(RETENTION_ENFORCED) or found.get(SNAPSHOTS_PRUNED)


def deprecated(found: Condition) -> Condition:
    """RetentionEnforced under its earlier name."""
    reason = "Pruned" if found.status else found.reason
    return replace(found, type=SNAPSHOTS_PRUNED, reason=reason)


def next_step(
    removal: Deletion,
    attempt: Attempt | None,
    seen: ObservedJobOrNone,
    group: ObservedPartition,
    newest_pod: str = "",
) -> DeletionStep:
    """newest_pod: where the newest snapshot was taken: jobs of one replica don't meet."""
    if attempt is not None:
        known = _of_attempt(attempt, seen, group.now)
        if known is not None:
            return known
    return _begin(removal, attempt, group, newest_pod)


def _of_attempt(attempt: Attempt, seen: ObservedJobOrNone, now: dt.datetime) -> DeletionStep | None:
    """The step for an attempt that ended, runs or waits; None if the next one is due."""
    if attempt.done is not None:
        return DeletionStep(attempt, done=attempt.done)
    if attempt.retry_at is not None:
        return DeletionStep(attempt, problem=attempt.problem) if now < attempt.retry_at else None
    if isinstance(seen, ObservedJob):
        return _of_job(attempt, seen, now)
    if seen is NoJob.SILENT:
        return failed(attempt, now, Reason.SOURCE_UNREACHABLE, "its replica does not answer")
    return None  # the replica was restarted: begin again


def _of_job(attempt: Attempt, job: ObservedJob, now: dt.datetime) -> DeletionStep:
    if job.state == JobState.SUCCEEDED:
        return DeletionStep(replace(attempt, done=job), done=job)
    if job.state == JobState.FAILED:
        return failed(attempt, now, job.reason or "Failed", job.message)
    return DeletionStep(attempt, problem=attempt.problem)


def _begin(
    removal: Deletion, attempt: Attempt | None, group: ObservedPartition, newest_pod: str
) -> DeletionStep:
    """Starts an attempt, if a replica can work on it. attempt: the last one."""
    found = sources.candidates(group)
    if removal.pod:
        found = [r for r in found if names.pod(group.partition.name, r.ordinal) == removal.pod]
    source = sources.choose(found, partition=group.partition.name, base=newest_pod)
    if source is None:
        who = removal.pod or "a replica"
        return DeletionStep(
            attempt, problem=("WaitingForReplica", f"{who} is needed and does not serve")
        )
    failures = attempt.failures if attempt is not None else 0
    problem = attempt.problem if attempt is not None else None
    job_id = f"prune-{removal.digest}-{int(group.now.timestamp())}"
    again = Attempt(job_id, source.ordinal, failures, problem=problem)
    return DeletionStep(again, start=True, problem=problem)


def failed(attempt: Attempt, now: dt.datetime, reason: str, message: str) -> DeletionStep:
    if reason == Reason.SNAPSHOT_DAMAGED:
        message += (
            "; until it is gone nothing in its store can be collected: damaged snapshots "
            "(VerifyFailed) that are not pinned are removed, too; others remove by hand"
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
