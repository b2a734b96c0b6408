"""Builds the status of a Partition from the results of the other modules. Pure.

Each module may change conditions, add fields, and set the word for the STATUS column. The order
puts the most urgent message first.
"""

from dataclasses import dataclass, field
from typing import cast

from partition_operator.api import names, schema
from partition_operator.api.partition import PartitionSpec
from partition_operator.api.times import stamp
from partition_operator.api.words import MemberRole
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedReplica
from partition_operator.reconcile.partition import (
    conditions,
    deletion,
    fence,
    hibernation,
    rebuild,
    recovery,
    replication,
    restore,
    rollout,
    storage,
    writes,
)
from partition_operator.reconcile.partition.conditions import Condition, written
from partition_operator.reconcile.partition.hibernation import Hibernation
from partition_operator.reconcile.partition.membership import PROMOTE_LAG_MAX, lag
from partition_operator.reconcile.partition.rebuild import Rebuild
from partition_operator.reconcile.partition.recovery import Recovering
from partition_operator.reconcile.partition.replication import Replication
from partition_operator.reconcile.partition.restore import Restoring
from partition_operator.reconcile.partition.rollout import Rollout
from partition_operator.reconcile.partition.writes import PendingWrites
from partition_operator.resources.pdb import quorum

KEPT = frozenset(
    {
        "replicas",
        "readyReplicas",
        "ready",
        "leader",
        "mode",
        "backfill",
        "members",
        "restore",
        "restored",
        "storage",
        "image",
        "podSpecHash",
        "switchover",
        "rebuild",
        "keptPodSpec",
        "revision",
        "updatedReplicas",
        "certificates",
        "clients",
        "quorumLoss",
        "recovery",
    }
)
"""Fields of status that stay while the spec is refused: the group continues to run as before."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The findings of a plan. image: for status.image, "" for none. pod_spec_hash: of the pods'
    spec in the StatefulSet. switchover: the annotation that was followed last. pending: objects
    that differ from the wanted ones. conflict: why the operator can't follow the spec; "" if it
    can. leaving: objects whose deletion must finish first; "" if there are none."""

    cluster_id: str
    bootstrapped: bool
    replication: Replication
    rollout: Rollout
    image: str
    pod_spec_hash: str
    switchover: str
    hibernation: Hibernation
    rebuild: Rebuild
    restoring: Restoring | None = None
    recovering: Recovering = field(default_factory=Recovering)
    pending: PendingWrites = field(default_factory=PendingWrites)
    conflict: str = ""
    leaving: str = ""


def fold(observed: ObservedPartition, standing: Standing) -> schema.PartitionStatus:
    """Returns the whole status. It stays equal while nothing happens, so an idle Partition causes
    no writes."""
    restoring, found = standing.restoring, _conditions(observed, standing)
    body = _common(observed, found, standing.cluster_id, bootstrapped=standing.bootstrapped)
    body |= _group(observed, standing.replication.spec)
    body |= replication.fields(observed, standing.replication)
    if standing.image:
        body["image"] = standing.image
    if standing.pod_spec_hash:
        body["podSpecHash"] = standing.pod_spec_hash
    if standing.switchover:
        body["switchover"] = standing.switchover
    if standing.rebuild.record is not None:
        body["rebuild"] = standing.rebuild.record
    if standing.rollout.revision:
        body["revision"] = standing.rollout.revision
        body["updatedReplicas"] = standing.rollout.updated
    if restoring is not None:
        body |= restoring.fields
    body |= standing.recovering.fields
    if record := observed.partition.status.get("recovery"):
        body["recovery"] = record
    body["state"] = writes.word(found) or restore.word(restoring) or conditions.word(found)
    return body


def refused(observed: ObservedPartition, told: list[Condition]) -> schema.PartitionStatus:
    """Returns the status while the spec is refused. The recorded fields of the group stay, because
    it continues to run. told: conditions that are still evaluated."""
    old = observed.partition.status
    bootstrapped = bool(old.get("bootstrapped"))
    body = _common(observed, told, old.get("clusterID", ""), bootstrapped=bootstrapped)
    kept = {k: v for k, v in old.items() if k in KEPT and k not in body}
    body |= cast(schema.PartitionStatus, kept)
    body["state"] = conditions.word(told)
    known = {condition.type for condition in told}
    body["conditions"] += [c for c in old.get("conditions", []) if c["type"] not in known]
    return body


