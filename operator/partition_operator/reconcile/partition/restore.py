"""Restores a stored snapshot into a new group. Pure.

Before the StatefulSet exists, a pod restores the snapshot into volume 0. The replica on that volume
then becomes the group's only voter.

The cluster ID is in status before the claim exists, and on the claim before the pod exists. So the
operator never confuses volumes and never overwrites data. `partition-replica snapshot restore`
refuses a volume of another cluster, restarts an interrupted restore, and recognizes a finished one.
"""

import datetime as dt
from dataclasses import dataclass, field, replace
from typing import Any, Final, cast

from partition_common import backoff

from partition_operator.api import names, schema
from partition_operator.api.bootstrap import RestoreFrom
from partition_operator.api.events import Event
from partition_operator.api.partition import STANDALONE
from partition_operator.api.snapshot import STORED, Snapshot, SnapshotState
from partition_operator.api.times import parse_stamp, stamp
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.observed.progress import JobProgress, parse_progress
from partition_operator.reconcile.observed.restore import ObservedRestore
from partition_operator.reconcile.observed.snapshot import volume_lost
from partition_operator.reconcile.partition import placement
from partition_operator.reconcile.partition.actions import (
    Action,
    Apply,
    CreateClaim,
    CreatePod,
    Delete,
    GiveUpVolume,
    RecordRestored,
)
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.resources import services, snapshot_pods
from partition_operator.resources.snapshot_pods import PodResult, SnapshotLocation

TYPE: Final = "Restored"
"""The condition's type."""
NEVER = dt.timedelta.max
PENDING = dt.timedelta(minutes=15)
"""A pod that has not started within this time is recreated: the node it needs may have changed."""
KEPT = ("snapshotID", "lsn", "term", "digest", "keys", "files", "sizeBytes")
"""The fields of the pod's report that status records."""


@dataclass(frozen=True, slots=True)
class Restoring:
    """The state of a restore. done: it is complete, and the normal steps continue. final: it has
    failed and is not retried. waiting: it waits for a user or another object. fields: of status."""

    condition: Condition
    action: Action | None = None
    done: bool = False
    final: bool = False
    waiting: bool = False
    fields: schema.PartitionStatus = field(default_factory=schema.PartitionStatus)


def step(observed: ObservedPartition, cluster_id: str, image: str) -> Restoring | None:
    """Returns the next step of the restore, or None if the Partition restores nothing."""
    source = observed.partition.spec().restore
    status = observed.partition.status
    if source is None or (status.get("bootstrapped") and "restored" not in status):
        return None
    seen = observed.restore or ObservedRestore()
    if "restored" in status:
        return _done(status, seen)
    found = _next(observed, source, seen, cluster_id, image)
    record = _record(status.get("restore") or {}, seen)
    return replace(found, fields={"restore": record} if record else {})


def _record(old: schema.Restore, seen: ObservedRestore) -> schema.Restore:
    """Returns status.restore. If an attempt reports no progress, the last progress stays."""
    attempts = max(
        int(old.get("attempts", 0)), snapshot_pods.attempt_of(seen.pod) if seen.pod else 0
    )
    if not attempts:
        return {}
    record: schema.Restore = {"attempts": attempts}
    progress = seen.progress
    if progress is None and attempts == old.get("attempts"):
        progress = parse_progress(old)
    if progress is not None:
        record |= {"phase": progress.phase, "percent": progress.percent}
    return record


def explain(found: list[Condition], restoring: Restoring | None) -> list[Condition]:
    """Returns the conditions, adapted while a restore is in progress, and Restored."""
    if restoring is None:
        return found
    if restoring.done:
        return [*found, restoring.condition]
    ready = Condition("Ready", False, word(restoring), restoring.condition.message)
    return [*(ready if c.type == "Ready" else c for c in found), restoring.condition]


