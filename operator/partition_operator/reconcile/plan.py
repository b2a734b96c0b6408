"""The order of concerns: what may be done only after what."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api.partition import UNREPLICATED
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile import (
    conditions,
    membership,
    objects,
    replication,
    restore,
    storage,
    volumes,
)
from partition_operator.reconcile.actions import (
    Action,
    Bootstrap,
    MarkClaim,
    RecordBootstrapped,
    RecordCluster,
)
from partition_operator.reconcile.conditions import Event
from partition_operator.reconcile.observed import Observed
from partition_operator.reconcile.restore import Restoring


@dataclass(frozen=True, slots=True)
class Plan:
    """action: the one step to take now, None where there is nothing to do. status: what to write.
    settled: nothing is under way, so looking less often is enough. hurried: what is under way may
    take less than a second. waiting: it goes on when somebody does something."""

    action: Action | None
    status: dict[str, Any]
    events: list[Event] = field(default_factory=list)
    settled: bool = False
    hurried: bool = False
    waiting: bool = False


def plan(
    observed: Observed,
    image: str,
    draw: Callable[[], str] = lambda: str(uuid.uuid4()),
    backfill_stalled_s: float = replication.STALLED_S,
) -> Plan:
    """One safe step. `image`: the replicas'. `draw`: a new cluster ID. backfill_stalled_s: without
    progress for so long a backfill is reported."""
    partition = observed.partition
    status = partition.status
    cluster_id, bootstrapped = status.get("clusterID", ""), bool(status.get("bootstrapped"))
    try:
        asked = partition.spec()
    except InvalidSpec as error:
        return _refused(observed, "InvalidSpec", str(error))

    way = objects.in_the_way(observed)
    if way:
        return _refused(
            observed,
            "Conflict",
            f"objects of this Partition's names are somebody else's ({way}): rename the Partition, "
            "or remove them",
        )
    if objects.leaving(observed):
        return _plan(observed, None, cluster_id, bootstrapped, backfill_stalled_s)
    if not cluster_id:
        return _without_cluster(observed, image, draw)

    foreign = [r for r in observed.replicas if r.belongs and r.cluster_id != cluster_id]
    if foreign and (found := volumes.mistaken(observed, cluster_id)):
        return _plan(observed, RecordCluster(found), cluster_id, bootstrapped=False)
    if foreign:
        return _refused(
            observed,
            "VolumesFound",
            f"the volume of {partition.name}-{foreign[0].ordinal} belongs to cluster "
            f"{foreign[0].cluster_id}, this Partition is cluster {cluster_id}: delete that "
            "PersistentVolumeClaim and pod to begin that replica anew",
        )
    if why := replication.refusal(observed, asked):
        return _refused(observed, "InvalidSpec", why)
    if mending := storage.mend(observed, asked):
        return _plan(observed, mending.action, cluster_id, bootstrapped, backfill_stalled_s)
    restoring = restore.step(observed, cluster_id, image)
    if restoring is not None and (not restoring.done or restoring.action is not None):
        action = restoring.action
    else:
        action = _next(observed, image, cluster_id, bootstrapped)
    return _plan(observed, action, cluster_id, bootstrapped, backfill_stalled_s, restoring)


def _without_cluster(observed: Observed, image: str, draw: Callable[[], str]) -> Plan:
    """Chooses the group's identity: drawn for new volumes, taken over from found ones."""
    partition = observed.partition
    spec = replication.effective(observed, partition.spec())
    finding = volumes.inspect(observed)
    if len(finding.clusters) > 1:
        ids = ", ".join(sorted(finding.clusters))
        return _refused(
            observed,
            "VolumesFound",
            f"volumes of several clusters ({ids}) carry this Partition's names: keep those of one, "
            "delete the other PersistentVolumeClaims",
        )
    if not finding.clean and not spec.adopt:
        restores = partition.spec().restore is not None
        why = volumes.refusal(finding, partition.name, restores=restores)
        return _refused(observed, "VolumesFound", why)
    if finding.suspicious:
        # Nobody wrote on the claims whose they are: the volumes say it when their pods run.
        count = max(spec.replicas, max(finding.suspicious) + 1)
        action = objects.next_difference(observed, spec, count, 0, image)
        return _plan(observed, action, "", bootstrapped=False)
    if why := replication.misplaced(observed):
        return _refused(observed, "VolumesFound", why)
    chosen = next(iter(finding.clusters), "") or draw()
    return _plan(observed, RecordCluster(chosen), "", bootstrapped=False)


