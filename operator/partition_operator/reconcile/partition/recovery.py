"""Recovers a lost quorum from the survivor that a user names in an annotation. Pure.

1. The order is checked against status.quorumLoss, and recorded as *Accepted* with the new cluster
   ID, before anything is done.
2. The survivor gets the order. It makes itself the only voter of the new cluster, and restarts.
3. Once it reports the new cluster ID, status takes it over: *Switched*. The group serves.
4. Claims of new, empty volumes are annotated anew, and their replicas join as usual. Volumes of the
   former cluster stay as they are, and are named: a user deletes them, and nobody else.
5. When none is left, the recovery is *Complete*.

The replicas of the former cluster are set apart from the others all the time, so that no other
step takes one of them for a member.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from partition_operator.api import names, schema
from partition_operator.api.events import Event
from partition_operator.api.words import Reason, RecoveryPhase
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedReplica
from partition_operator.reconcile.partition import quorum_loss
from partition_operator.reconcile.partition.actions import (
    Action,
    RecordRecovery,
    RecoverQuorum,
)
from partition_operator.reconcile.partition.conditions import Condition

TYPE: Final = "QuorumRecovered"
VOLUMES_LEFT: Final = "VolumesLeft"
REFUSED: Final = "Refused"
SHAPE = '{"from": "<pod>", "acceptLoss": "<status.quorumLoss.token>"}'


@dataclass(frozen=True, slots=True)
class Recovering:
    """condition: None if nobody asked for a recovery. action: the next step; None if there is
    nothing to do, or not yet. loss: for status.quorumLoss."""

    condition: Condition | None = None
    action: Action | None = None
    loss: schema.QuorumLoss | None = None

    @property
    def fields(self) -> schema.PartitionStatus:
        return {} if self.loss is None else {"quorumLoss": self.loss}


@dataclass(frozen=True, slots=True)
class Order:
    """The annotation: recover the group from `pod`, and accept the loss of `token`."""

    pod: str
    token: str


def set_apart(observed: ObservedPartition) -> ObservedPartition:
    """Moves the replicas of the other cluster of a recovery to `observed.apart`: the new one before
    status has its ID, the former one afterwards."""
    other = _other_cluster(observed)
    if not other:
        return observed
    return replace(
        observed,
        replicas=tuple(r for r in observed.replicas if r.cluster_id != other),
        apart=tuple(r for r in observed.replicas if r.cluster_id == other),
    )


def mismarked(observed: ObservedPartition) -> list[int]:
    """Returns the ordinals of claims that have the annotation of the former cluster and whose
    volumes belong to this one or to none, as their replicas report."""
    former = _former(observed)
    return [
        claim.ordinal
        for claim in observed.claims
        if former and claim.cluster_id == former and observed.replica(claim.ordinal) is not None
    ]


def look(observed: ObservedPartition, draw: Callable[[], str] = str) -> Recovering:
    """Returns the state of the recovery. observed: after `set_apart`. draw: returns the ID of the
    new cluster."""
    record = observed.partition.status.get("recovery")
    loss = quorum_loss.look(observed)
    if record and record.get("phase") == RecoveryPhase.ACCEPTED:
        return replace(_accepted(observed, record), loss=loss)
    asked = observed.partition.annotation(names.ANNOTATION_RECOVER)
    if asked:
        order = parse(asked)
        if isinstance(order, str):
            return Recovering(_refused(order), loss=loss)
        if not record or order.token != record.get("acceptLoss"):
            return replace(_begin(observed, order, loss, draw), loss=loss)
    if record:
        return replace(_switched(observed, record), loss=loss)
    return Recovering(loss=loss)


def explain(found: list[Condition], recovering: Recovering) -> list[Condition]:
    """Returns the conditions, and QuorumRecovered if somebody asked for a recovery."""
    return found if recovering.condition is None else [*found, recovering.condition]


def event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    """Returns the event for a change of the condition QuorumRecovered."""
    was = old["reason"] if old is not None else ""
    if new["reason"] == Reason.RECOVERING:
        begun = was in (Reason.RECOVERING, VOLUMES_LEFT)
        return None if begun else Event("Warning", "RecoveryStarted", new["message"])
    if old is not None and (was, old["message"]) == (new["reason"], new["message"]):
        return None
    if new["status"] == "True":
        return Event("Normal", "RecoveryCompleted", new["message"])
    kind = "RecoveryRefused" if new["reason"] == REFUSED else "RecoveryWaiting"
    return Event("Warning", kind, new["message"])


def parse(text: str) -> Order | str:
    """Parses the annotation. Returns what is wrong with it if it is not valid."""
    wrong = f"annotation {names.ANNOTATION_RECOVER} must be {SHAPE}"
    try:
        found: Any = json.loads(text)
    except ValueError as error:
        return f"{wrong}; it is not JSON ({error})"
    if not isinstance(found, dict) or set(found) != {"from", "acceptLoss"}:
        return f"{wrong}, with these two fields"
    pod, token = found["from"], found["acceptLoss"]
    if not (isinstance(pod, str) and pod and isinstance(token, str) and token):
        return f"{wrong}; both values are text"
    return Order(pod, token)


# --- steps ------------------------------------------------------------------------------------


def _begin(
    observed: ObservedPartition,
    order: Order,
    loss: schema.QuorumLoss | None,
    draw: Callable[[], str],
) -> Recovering:
    if loss is None:
        return Recovering(
            _refused_order(
                order,
                "the quorum is not lost for good: a leader exists or may be elected, because too "
                "few volumes are known to be lost. See status.quorumLoss, which is absent now",
            )
        )
    if order.token != loss.get("token"):
        return Recovering(
            _refused_order(
                order,
                "it does not accept the loss as it is now: look at status.quorumLoss again, and "
                "give its token",
            )
        )
    row = next((row for row in loss["survivors"] if row.get("pod") == order.pod), None)
    replica = None if row is None else _replica(observed, order.pod)
    if row is None or replica is None:
        pods = ", ".join(row["pod"] for row in loss["survivors"])
        return Recovering(
            _refused_order(order, f"it is no survivor that answers; the survivors are {pods}")
        )
    former = observed.partition.status["clusterID"]
    token = quorum_loss.member_token(former, row)
    if not token:
        return Recovering(
            _refused_order(order, "its replica is of a version that can't recover a quorum")
        )
    record: schema.Recovery = {
        "phase": RecoveryPhase.ACCEPTED,
        "from": order.pod,
        "memberID": row["memberID"],
        "acceptLoss": order.token,
        "memberToken": token,
        "lastLSN": row["lastLSN"],
        "clusterID": draw(),
        "formerClusterID": former,
    }
    return Recovering(_recovering(f"{order.pod} is to recover the group"), RecordRecovery(record))


def _accepted(observed: ObservedPartition, record: schema.Recovery) -> Recovering:
    pod, cluster_id = record["from"], record["clusterID"]
    told = f"{pod} becomes the only voter of the new cluster {cluster_id}"
    apart = next((r for r in observed.apart if _pod(observed, r) == pod), None)
    if apart is not None:
        switched: schema.Recovery = {**record, "phase": RecoveryPhase.SWITCHED}
        return Recovering(_recovering(told), RecordRecovery(switched, cluster_id))
    replica = _replica(observed, pod)
    if replica is None:
        return Recovering(_recovering(f"{told}: waiting for it to answer"))
    if observed.leader is not None:
        return _dropped(record, f"{_pod(observed, observed.leader)} leads again")
    if _row_token(observed, replica) != record["memberToken"]:
        return _dropped(record, f"{pod} has changed since the loss was accepted")
    member = int(record["memberID"], 16)
    order = RecoverQuorum(replica.ordinal, member, cluster_id, record["memberToken"])
    return Recovering(_recovering(told), order)


def _dropped(record: schema.Recovery, why: str) -> Recovering:
    """The survivor still belongs to the former cluster, and is of another state than accepted: its
    replica would refuse the order."""
    return Recovering(
        _refused_order(
            Order(record["from"], record["acceptLoss"]),
            f"{why}, so nothing was changed. Look at status.quorumLoss again",
        ),
        RecordRecovery(None),
    )


def _switched(observed: ObservedPartition, record: schema.Recovery) -> Recovering:
    pod, cluster_id = record["from"], record["clusterID"]
    told = f"the group was recovered from {pod} as cluster {cluster_id}"
    if left := _left(observed):
        return Recovering(Condition(TYPE, False, VOLUMES_LEFT, f"{told}. {left}"))
    complete = record.get("phase") == RecoveryPhase.COMPLETE
    if complete:
        message = f"{told}: entries up to LSN {record['lastLSN']} were kept"
        return Recovering(Condition(TYPE, True, Reason.RECOVERED, message))
    former = [c.ordinal for c in observed.claims if c.cluster_id == record["formerClusterID"]]
    if observed.leader is None:
        return Recovering(_recovering(f"{told}: waiting for it to lead"))
    if former:
        pods = ", ".join(names.pod(observed.partition.name, n) for n in former)
        return Recovering(
            _recovering(f"{told}: waiting for {pods} to say which cluster their volumes belong to")
        )
    done: schema.Recovery = {**record, "phase": RecoveryPhase.COMPLETE}
    return Recovering(_recovering(told), RecordRecovery(done))


def _left(observed: ObservedPartition) -> str:
    """Names the volumes of the former cluster that block a replica; "" if none does.

    The claims are not deleted here: a user may want to look at the data first. GiveUpVolume, which
    keeps the volume, could do it for each of them.
    """
    name, former = observed.partition.name, _former(observed)
    lost = [c.ordinal for c in observed.claims if c.cluster_id == former]
    ordinals = {n for n in lost if n in observed.lost} | {r.ordinal for r in observed.apart}
    if not ordinals:
        return ""
    claims = ", ".join(names.claim(name, ordinal) for ordinal in sorted(ordinals))
    pods = ", ".join(names.pod(name, ordinal) for ordinal in sorted(ordinals))
    return (
        f"The volumes of {pods} belong to the former cluster and are not used. Delete "
        f"PersistentVolumeClaims {claims} and pods {pods} to give these replicas new volumes: "
        f"kubectl delete pvc --wait=false, then kubectl delete pod. To keep the data, first set "
        "persistentVolumeReclaimPolicy of their PersistentVolumes to Retain"
    )


# --- values -----------------------------------------------------------------------------------


def _former(observed: ObservedPartition) -> str:
    """Returns the former cluster's ID once status has the new one; else ""."""
    record = observed.partition.status.get("recovery") or {}
    accepted = record.get("phase") == RecoveryPhase.ACCEPTED
    return "" if accepted else record.get("formerClusterID", "")


def _other_cluster(observed: ObservedPartition) -> str:
    record = observed.partition.status.get("recovery") or {}
    if record.get("phase") == RecoveryPhase.ACCEPTED:
        return record.get("clusterID", "")
    return _former(observed)


def _row_token(observed: ObservedPartition, replica: ObservedReplica) -> str:
    cluster_id = observed.partition.status["clusterID"]
    return quorum_loss.member_token(cluster_id, quorum_loss.row(observed, replica))


def _replica(observed: ObservedPartition, pod: str) -> ObservedReplica | None:
    return next((r for r in observed.replicas if _pod(observed, r) == pod), None)


def _pod(observed: ObservedPartition, replica: ObservedReplica) -> str:
    return names.pod(observed.partition.name, replica.ordinal)


def _recovering(message: str) -> Condition:
    return Condition(TYPE, False, Reason.RECOVERING, message)


def _refused_order(order: Order, why: str) -> Condition:
    """Names the order: who gives another one must not take this refusal for an answer to it."""
    return _refused(f"the order to recover from {order.pod} with token {order.token}: {why}")


def _refused(message: str) -> Condition:
    return Condition(TYPE, False, REFUSED, message)
