"""Verifies a stored snapshot: a job on a replica checks its checksums, or a temporary pod restores
it. Pure. The result is the condition Verified; the snapshot itself never changes.

If the verification itself fails (the store does not answer, the pod finds no node), the condition
stays Unknown.
"""

import datetime as dt
from typing import Any

from partition_common import backoff

from partition_operator.api import names, schema
from partition_operator.api.destination import Destination
from partition_operator.api.snapshot import SnapshotState, VerifyMethod
from partition_operator.api.times import parse_stamp, stamp
from partition_operator.api.words import JobState, Reason
from partition_operator.reconcile.observed.progress import JobProgress, stepped
from partition_operator.reconcile.observed.snapshot import NoJob, ObservedJob, ObservedSnapshot
from partition_operator.reconcile.snapshot import sources
from partition_operator.reconcile.snapshot.actions import (
    CreateVerifyPod,
    DeletePod,
    SnapshotAction,
    StartVerify,
)
from partition_operator.reconcile.snapshot.status import Draft
from partition_operator.resources import snapshot_pods
from partition_operator.resources.snapshot_pods import PodResult

ATTEMPTS_MAX = 3
GIVEN_UP = dt.timedelta(hours=12)
"""After this time a verification ends without a result, no matter what it waits for."""
PENDING = dt.timedelta(minutes=15)
"""A pod that does not start within this time counts as a failed attempt."""
SILENT = dt.timedelta(seconds=60)
TAKEN_POLL_S = 30.0
"""Seconds between checks whether the pod's name has become free."""


def begin(draft: Draft, method: VerifyMethod) -> None:
    """Records the verification in the same status that records the success."""
    if method == VerifyMethod.NONE:
        draft.condition("Verified", None, "NotRequested", "no verification: spec verify is None")
        return
    draft.set(verification={"method": str(method), "attempts": 0})
    draft.condition("Verified", None, "Waiting", f"verification {method} begins soon")


