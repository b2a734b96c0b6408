"""Which replica takes or reads a snapshot. Pure."""

from collections.abc import Iterable

from partition_operator.api import names
from partition_operator.api.destination import Destination
from partition_operator.api.snapshot import GOOD, STORED, Snapshot, SnapshotState
from partition_operator.api.words import ReplicaRole
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedReplica
from partition_operator.reconcile.observed.snapshot import age_of
from partition_operator.reconcile.partition.membership import PROMOTE_LAG_MAX


def candidates(group: ObservedPartition) -> list[ObservedReplica]:
    """Returns the replicas of the group that answer and have caught up: followers first, then the
    leader. Empty without a leader."""
    leader = group.leader
    if leader is None:
        return []
    active = {m.member_id for m in leader.members if m.recently_active}
    followers = [
        replica
        for replica in group.replicas
        if replica.ordinal != leader.ordinal
        and replica.cluster_id == leader.cluster_id
        and replica.role == ReplicaRole.FOLLOWER
        and replica.member_id in active
        and leader.committed - replica.applied <= PROMOTE_LAG_MAX
        and _has_pod(group, replica.ordinal)
    ]
    return [*sorted(followers, key=lambda r: r.ordinal), leader]


def with_all_of(found: list[ObservedReplica], committed: int) -> list[ObservedReplica]:
    """Returns the candidates that have applied everything up to `committed`. The leader always
    has."""
    return [r for r in found[:-1] if r.applied >= committed] + found[-1:]


def why_none(group: ObservedPartition | None) -> str:
    """Returns why no replica can be a source; "" if one can."""
    if group is None:
        return "the Partition does not exist"
    partition = group.partition
    state = partition.status.get("state") or "not observed yet"
    look = f"Partition {partition.name} is {state} (kubectl describe shows the reason)"
    if not partition.status.get("bootstrapped"):
        return f"the group does not exist yet; {look}"
    if not candidates(group):
        return f"no replica is the leader; {look}"
    return ""


def choose(
    found: list[ObservedReplica], *, partition: str, base: str = "", keep: str = "", avoid: str = ""
) -> ObservedReplica | None:
    """Chooses a candidate; None if there are none. Followers come before the leader. base: the pod
    where an incremental snapshot is cheapest. keep: the pod that should continue if it can. avoid:
    the pod that failed last."""
    if not found:
        return None
    leader = found[-1]

    def rank(replica: ObservedReplica) -> tuple[bool, bool, bool, bool, int]:
        pod = names.pod(partition, replica.ordinal)
        return (
            pod != keep,
            pod == avoid,
            replica.ordinal == leader.ordinal,
            pod != base,
            replica.ordinal,
        )

    return min(found, key=rank)


def newest_stored(
    others: Iterable[Snapshot], destination: Destination, cluster_id: str
) -> Snapshot | None:
    """Returns the group's newest snapshot in this destination, good or not, or None."""
    same = [
        s
        for s in others
        if s.state in STORED and s.cluster_id == cluster_id and s.stored_in() == destination
    ]
    return max(same, key=age_of, default=None)


def base_pod(newest: Snapshot | None) -> str:
    """Returns the pod where the next snapshot can be incremental; "" for none."""
    good = newest is not None and newest.state in GOOD
    return str(newest.status.get("sourcePod", "")) if newest is not None and good else ""


def needs_full(newest: Snapshot | None) -> bool:
    """Whether the next snapshot must be full: a damaged snapshot can't be a base."""
    return newest is not None and newest.state == SnapshotState.VERIFY_FAILED


def _has_pod(group: ObservedPartition, ordinal: int) -> bool:
    pod = group.pod(ordinal)
    return pod is not None and bool(pod.ip) and not pod.deleting
