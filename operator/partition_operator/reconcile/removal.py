"""How expired snapshots are removed: a job on a replica takes them out of their store, then the
objects go. Pure. A crash in between repeats the job, which finds nothing left to do.

What a store holds is removed by a replica of the group that wrote it: any for an object store, the
one with the volume for a volume.
"""

import datetime as dt
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from partition_operator.api import names
from partition_operator.api.destination import Destination, VolumeDestination, describe
from partition_operator.api.snapshot import Snapshot, State
from partition_operator.reconcile import sources
from partition_operator.reconcile.observed import Observed
from partition_operator.reconcile.snapshot_view import Job, JobSeen, NoJob

RETRY_S = (10, 30, 120, 600)
BATCH_MAX = 50
"""Snapshots of one job."""

UNCERTAIN = frozenset(
    {"SourceUnreachable", "SourceRestarted", "Stalled", "StoreUnavailable", "StoreBusy"}
)
"""Reasons of a failed snapshot that may have been stored all the same, unheard. After others
nothing of it is in the store; what has its name there (SnapshotExists) is somebody else's."""


@dataclass(frozen=True, slots=True)
class Removal:
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
    """What was started; kept in memory: one that is forgotten is made again."""

    job_id: str
    ordinal: int
    failures: int = 0
    retry_at: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """start: the attempt to start now. done: the job that has done it. problem: (reason, message)
    of what keeps it from being done. attempt: what to remember."""

    attempt: Attempt | None = None
    start: bool = False
    done: Job | None = None
    problem: tuple[str, str] | None = None


def removals(expired: Iterable[Snapshot], group: Observed) -> list[Removal]:
    """The jobs that must have succeeded before these objects may go; some need none."""
    found: dict[tuple[Destination, str], list[str]] = {}
    pods = {names.pod(group.partition.name, pod.ordinal) for pod in group.pods}
    for snapshot in expired:
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
        Removal(destination, pod, tuple(sorted(ids)[:BATCH_MAX]))
        for (destination, pod), ids in found.items()
    ]


def may_be_stored(snapshot: Snapshot) -> bool:
    """Whether something of it may be in a store that can still be reached."""
    if snapshot.lost or snapshot.stored_in() is None:
        return False
    if snapshot.state != State.FAILED:
        return True
    conditions = snapshot.status.get("conditions") or []
    return any(c["type"] == "Failed" and c["reason"] in UNCERTAIN for c in conditions)


def next_step(
    removal: Removal,
    attempt: Attempt | None,
    seen: JobSeen,
    group: Observed,
    newest_pod: str = "",
) -> Step:
    """newest_pod: where the newest snapshot was taken: jobs of one replica don't meet."""
    now = group.now
    if attempt is not None and attempt.retry_at is None:
        if isinstance(seen, Job):
            if seen.state == "Succeeded":
                return Step(done=seen)
            if seen.state == "Failed":
                return failed(attempt, now, seen.reason or "Failed", seen.message)
            return Step(attempt)
        if seen is NoJob.SILENT:
            return failed(attempt, now, "SourceUnreachable", "its replica does not answer")
        # The replica was restarted: begin again.
    if attempt is not None and attempt.retry_at is not None and now < attempt.retry_at:
        return Step(attempt, problem=("Retrying", "an attempt failed and is made again"))
    found = sources.candidates(group)
    if removal.pod:
        found = [r for r in found if names.pod(group.partition.name, r.ordinal) == removal.pod]
    source = sources.choose(found, partition=group.partition.name, base=newest_pod)
    if source is None:
        who = removal.pod or "a replica"
        return Step(attempt, problem=("WaitingForReplica", f"{who} is needed and does not serve"))
    failures = attempt.failures if attempt is not None else 0
    job_id = f"prune-{removal.digest}-{int(now.timestamp())}"
    return Step(Attempt(job_id, source.ordinal, failures), start=True)


def failed(attempt: Attempt, now: dt.datetime, reason: str, message: str) -> Step:
    pause = RETRY_S[min(attempt.failures, len(RETRY_S) - 1)]
    again = Attempt(
        attempt.job_id, attempt.ordinal, attempt.failures + 1, now + dt.timedelta(seconds=pause)
    )
    return Step(again, problem=(reason, message))