def next_step(view: ObservedSnapshot, draft: Draft, image: str) -> SnapshotAction | None:
    """Returns the next step. After the end of a verification its pod is deleted."""
    if not view.snapshot.verifying:
        return _delete(view.pod)
    record = draft.fields["verification"].copy()
    stored = view.snapshot.completed or view.now
    if view.now - stored >= GIVEN_UP:
        hours = int(GIVEN_UP.total_seconds() // 3600)
        _inconclusive(view, draft, record, "TimedOut", f"no result within {hours} hours")
        return None
    if view.refusal is not None:
        _inconclusive(view, draft, record, view.refusal.reason, view.refusal.message)
        return None
    again = parse_stamp(record.get("nextAttemptTime"))
    if again is not None and view.now < again:
        # The pod of the failed attempt is deleted: the next pod needs its name.
        return _delete(view.pod)
    if record["method"] == VerifyMethod.RESTORE:
        return _restore(view, draft, record, image)
    return _checksum(view, draft, record)


# --- by a job on a replica --------------------------------------------------------------------


def _checksum(
    view: ObservedSnapshot, draft: Draft, record: schema.Verification
) -> SnapshotAction | None:
    if view.group is None or view.replaced:
        # No replica of its group exists any more.
        _inconclusive(view, draft, record, "PartitionNotFound", "its Partition was deleted")
        return None
    if not record.get("jobID") or record.get("nextAttemptTime"):
        return _start_job(view, draft, record)
    job = view.job
    if isinstance(job, ObservedJob):
        if job.state == JobState.SUCCEEDED:
            _verified(view, draft, record, "every object and its digest is as written")
        elif job.state == JobState.FAILED:
            _failed_attempt(view, draft, record, job.reason, job.message, retriable=job.retriable)
        else:
            if record.pop("silentSince", None) is not None:
                draft.set(verification=record)
            far = JobProgress(job.phase or job.state, stepped(job.percent))
            text = f"{record['pod']} reads the whole snapshot: {far}"
            draft.condition("Verified", None, "Verifying", text)
        return None
    if job is NoJob.UNKNOWN and not record.get("restarted"):
        # The job was not requested yet, or the replica was restarted. The request is repeated once,
        # with the same ID.
        record["restarted"] = True
        draft.set(verification=record)
        return StartVerify(_ordinal(record["pod"]), record["jobID"], _stored(view))
    since = parse_stamp(record.get("silentSince")) or view.now
    record["silentSince"] = stamp(since)
    draft.set(verification=record)
    if job is NoJob.UNKNOWN or view.now - since >= SILENT:
        message = f"{record['pod']} does not answer, or was restarted"
        _failed_attempt(view, draft, record, Reason.SOURCE_UNREACHABLE, message, retriable=True)
    return None


def _start_job(
    view: ObservedSnapshot, draft: Draft, record: schema.Verification
) -> SnapshotAction | None:
    assert view.group is not None, "it was looked for before"
    found = sources.candidates(view.group)
    status = view.snapshot.status
    if "volume" in status["destination"]:
        pod = status["sourcePod"]
        found = [r for r in found if names.pod(view.snapshot.partition, r.ordinal) == pod]
    source = sources.choose(
        found,
        partition=view.snapshot.partition,
        base=status.get("sourcePod", ""),
        avoid=record.get("pod", ""),
    )
    if source is None:
        message = "no replica can read the snapshot now"
        draft.condition("Verified", None, "WaitingForReplica", message)
        return None
    attempt = record["attempts"] + 1
    pod = names.pod(view.snapshot.partition, source.ordinal)
    record = {
        "method": record["method"],
        "attempts": attempt,
        "jobID": f"{view.snapshot.uid}/verify-{attempt}",
        "pod": pod,
    }
    draft.set(verification=record)
    draft.condition("Verified", None, "Verifying", f"{pod} reads the whole snapshot")
    return StartVerify(source.ordinal, record["jobID"], _stored(view))


# --- by a restore in a pod --------------------------------------------------------------------


def _restore(
    view: ObservedSnapshot, draft: Draft, record: schema.Verification, image: str
) -> SnapshotAction | None:
    if view.taken:
        name = names.verify_pod(view.snapshot.name)
        text = (
            f"pod {name} belongs to another owner: delete it, or create a PartitionSnapshot with "
            "another name"
        )
        draft.condition("Verified", None, "Conflict", text)
        return None
    if record.get("nextAttemptTime") or record["attempts"] == 0:
        if view.pod is not None:
            return _delete(view.pod)
        record = {
            "method": record["method"],
            "attempts": record["attempts"] + 1,
            "pod": names.verify_pod(view.snapshot.name),
        }
        draft.set(verification=record)
        text = f"pod {record['pod']} restores the snapshot"
        draft.condition("Verified", None, "Verifying", text)
    if view.pod is None:
        return _create(view, draft, record, image)
    if snapshot_pods.attempt_of(view.pod) != record["attempts"]:
        return _delete(view.pod)
    _look_at(view, draft, record, snapshot_pods.outcome(view.pod, view.now, PENDING))
    return None


def _create(
    view: ObservedSnapshot, draft: Draft, record: schema.Verification, image: str
) -> SnapshotAction | None:
    """Creates the pod of the recorded attempt."""
    if view.group is None:
        _inconclusive(view, draft, record, "PartitionNotFound", "its Partition was deleted")
        return None
    if view.refused:
        _pod_refused(view, draft, record["pod"])
        return None
    group, snapshot = view.group, view.snapshot
    running = frozenset(names.pod(group.partition.name, p.ordinal) for p in group.pods)
    source = snapshot_pods.source_of(snapshot, running, authority=view.authority)
    attempt = record["attempts"]
    return CreateVerifyPod(
        snapshot_pods.build_verify(snapshot, group.partition, source, image, attempt)
    )


def _look_at(
    view: ObservedSnapshot, draft: Draft, record: schema.Verification, outcome: PodResult | None
) -> None:
    """Evaluates the attempt's pod. outcome: None while it runs."""
    if outcome is None:
        if view.progress is not None:
            text = f"pod {record['pod']} restores the snapshot: {view.progress}"
            draft.condition("Verified", None, "Verifying", text)
    elif outcome.succeeded:
        digest = outcome.report.get("digest", "")
        _verified(view, draft, record, f"restored in a temporary pod, with equal digest {digest}")
    else:
        _failed_attempt(
            view, draft, record, outcome.reason, outcome.message, retriable=outcome.retriable
        )


def _pod_refused(view: ObservedSnapshot, draft: Draft, pod: str) -> None:
    """Reports a refused pod, with one event per text. The operator retries until GIVEN_UP."""
    again = "the operator retries at least once a minute"
    text = f"the API server refuses pod {pod}: {view.refused} ({again})"
    conditions = view.snapshot.status.get("conditions") or []
    if not any(c["type"] == "Verified" and c["message"] == text for c in conditions):
        draft.event("Warning", "PodRefused", text)
    draft.condition("Verified", None, "PodRefused", text)


def _delete(pod: dict[str, Any] | None) -> SnapshotAction | None:
    if pod is None or "deletionTimestamp" in pod["metadata"]:
        return None
    return DeletePod(pod["metadata"]["name"], pod["metadata"]["uid"])


# --- its ends ---------------------------------------------------------------------------------

DAMAGED = frozenset(
    {Reason.SNAPSHOT_DAMAGED, "SnapshotNotFound", "UnsupportedFormat", "VolumeDamaged"}
)
"""Reasons that mean that the snapshot is damaged. With others it could not be read."""


def _failed_attempt(
    view: ObservedSnapshot,
    draft: Draft,
    record: schema.Verification,
    reason: str,
    message: str,
    *,
    retriable: bool,
) -> None:
    if not retriable and reason in DAMAGED:
        text = f"{message}; keep another snapshot, and take a new one with spec.full: true"
        draft.set(verification=record | {"completionTime": stamp(view.now)})
        draft.set(state=str(SnapshotState.VERIFY_FAILED), message=f"{reason}: {text}")
        draft.condition("Verified", False, reason, text)
        draft.event("Warning", "VerifyFailed", f"{reason}: {text}", both=True)
        return
    if not retriable or record["attempts"] >= ATTEMPTS_MAX:
        _inconclusive(view, draft, record, reason or "Failed", message)
        return
    pause = backoff.VERIFICATION.after(record["attempts"])
    again = stamp(view.now + dt.timedelta(seconds=pause))
    draft.set(verification=record | {"nextAttemptTime": again})
    text = f"{reason}: {message}; next attempt at {again}"
    draft.condition("Verified", None, "Retrying", text)


def _inconclusive(
    view: ObservedSnapshot, draft: Draft, record: schema.Verification, reason: str, message: str
) -> None:
    draft.set(verification=record | {"completionTime": stamp(view.now)})
    draft.condition("Verified", None, reason, message)
    text = f"no result: the snapshot could not be verified and may be good: {reason}: {message}"
    draft.event("Warning", "VerifyFailed", text, both=True)


def _verified(
    view: ObservedSnapshot, draft: Draft, record: schema.Verification, message: str
) -> None:
    draft.set(verification=record | {"completionTime": stamp(view.now)})
    draft.set(state=str(SnapshotState.VERIFIED))
    draft.condition("Verified", True, str(record["method"]), message)
    draft.event("Normal", "SnapshotVerified", f"{record['method']}: {message}")


def _stored(view: ObservedSnapshot) -> Destination:
    found = view.snapshot.stored_in()
    assert found is not None, "it is stored"
    return found


def _ordinal(pod: str) -> int:
    return int(pod.rpartition("-")[2])