def word(restoring: Restoring | None) -> str:
    """Returns the word for the STATUS column; "" if no restore is in progress."""
    if restoring is None or restoring.done:
        return ""
    return "RestoreFailed" if restoring.final else "Restoring"


def event(old: schema.Condition | None, new: schema.Condition, state: str) -> Event | None:
    """Returns the event for a change of the condition Restored. state: the STATUS column."""
    was = old["reason"] if old is not None else ""
    if old is not None and (old["status"], was) == (new["status"], new["reason"]):
        return None
    if new["status"] == "True":
        return Event("Normal", "RestoreCompleted", new["message"])
    if new["reason"] == Reason.RESTORING:
        begun = was in (Reason.RESTORING, Reason.RETRYING)
        return None if begun else Event("Normal", "RestoreStarted", new["message"])
    kind = "RestoreFailed" if state == "RestoreFailed" else "RestoreWaiting"
    return Event("Warning", kind, f"{new['reason']}: {new['message']}")


# --- steps ------------------------------------------------------------------------------------


def _next(
    observed: ObservedPartition,
    source: RestoreFrom,
    seen: ObservedRestore,
    cluster_id: str,
    image: str,
) -> Restoring:
    partition = observed.partition
    claim = next((c for c in observed.claims if c.ordinal == 0), None)
    claim_name = names.claim(partition.name, 0)
    if claim.cluster_id != cluster_id if claim is not None else seen.claimed:
        return _waiting(
            "VolumesFound",
            f"PersistentVolumeClaim {claim_name} exists and does not belong to this group, so the "
            "operator does not restore into it: delete it, or rename the Partition",
        )
    if seen.taken:
        name = names.restore_pod(partition.name)
        message = f"pod {name} belongs to another owner: delete it, or rename the Partition"
        return _waiting("Conflict", message)
    if claim is not None and (claim.lost or 0 in observed.lost):
        return _another_volume(observed, claim, seen.pod)
    found = _resolve(source, seen)
    if seen.pod is not None:
        return _pod(observed, seen.pod, found, seen.progress)
    if isinstance(found, Restoring):
        return found
    return _begin(observed, found, cluster_id, image, claimed=claim is not None)


def _another_volume(
    observed: ObservedPartition, claim: ObservedClaim, pod: dict[str, Any] | None
) -> Restoring:
    """Begins again without a volume that is lost: it has nothing that the snapshot does not
    have."""
    name = names.claim(observed.partition.name, claim.ordinal)
    message = f"the volume of {name} is lost: the restore begins again on another one"
    if pod is not None:
        ends = "deletionTimestamp" in pod["metadata"]
        return _restoring(message, None if ends else _delete(pod), retrying=True)
    keep = observed.partition.spec().keep_replaced
    give_up = GiveUpVolume(claim.ordinal, claim.uid, claim.volume, keep)
    return _restoring(message, None if claim.deleting else give_up, retrying=True)


def _begin(
    observed: ObservedPartition,
    found: SnapshotLocation,
    cluster_id: str,
    image: str,
    *,
    claimed: bool,
) -> Restoring:
    """Creates what the restoring pod needs, then the pod. claimed: volume 0's claim exists."""
    partition, spec = observed.partition, observed.partition.spec()
    account = ("ServiceAccount", names.client_service(partition.name))
    if account not in observed.objects:
        return _restoring("preparing the restore", Apply(services.build_account(partition)))
    if not claimed:
        body = snapshot_pods.build_claim(partition, spec, cluster_id)
        return _restoring("preparing the restore", CreateClaim(body))
    attempt = int((partition.status.get("restore") or {}).get("attempts", 0)) + 1
    body = snapshot_pods.build_restore(
        partition,
        spec,
        found,
        cluster_id,
        image,
        attempt,
        standalone=spec.mode == STANDALONE,
    )
    return _restoring(f"creating pod {names.restore_pod(partition.name)}", CreatePod(body))