def _conditions(observed: ObservedPartition, standing: Standing) -> list[Condition]:
    seen, bootstrapped = standing.replication, standing.bootstrapped
    found = conditions.conditions(observed, seen.spec, standing.cluster_id, bootstrapped)
    found = replication.explain(found, observed, seen, bootstrapped=bootstrapped)
    found = rollout.explain(found, standing.rollout)
    found = restore.explain(found, standing.restoring)
    found = rebuild.explain(found, standing.rebuild)
    found = recovery.explain(found, standing.recovering)
    found = deletion.explain(found, observed)
    found = [*found, fence.look(observed).condition]
    found = hibernation.explain(found, standing.hibernation)
    if standing.leaving:
        found = conditions.leaving(found, standing.leaving)
    found = writes.explain(found, observed, standing.pending)
    if standing.conflict:
        told = conditions.refused("Conflict", standing.conflict)
        found = [*told, *(c for c in found if c.type not in {t.type for t in told})]
    return found


def _common(
    observed: ObservedPartition, found: list[Condition], cluster_id: str, *, bootstrapped: bool
) -> schema.PartitionStatus:
    """Returns the fields that every Partition has, whether its spec is valid or not."""
    partition, now = observed.partition, observed.now
    old = {c["type"]: c for c in partition.status.get("conditions", [])}
    body: schema.PartitionStatus = {
        "observedGeneration": partition.generation,
        "conditions": [written(c, old.get(c.type), now, partition.generation) for c in found],
        "selector": ",".join(f"{k}={v}" for k, v in names.selector(partition.name).items()),
    }
    if has := storage.recorded(observed):
        body["storage"] = has
    body |= _certificates(observed)
    if cluster_id:
        body["clusterID"] = cluster_id
        body["bootstrapped"] = bootstrapped
    return body


def _certificates(observed: ObservedPartition) -> schema.PartitionStatus:
    seen = observed.certificates
    body: schema.PartitionStatus = {}
    if seen.ends:
        body["certificates"] = {
            "authority": seen.authority,
            "phase": seen.phase.value,
            "expiresAt": stamp(min(seen.ends.values())),
        }
    if seen.clients:
        body["clients"] = list(seen.clients)
    return body


def _group(observed: ObservedPartition, spec: PartitionSpec) -> schema.PartitionStatus:
    """Returns the fields about pods and members."""
    leader = observed.leader
    ready = sum(p.ready for p in observed.pods)
    body: schema.PartitionStatus = {
        "replicas": len(observed.pods),
        "readyReplicas": ready,
        "ready": f"{ready}/{spec.replicas}",
        "leader": names.pod(observed.partition.name, leader.ordinal) if leader else "",
        "lag": _lag_word(leader),
        "members": _members(observed, leader),
        "quorumCriticalPods": _critical(observed, leader),
    }
    if leader is not None:
        body["term"] = str(leader.term)
    return body


def _lag_word(leader: ObservedReplica | None) -> str:
    """Returns the lag of the slowest member, rounded so that it does not change constantly under
    load."""
    if leader is None:
        return ""
    worst = max((lag(leader, member) for member in leader.members), default=0)
    return "0" if worst <= PROMOTE_LAG_MAX else f"~{10 ** (len(str(worst)) - 1)}"


def _members(observed: ObservedPartition, leader: ObservedReplica | None) -> list[schema.Member]:
    if leader is None:
        return observed.partition.status.get("members", [])
    return [
        {
            "memberID": f"{member.member_id:016x}",
            "pod": names.pod(observed.partition.name, observed.ordinal_of(member.address)),
            "role": MemberRole.VOTER if member.voter else MemberRole.LEARNER,
        }
        for member in leader.members
    ]


def _critical(observed: ObservedPartition, leader: ObservedReplica | None) -> list[str]:
    """Returns the pods whose loss would lose the quorum now."""
    if leader is None:
        return []
    voters = [m for m in leader.members if m.voter]
    active = [m for m in voters if m.recently_active]
    if len(active) > quorum(len(voters)):
        return []
    return sorted(
        names.pod(observed.partition.name, observed.ordinal_of(m.address)) for m in active
    )
