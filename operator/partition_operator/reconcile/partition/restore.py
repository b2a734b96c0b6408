"""A group that begins with a stored snapshot: a pod makes volume 0 of it before the StatefulSet
exists, and then the replica on that volume is the group's only voter. Pure.

The cluster ID is in status before the claim exists, and on the claim before the pod does, so a
volume is never taken for somebody else's, and one with data never restored over: `partition-replica
snapshot restore` refuses a volume of another cluster, starts over one that it had begun, and finds
one that it had finished.
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
from partition_operator.reconcile.observed.partition import ObservedPartition
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
    RecordRestored,
)
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.resources import services, snapshot_pods
from partition_operator.resources.snapshot_pods import PodResult, SnapshotLocation

TYPE: Final = "Restored"
"""Of the condition."""
NEVER = dt.timedelta.max
PENDING = dt.timedelta(minutes=15)
"""A pod that has not started within this is made anew: where it must run may have changed."""
KEPT = ("snapshotID", "lsn", "term", "digest", "keys", "files", "sizeBytes")
"""Of the pod's report: what is recorded in status."""


@dataclass(frozen=True, slots=True)
class Restoring:
    """done: the normal order of things goes on. final: it failed and stays so. waiting: for
    somebody to do something. fields: of status."""

    condition: Condition
    action: Action | None = None
    done: bool = False
    final: bool = False
    waiting: bool = False
    fields: schema.PartitionStatus = field(default_factory=schema.PartitionStatus)


def step(observed: ObservedPartition, cluster_id: str, image: str) -> Restoring | None:
    """None where nothing is restored."""
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
    """status.restore. An attempt that does not say how far it is stays where it was."""
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
    """The conditions with what the restore says of them."""
    if restoring is None:
        return found
    if restoring.done:
        return [*found, restoring.condition]
    ready = Condition("Ready", False, word(restoring), restoring.condition.message)
    return [*(ready if c.type == "Ready" else c for c in found), restoring.condition]


def word(restoring: Restoring | None) -> str:
    """For the STATUS column; "" while there is nothing to say."""
    if restoring is None or restoring.done:
        return ""
    return "RestoreFailed" if restoring.final else "Restoring"


def event(old: schema.Condition | None, new: schema.Condition, state: str) -> Event | None:
    """What a change of the condition Restored tells people. state: the STATUS column."""
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
            f"PersistentVolumeClaim {claim_name} exists and is not this group's: nothing is "
            "restored over it; delete it, or give the Partition another name",
        )
    if seen.taken:
        name = names.restore_pod(partition.name)
        return _waiting("Conflict", f"pod {name} is somebody else's: delete it, or rename this")
    found = _resolve(source, seen)
    if seen.pod is not None:
        return _pod(observed, seen.pod, found, seen.progress)
    if isinstance(found, Restoring):
        return found
    return _begin(observed, found, cluster_id, image, claimed=claim is not None)


def _begin(
    observed: ObservedPartition,
    found: SnapshotLocation,
    cluster_id: str,
    image: str,
    *,
    claimed: bool,
) -> Restoring:
    """What the restoring pod needs, then the pod. claimed: the claim of its volume exists."""
    partition, spec = observed.partition, observed.partition.spec()
    account = ("ServiceAccount", names.client_service(partition.name))
    if account not in observed.objects:
        return _restoring("preparing", Apply(services.build_account(partition)))
    if not claimed:
        body = snapshot_pods.build_claim(partition, spec, cluster_id)
        return _restoring("preparing", CreateClaim(body))
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
    return _restoring(f"pod {names.restore_pod(partition.name)} is made", CreatePod(body))


def _resolve(source: RestoreFrom, seen: ObservedRestore) -> SnapshotLocation | Restoring:
    """Where to read from; or what is waited for."""
    if not source.snapshot_ref:
        assert source.store is not None, "one of both is given"
        if seen.refusal is not None:
            return _waiting(seen.refusal.reason, seen.refusal.message)
        return SnapshotLocation(source.store, source.snapshot_id, authority=seen.authority)
    name, snapshot = source.snapshot_ref, seen.snapshot
    if snapshot is None:
        return _waiting(
            "SnapshotNotFound",
            f"PartitionSnapshot {name} does not exist in this namespace: it is waited for; if the "
            "name is wrong, delete this Partition and make it with the right one (`kubectl get "
            "partitionsnapshots`)",
        )
    if unusable := _unusable(snapshot, seen):
        return unusable
    if seen.refusal is not None:
        return _waiting(seen.refusal.reason, seen.refusal.message)
    return snapshot_pods.source_of(snapshot, seen.running, authority=seen.authority)