def _resolve(source: RestoreFrom, seen: ObservedRestore) -> SnapshotLocation | Restoring:
    """Returns where to read the snapshot from, or what the restore waits for."""
    if not source.snapshot_ref:
        assert source.store is not None, "one of both is given"
        if seen.refusal is not None:
            return _waiting(seen.refusal.reason, seen.refusal.message)
        return SnapshotLocation(source.store, source.snapshot_id, authority=seen.authority)
    name, snapshot = source.snapshot_ref, seen.snapshot
    if snapshot is None:
        return _waiting(
            "SnapshotNotFound",
            f"waiting for PartitionSnapshot {name}, which does not exist in this namespace; if the "
            "name is wrong, delete this Partition and create it with the right name (`kubectl get "
            "partitionsnapshots`)",
        )
    if unusable := _unusable(snapshot, seen):
        return unusable
    if seen.refusal is not None:
        return _waiting(seen.refusal.reason, seen.refusal.message)
    return snapshot_pods.source_of(snapshot, seen.running, authority=seen.authority)


def _unusable(snapshot: Snapshot, seen: ObservedRestore) -> Restoring | None:
    """Returns why a PartitionSnapshot can't be read, or not yet; None if it can."""
    name = snapshot.name
    if snapshot.state == SnapshotState.FAILED:
        return _waiting(
            "SnapshotFailed",
            f"PartitionSnapshot {name} has failed: delete this Partition and create it with a "
            "snapshot that succeeded",
        )
    if snapshot.state == SnapshotState.REMOVING:
        return _waiting(
            "SnapshotRemoved",
            f"retention is deleting PartitionSnapshot {name}: delete this Partition and create it "
            "with another snapshot",
        )
    if snapshot.state not in STORED:
        return _waiting("SnapshotNotReady", f"PartitionSnapshot {name} has not succeeded yet")
    if snapshot.lost or volume_lost(snapshot, seen.volumes):
        return _waiting(
            "SnapshotVolumeLost",
            f"the volume with PartitionSnapshot {name} is lost: delete this Partition and create "
            "it with another snapshot",
        )
    return None


def _pod(
    observed: ObservedPartition,
    pod: dict[str, Any],
    found: SnapshotLocation | Restoring,
    progress: JobProgress | None,
) -> Restoring:
    """Returns the step for an existing pod. found: the location that a new pod would read from."""
    name = pod["metadata"]["name"]
    owners = pod["metadata"].get("ownerReferences") or []
    if any(owner["uid"] != observed.partition.uid for owner in owners if owner.get("controller")):
        return _restoring(f"waiting for the deletion of pod {name} of an earlier Partition")
    if "deletionTimestamp" in pod["metadata"]:
        node, ends = pod["spec"].get("nodeName", ""), pod["metadata"]["deletionTimestamp"]
        stuck = placement.why_stuck(name, node, ends, observed.now)
        return _restoring(stuck or f"waiting for pod {name} to end", retrying=True)
    outcome = snapshot_pods.outcome(pod, observed.now, NEVER)
    if outcome is None:
        return _under_way(observed, pod, found, progress)
    if outcome.succeeded:
        said = {key: outcome.report[key] for key in KEPT if key in outcome.report}
        numbers = {key: str(said.get(key, "")) for key in ("lsn", "term")}
        record = cast(schema.Restored, said | numbers)
        return _restoring(f"pod {name} has restored volume 0", RecordRestored(record))
    if not outcome.retriable:
        return _failed(observed, outcome)
    return _again(observed, pod, outcome)


