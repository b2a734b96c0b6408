"""The next step of one PartitionSnapshot. Pure.

Queued → Running → Succeeded or Failed, then its verification (verification.py). Status contains
everything that the next turn needs, and is written before each action. So a restarted operator
continues. A job's ID is `<uid>/<attempt>`; starting a job with the same ID again has no effect.
"""

import datetime as dt
from dataclasses import dataclass, field, replace

from partition_common import backoff

from partition_operator.api import names, schema
from partition_operator.api.destination import (
    Destination,
    ObjectStore,
    VolumeDestination,
    describe,
    store_prefix,
)
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import Snapshot, SnapshotState, VerifyMethod
from partition_operator.api.times import parse_stamp, stamp
from partition_operator.api.words import JobState, Reason
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.observed.progress import stepped
from partition_operator.reconcile.observed.snapshot import (
    NoJob,
    ObservedJob,
    ObservedSnapshot,
    volume_lost,
)
from partition_operator.reconcile.snapshot import sources, verification
from partition_operator.reconcile.snapshot.actions import (
    CancelJob,
    Label,
    SnapshotAction,
    StartTake,
)
from partition_operator.reconcile.snapshot.status import Draft

PARTITION_GRACE = dt.timedelta(minutes=5)
"""How long a snapshot waits for its Partition to be created: a tool may apply the two objects one
after the other."""
SOURCE_WAIT = dt.timedelta(hours=1)
"""How long a snapshot waits for a replica that can take it."""
SOURCE_SILENT = dt.timedelta(seconds=60)
"""How long a source may not answer before the next attempt."""
JOB_STALLED = dt.timedelta(hours=6)
"""A running job is abandoned if its percentage and phase do not change for this time. A replica
detects a stalled process much sooner (snapshot_job_stall_s). One percent of a large snapshot over a
slow connection may take hours and is no stall."""
ATTEMPTS_MAX = 5
PROGRESS_EVERY = dt.timedelta(minutes=1)
"""Progress is written when it reaches the next step, or when it has changed and the last write is
this old. That limits the writes."""
QUEUED = "Queued"
"""The phase of a job that waits for other jobs of its replica. It does not count as a stall."""
POLL_S = 2.0
WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """status: to write before the action. pause_s: seconds until the next turn; None if there is
    nothing to wait for."""

    status: schema.PartitionSnapshotStatus
    action: SnapshotAction | None = None
    events: list[Event] = field(default_factory=list)
    partition_events: list[Event] = field(default_factory=list)
    pause_s: float | None = None


def plan(view: ObservedSnapshot, image: str) -> SnapshotPlan:
    """Returns the next step. image: the image of the verifying pod."""
    snapshot = view.snapshot
    draft = Draft(snapshot, view.now)
    if not snapshot.ended:
        return _under_way(view, draft)
    action = verification.next_step(view, draft, image)
    _availability(view, draft)
    pause = POLL_S if snapshot.verifying or action is not None else None
    if snapshot.verifying and action is None and (view.taken or view.refused):
        pause = verification.TAKEN_POLL_S
    return _plan(draft, action, pause)


def _under_way(view: ObservedSnapshot, draft: Draft) -> SnapshotPlan:
    if view.replaced:
        name = view.snapshot.partition
        return _failed(
            draft,
            "PartitionReplaced",
            f"Partition {name} was deleted and created again meanwhile, so it is another group: "
            "create a new PartitionSnapshot of the new group",
        )
    if view.group is not None and view.group.partition.status.get("bootstrapped"):
        # From the first turn on the snapshot is bound to this group, not to a later one of its
        # name.
        draft.set(clusterID=view.group.partition.status["clusterID"])
    leader = view.group.leader if view.group is not None else None
    if leader is not None and not draft.fields.get("leastLSN"):
        # The snapshot contains everything acknowledged before its object was created, on any
        # source.
        draft.set(leastLSN=str(leader.committed))
    labels = view.snapshot.body["metadata"].get("labels") or {}
    if labels.get(names.LABEL_PARTITION) != view.snapshot.partition:
        draft.queued("Accepted", "the operator has accepted the snapshot")
        return _plan(draft, Label(view.snapshot.partition), POLL_S)
    if view.snapshot.state == SnapshotState.RUNNING:
        return _running(view, draft)
    return _queued(view, draft)


# --- before it runs ---------------------------------------------------------------------------