def _unusable(snapshot: Snapshot, seen: ObservedRestore) -> Restoring | None:
    """Why a PartitionSnapshot can't be read, or not yet; None if it can."""
    name = snapshot.name
    if snapshot.state == SnapshotState.FAILED:
        return _waiting(
            "SnapshotFailed",
            f"PartitionSnapshot {name} has failed: delete this Partition and make it with one that "
            "succeeded",
        )
    if snapshot.state == SnapshotState.REMOVING:
        return _waiting(
            "SnapshotRemoved",
            f"PartitionSnapshot {name} is being removed by retention: delete this Partition and "
            "make it with another one",
        )
    if snapshot.state not in STORED:
        return _waiting("SnapshotNotReady", f"PartitionSnapshot {name} has not succeeded yet")
    if snapshot.lost or volume_lost(snapshot, seen.volumes):
        return _waiting(
            "SnapshotVolumeLost",
            f"the volume on which PartitionSnapshot {name} lay is gone: delete this Partition and "
            "make it with another one",
        )
    return None


def _pod(
    observed: ObservedPartition,
    pod: dict[str, Any],
    found: SnapshotLocation | Restoring,
    progress: JobProgress | None,
) -> Restoring:
    """found: what a pod that is made now would read from."""
    name = pod["metadata"]["name"]
    owners = pod["metadata"].get("ownerReferences") or []
    if any(owner["uid"] != observed.partition.uid for owner in owners if owner.get("controller")):
        return _restoring(f"waiting for pod {name} of an earlier Partition to go")
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
        return _restoring(f"pod {name} is made anew: {why}", _delete(pod), retrying=True)
    if (pod.get("status") or {}).get("phase") != "Running":
        return _restoring(f"waiting for pod {name}: {snapshot_pods.waiting_for(pod)}")
    record = observed.partition.status.get("restore") or {}
    if record.get("attempts") == snapshot_pods.attempt_of(pod):
        progress = progress or parse_progress(record)
    far = f": {progress}" if progress is not None else ""
    return _restoring(f"pod {name} restores volume 0{far}")


def _again(observed: ObservedPartition, pod: dict[str, Any], outcome: PodResult) -> Restoring:
    """The next attempt, after a pause: the failed pod is deleted at its end."""
    attempt = snapshot_pods.attempt_of(pod)
    pause = backoff.RESTORE.after(attempt)
    again = _finished(pod) + dt.timedelta(seconds=pause)
    message = f"attempt {attempt} failed: {outcome.reason}: {outcome.message}; again"
    if observed.now < again:
        return Restoring(
            Condition(TYPE, False, Reason.RETRYING, f"{message} at {stamp(again)}"),
        )
    return Restoring(Condition(TYPE, False, Reason.RETRYING, message), _delete(pod))


def _outdated(
    observed: ObservedPartition, pod: dict[str, Any], found: SnapshotLocation | Restoring
) -> str:
    """Why a pod that has not started never will, or should not; "" where it may."""
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
        f"to try the same again, when its cause is gone: kubectl delete pod "
        f"{names.restore_pod(name)}; to take another snapshot: delete this Partition and "
        f"PersistentVolumeClaim {names.claim(name, 0)}, and make it anew"
    )
    message = f"{outcome.message.rstrip('. ')}; {way_out}"
    return Restoring(Condition(TYPE, False, outcome.reason, message), final=True)


def _done(status: schema.PartitionStatus, seen: ObservedRestore) -> Restoring:
    record = status["restored"]
    message = f"from snapshot {record.get('snapshotID')} at LSN {record.get('lsn')}"
    pod, action = seen.pod, None
    if pod is not None and "deletionTimestamp" not in pod["metadata"]:
        # It holds the volume no more, but its node would be asked for by the next one.
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