def _may_bootstrap(observed: Observed, cluster_id: str) -> bool:
    """Replica 0's volume is new and marked as ours, nothing says that a group ever existed, and
    every volume that is older than the Partition has said that it is empty."""
    first = observed.replica(0)
    if first is None or first.belongs or observed.partition.status.get("members"):
        return False
    if observed.partition.spec().restore is not None:
        # An empty volume in place of the one that was restored: nothing of it is begun empty.
        return False
    created = observed.partition.body["metadata"].get("creationTimestamp", "")
    for claim in observed.claims:
        replica = observed.replica(claim.ordinal)
        if claim.created < created and (replica is None or replica.belongs):
            return False
    return any(c.ordinal == 0 and c.cluster_id == cluster_id for c in observed.claims)


def _next(observed: Observed, image: str, cluster_id: str, bootstrapped: bool) -> Action | None:
    asked = observed.partition.spec()
    spec = replication.effective(observed, asked)
    pods = membership.pods_wanted(observed, spec.replicas)
    pods = replication.pods_wanted(observed, asked, pods)
    leader = observed.leader
    voters = sum(m.voter for m in leader.members) if leader else _last_voters(observed)
    difference = objects.next_difference(observed, spec, pods, voters, image)
    if difference is not None:
        return difference
    for claim in observed.claims:
        # Before its volume is touched: from then on it is nobody else's.
        if not claim.cluster_id:
            return MarkClaim(claim.ordinal, cluster_id)
    if not bootstrapped:
        if mismarked := volumes.mismarked(observed, cluster_id):
            return MarkClaim(mismarked[0], cluster_id)
        if any(r.belongs and r.members for r in observed.replicas):
            return RecordBootstrapped(cluster_id)
        # A replica that is "joining" was told to wait: it never forms a group.
        may = _may_bootstrap(observed, cluster_id)
        return Bootstrap(0, cluster_id, asked.mode == UNREPLICATED) if may else None
    if replication.unreplicated(observed, asked):
        return replication.next_step(observed, asked)
    return membership.next_change(observed, cluster_id, spec.replicas)


def _last_voters(observed: Observed) -> int:
    return sum(m["role"] == "voter" for m in observed.partition.status.get("members", []))


def _plan(
    observed: Observed,
    action: Action | None,
    cluster_id: str,
    bootstrapped: bool,
    backfill_stalled_s: float = replication.STALLED_S,
    restoring: Restoring | None = None,
) -> Plan:
    seen = replication.look(observed, observed.partition.spec(), backfill_stalled_s)
    found = conditions.conditions(observed, seen.spec, cluster_id, bootstrapped)
    found = replication.explain(found, observed, seen, bootstrapped=bootstrapped)
    found = restore.explain(found, restoring)
    status = conditions.status(observed, seen.spec, found, cluster_id, bootstrapped)
    status = restore.add_to(replication.add_to(status, observed, seen), restoring)
    final = restoring is not None and restoring.final
    settled = action is None and (final or status["state"] == "Ready")
    waiting = restoring is not None and restoring.waiting
    hurried = seen.mode == replication.BACKFILLING and not seen.stalled
    old = observed.partition.status
    events = [*conditions.events(old, status), *restore.events(old, status)]
    return Plan(action, status, events, settled, hurried, waiting)


def _refused(observed: Observed, reason: str, message: str) -> Plan:
    old = observed.partition.status
    status = conditions.status(
        observed,
        None,
        conditions.refused(reason, message),
        old.get("clusterID", ""),
        bool(old.get("bootstrapped")),
    )
    # What was known of a running group stays: it goes on as it was.
    known = {c["type"] for c in status["conditions"]}
    status["conditions"] += [c for c in old.get("conditions", []) if c["type"] not in known]
    return Plan(None, status, conditions.events(old, status), settled=True)