def _under_way(
    observed: ObservedPartition,
    pod: dict[str, Any],
    found: SnapshotLocation | Restoring,
    progress: JobProgress | None,
) -> Restoring:
    name = pod["metadata"]["name"]
    if why := _outdated(observed, pod, found):
        return _restoring(f"recreating pod {name}: {why}", _delete(pod), retrying=True)
    if (pod.get("status") or {}).get("phase") != "Running":
        return _restoring(f"waiting for pod {name}: {snapshot_pods.waiting_for(pod)}")
    record = observed.partition.status.get("restore") or {}
    if record.get("attempts") == snapshot_pods.attempt_of(pod):
        progress = progress or parse_progress(record)
    far = f": {progress}" if progress is not None else ""
    return _restoring(f"pod {name} restores volume 0{far}")


def _again(observed: ObservedPartition, pod: dict[str, Any], outcome: PodResult) -> Restoring:
    """Returns the step between two attempts: after the pause the failed pod is deleted."""
    attempt = snapshot_pods.attempt_of(pod)
    pause = backoff.RESTORE.after(attempt)
    again = _finished(pod) + dt.timedelta(seconds=pause)
    message = f"attempt {attempt} failed: {outcome.reason}: {outcome.message}; next attempt"
    if observed.now < again:
        return Restoring(
            Condition(TYPE, False, Reason.RETRYING, f"{message} at {stamp(again)}"),
        )
    return Restoring(Condition(TYPE, False, Reason.RETRYING, f"{message} now"), _delete(pod))


def _outdated(
    observed: ObservedPartition, pod: dict[str, Any], found: SnapshotLocation | Restoring
) -> str:
    """Returns why a pod that has not started can't or should not start; "" if it may."""
    if (pod.get("status") or {}).get("phase", "Pending") != "Pending":
        return ""
    if isinstance(found, Restoring):
        return f"{found.condition.reason}: {found.condition.message}"
    scheduled = bool(pod["spec"].get("nodeName"))
    if not scheduled and snapshot_pods.beside_of(pod) != found.beside:
        return f"it must run beside {found.beside or 'no other pod'} now"
    created = parse_stamp(pod["metadata"].get("creationTimestamp"))
    if created is not None and observed.now - created >= PENDING:
        return snapshot_pods.waiting_for(pod)
    return ""


def _failed(observed: ObservedPartition, outcome: PodResult) -> Restoring:
    name = observed.partition.name
    way_out = (
        "to retry once the cause is fixed: kubectl delete pod "
        f"{names.restore_pod(name)}; to restore another snapshot: delete this Partition and "
        f"PersistentVolumeClaim {names.claim(name, 0)}, and create the Partition again"
    )
    message = f"{outcome.message.rstrip('. ')}; {way_out}"
    return Restoring(Condition(TYPE, False, outcome.reason, message), final=True)


def _done(status: schema.PartitionStatus, seen: ObservedRestore) -> Restoring:
    record = status["restored"]
    message = f"restored from snapshot {record.get('snapshotID')} at LSN {record.get('lsn')}"
    pod, action = seen.pod, None
    if pod is not None and "deletionTimestamp" not in pod["metadata"]:
        # The completed pod is no longer needed.
        action = _delete(pod)
    condition = Condition(TYPE, True, "Restored", message)
    return Restoring(condition, action, done=True, fields={"restored": record})


def _delete(pod: dict[str, Any]) -> Delete:
    return Delete("Pod", pod["metadata"]["name"], pod["metadata"]["uid"])


def _finished(pod: dict[str, Any]) -> dt.datetime:
    state = snapshot_pods.own_container_state(pod)
    ended = parse_stamp((state.get("terminated") or {}).get("finishedAt"))
    created = parse_stamp(pod["metadata"].get("creationTimestamp"))
    return ended or created or dt.datetime.fromtimestamp(0, dt.UTC)


def _restoring(message: str, action: Action | None = None, *, retrying: bool = False) -> Restoring:
    reason = Reason.RETRYING if retrying else Reason.RESTORING
    return Restoring(Condition(TYPE, False, reason, message), action)


def _waiting(reason: str, message: str) -> Restoring:
    return Restoring(Condition(TYPE, False, reason, message), waiting=True)