def _queued(view: ObservedSnapshot, draft: Draft) -> SnapshotPlan:
    snapshot, group = view.snapshot, view.group
    if group is None:
        return _without_partition(view, draft)
    try:
        destination = resolve(snapshot, group.partition)
        effective_verify(snapshot, group.partition)
    except InvalidSpec as error:
        return _failed(draft, "InvalidSpec", str(error))
    if destination is None:
        return _failed(
            draft,
            "NoDestination",
            "there is no destination: set spec.destination, or spec.snapshots.destination of the "
            "Partition, and create a new PartitionSnapshot",
        )
    if view.refusal is not None:
        return _failed(draft, view.refusal.reason, view.refusal.message)
    return _start_in_turn(view, draft, group, destination)


def _start_in_turn(
    view: ObservedSnapshot, draft: Draft, group: ObservedPartition, destination: Destination
) -> SnapshotPlan:
    """Starts the snapshot, if no other snapshot is ahead of it, the pause of a retry is over, and a
    replica can take it."""
    ahead = _ahead(view)
    if ahead is not None:
        return _wait(draft, "WaitingForTurn", f"waiting for snapshot {ahead.name} to end", WAIT_S)
    again = parse_stamp(draft.fields.get("nextAttemptTime"))
    if again is not None and view.now < again:
        condition = next(c for c in draft.body()["conditions"] if c["type"] == "Queued")
        pause = (again - view.now).total_seconds()
        return _wait(draft, "Retrying", condition["message"], pause)
    if why := sources.why_none(group):
        return _without_source(view, draft, why)
    return _start(view, draft, destination)


def _without_partition(view: ObservedSnapshot, draft: Draft) -> SnapshotPlan:
    name = view.snapshot.partition
    until = view.snapshot.created + PARTITION_GRACE
    if view.now < until:
        message = f"waiting until {stamp(until)} for Partition {name}, which does not exist yet"
        return _wait_for_others(draft, "WaitingForPartition", message, WAIT_S)
    return _failed(
        draft,
        "PartitionNotFound",
        f"Partition {name} does not exist in this namespace: create it, or name another Partition, "
        "and create a new PartitionSnapshot",
    )


def _without_source(view: ObservedSnapshot, draft: Draft, why: str) -> SnapshotPlan:
    since = parse_stamp(draft.fields.get("waitingSince")) or view.now
    if view.now - since >= SOURCE_WAIT:
        hours = int(SOURCE_WAIT.total_seconds() // 3600)
        message = f"no replica could take the snapshot within {hours} hour: {why}"
        return _failed(draft, "NoSource", message)
    draft.set(waitingSince=stamp(since))
    until = stamp(since + SOURCE_WAIT)
    message = f"waiting until {until} for a replica that can take the snapshot: {why}"
    return _wait_for_others(draft, "WaitingForSource", message, 2.0)


def _ahead(view: ObservedSnapshot) -> Snapshot | None:
    """Returns the first snapshot ahead of this one, or None. One snapshot of a Partition runs at a
    time."""
    mine = (view.snapshot.created, view.snapshot.name)
    waiting = [o for o in view.others if not o.ended and (o.created, o.name) < mine]
    return min(waiting, key=lambda o: (o.created, o.name), default=None)


def _start(view: ObservedSnapshot, draft: Draft, destination: Destination) -> SnapshotPlan:
    snapshot, group = view.snapshot, view.group
    assert group is not None, "there is a source"
    last = draft.fields.get("sourcePod") or ""
    in_volume = isinstance(destination, VolumeDestination)
    newest = sources.newest_stored(view.others, destination, group.partition.status["clusterID"])
    source = sources.choose(
        sources.with_all_of(sources.candidates(group), int(draft.fields.get("leastLSN") or 0)),
        partition=snapshot.partition,
        base=sources.base_pod(newest),
        # The last pod's volume may already have the whole snapshot. In an object store every
        # replica finds what is stored.
        keep=last if in_volume else "",
        avoid="" if in_volume else last,
    )
    assert source is not None, "there is a source"
    pod = names.pod(snapshot.partition, source.ordinal)
    attempt = draft.fields.get("attempts", 0) + 1
    job_id = f"{snapshot.uid}/{attempt}"
    tried = [
        p for p in dict.fromkeys([*(draft.fields.get("triedPods") or []), last]) if p and p != pod
    ]
    draft.set(
        attempts=attempt,
        attemptTime=stamp(view.now),
        progressTime=stamp(view.now),
        jobID=job_id,
        sourcePod=pod,
        snapshotID=snapshot.name,
        clusterID=group.partition.status["clusterID"],
        destination=_recorded(destination, snapshot.partition, source.ordinal, view),
        location=describe(destination, pod),
        startTime=draft.fields.get("startTime") or stamp(view.now),
        percent=0,
        phase="Starting",
    )
    draft.drop("nextAttemptTime", "waitingSince", "silentSince", "triedPods", "full")
    if tried:
        draft.set(triedPods=tried)
    if snapshot.full or sources.needs_full(newest):
        draft.set(full=True)
    draft.running(f"{pod} takes the snapshot")
    if attempt == 1:
        message = f"{pod} takes the snapshot into {describe(destination)}"
        draft.event("Normal", "SnapshotStarted", message)
    action = StartTake(source.ordinal, job_id, destination, bool(draft.fields.get("full")))
    return _plan(draft, action, POLL_S)


def resolve(snapshot: Snapshot, partition: Partition) -> Destination | None:
    """Returns its own destination or the Partition's, with the prefix of the group's store; None if
    neither is set. Raises InvalidSpec."""
    found = snapshot.asked().destination
    if found is None:
        policy = partition.snapshots()
        found = policy.destination if policy else None
    if isinstance(found, ObjectStore):
        cluster_id = partition.status.get("clusterID", "")
        prefix = store_prefix(found.prefix, snapshot.namespace, snapshot.partition, cluster_id)
        return replace(found, prefix=prefix)
    return found


def place(snapshot: Snapshot, partition: Partition | None) -> Destination | None:
    """Returns where it is written or read next: as status records it, or else as the specs ask;
    None if neither is known."""
    recorded = snapshot.stored_in()
    if snapshot.state != SnapshotState.QUEUED and recorded is not None:
        return recorded
    if partition is None:
        return None
    try:
        return resolve(snapshot, partition)
    except InvalidSpec:
        return None


def _recorded(
    destination: Destination, partition: str, ordinal: int, view: ObservedSnapshot
) -> schema.StoredIn:
    if isinstance(destination, ObjectStore):
        return {"objectStore": destination.body()}
    claim = names.claim(partition, ordinal)
    return {"volume": {"claim": claim, "claimUID": (view.volumes or {}).get(claim, "")}}


def effective_verify(snapshot: Snapshot, partition: Partition) -> VerifyMethod:
    """Returns its own method, or the Partition's, or Checksum. Raises InvalidSpec."""
    own = snapshot.asked().verify
    if own is not None:
        return own
    policy = partition.snapshots()
    return policy.verify if policy else VerifyMethod.CHECKSUM


# --- while it runs ----------------------------------------------------------------------------


def _running(view: ObservedSnapshot, draft: Draft) -> SnapshotPlan:
    job, now = view.job, view.now
    if view.group is None:
        name = view.snapshot.partition
        return _failed(draft, "PartitionDeleted", f"Partition {name} was deleted meanwhile")
    if isinstance(job, ObservedJob):
        draft.drop("silentSince")
        return _by_job(view, draft, job)
    if job is NoJob.UNKNOWN:
        return _unknown(view, draft)
    since = parse_stamp(draft.fields.get("silentSince")) or now
    if now - since >= SOURCE_SILENT:
        seconds = int(SOURCE_SILENT.total_seconds())
        message = f"{draft.fields.get('sourcePod')} has not answered for {seconds} s"
        return _next_attempt(view, draft, Reason.SOURCE_UNREACHABLE, message, retriable=True)
    draft.set(silentSince=stamp(since))
    return _plan(draft, None, POLL_S)


def _by_job(view: ObservedSnapshot, draft: Draft, job: ObservedJob) -> SnapshotPlan:
    if job.state == JobState.SUCCEEDED:
        return _succeeded(view, draft, job)
    if job.state == JobState.FAILED:
        return _next_attempt(
            view, draft, job.reason or "Failed", job.message, retriable=job.retriable
        )
    return _progress(view, draft, job)


def _unknown(view: ObservedSnapshot, draft: Draft) -> SnapshotPlan:
    """Returns the plan if the replica answers but does not know the job."""
    begun = parse_stamp(draft.fields.get("attemptTime")) or view.now
    if draft.fields.get("phase") == "Starting" and view.now - begun < SOURCE_SILENT:
        # The replica did not receive the request, or its answer was lost. The same ID is the same
        # job, so the request is repeated.
        destination = view.snapshot.stored_in()
        assert destination is not None, "it was recorded with the attempt"
        job_id, full = str(draft.fields.get("jobID")), bool(draft.fields.get("full"))
        return _plan(draft, StartTake(_ordinal(view), job_id, destination, full), POLL_S)
    message = f"{draft.fields.get('sourcePod')} was restarted during the snapshot"
    return _next_attempt(view, draft, Reason.SOURCE_RESTARTED, message, retriable=True)


def _progress(view: ObservedSnapshot, draft: Draft, job: ObservedJob) -> SnapshotPlan:
    percent, known = max(job.percent, 0), draft.fields.get("percent", 0)
    phase = QUEUED if job.state == JobState.QUEUED else job.phase or job.state
    since = parse_stamp(draft.fields.get("progressTime")) or view.now
    step = stepped(percent) != stepped(known) or phase != draft.fields.get("phase")
    if step or (percent != known and view.now - since >= PROGRESS_EVERY):
        draft.set(percent=percent, phase=phase, progressTime=stamp(view.now))
    elif percent == known and phase != QUEUED and view.now - since >= JOB_STALLED:
        hours = int(JOB_STALLED.total_seconds() // 3600)
        message = f"{draft.fields.get('sourcePod')} made no progress for {hours} hours"
        job_id = str(draft.fields.get("jobID"))
        found = _next_attempt(view, draft, Reason.STALLED, message, retriable=True)
        # Cancelled before the next attempt, because two jobs would write the same files.
        return replace(found, action=CancelJob(_ordinal(view), job_id))
    draft.running(
        f"{draft.fields.get('sourcePod')} takes the snapshot: {phase}, "
        f"{draft.fields.get('percent')} %"
    )
    return _plan(draft, None, POLL_S)


def _next_attempt(
    view: ObservedSnapshot, draft: Draft, reason: str, message: str, *, retriable: bool
) -> SnapshotPlan:
    attempts = draft.fields.get("attempts", 0)
    if not retriable:
        return _failed(draft, reason, message)
    if attempts >= ATTEMPTS_MAX:
        return _failed(draft, reason, f"{message}; the last of {attempts} attempts failed")
    pause = backoff.SNAPSHOT.after(attempts)
    again = view.now + dt.timedelta(seconds=pause)
    text = f"attempt {attempts} of {ATTEMPTS_MAX} failed: {reason}: {message}"
    draft.set(nextAttemptTime=stamp(again), percent=0)
    draft.drop("silentSince")
    draft.queued("Retrying", f"{text}; next attempt at {stamp(again)}")
    draft.event("Warning", "SnapshotRetrying", text)
    return _plan(draft, None, float(pause))


def _succeeded(view: ObservedSnapshot, draft: Draft, job: ObservedJob) -> SnapshotPlan:
    assert view.group is not None, "it runs"
    draft.set(
        lsn=str(job.lsn),
        term=str(job.term),
        keys=job.keys,
        files=job.files,
        sizeBytes=job.size_bytes,
        transferredBytes=job.transferred_bytes,
        digest=job.digest,
        completionTime=stamp(view.now),
    )
    message = (
        f"LSN {job.lsn}: {job.keys} keys, {job.files} files, {job.size_bytes} bytes "
        f"({job.transferred_bytes} transferred)"
    )
    draft.succeeded(message)
    draft.condition("Available", True, "Stored", f"stored in {draft.fields.get('location')}")
    draft.event("Normal", "SnapshotSucceeded", f"{message}, from {draft.fields.get('sourcePod')}")
    try:
        method = effective_verify(view.snapshot, view.group.partition)
    except InvalidSpec:
        method = VerifyMethod.CHECKSUM
    verification.begin(draft, method)
    return _plan(draft, None, POLL_S)


# --- afterwards -------------------------------------------------------------------------------


def _availability(view: ObservedSnapshot, draft: Draft) -> None:
    if not view.snapshot.lost and volume_lost(view.snapshot, view.volumes):
        claim = view.snapshot.status["destination"]["volume"]["claim"]
        message = (
            f"PersistentVolumeClaim {claim} was deleted, and the snapshot on its volume is lost"
        )
        draft.condition("Available", False, "VolumeLost", message)
        draft.event("Warning", "VolumeLost", message)


def _ordinal(view: ObservedSnapshot) -> int:
    return int(str(view.snapshot.status["sourcePod"]).rpartition("-")[2])


def _wait(draft: Draft, reason: str, message: str, pause_s: float) -> SnapshotPlan:
    draft.queued(reason, message)
    return _plan(draft, None, pause_s)


def _wait_for_others(draft: Draft, reason: str, message: str, pause_s: float) -> SnapshotPlan:
    """Waits for something outside of snapshots. One event reports it."""
    if draft.reason("Queued") != reason:
        draft.event("Normal", "SnapshotWaiting", f"{reason}: {message}")
    return _wait(draft, reason, message, pause_s)


def _failed(draft: Draft, reason: str, message: str) -> SnapshotPlan:
    draft.failed(reason, message)
    return _plan(draft, None, None)


def _plan(draft: Draft, action: SnapshotAction | None, pause_s: float | None) -> SnapshotPlan:
    return SnapshotPlan(draft.body(), action, draft.events, draft.partition_events, pause_s)
