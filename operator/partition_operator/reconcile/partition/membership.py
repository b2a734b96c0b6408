"""Plans one membership change at a time.

A new replica joins, becomes a learner, and is promoted when it has caught up. When the group
shrinks, a member is removed before its pod is deleted.
"""

from partition_operator.api import names
from partition_operator.reconcile.observed.partition import (
    ObservedMember,
    ObservedPartition,
    ObservedReplica,
)
from partition_operator.reconcile.partition.actions import (
    Action,
    AddLearner,
    Join,
    PromoteLearner,
    RemoveMember,
    TransferLeadership,
)

PROMOTE_LAG_MAX = 1000
"""In entries. The replica has the same limit and refuses a promotion above it."""


def next_change(observed: ObservedPartition, cluster_id: str, wanted: int) -> Action | None:
    """Returns the next safe step towards `wanted` voters on ordinals 0 to wanted - 1, or None if no
    step is possible now."""
    leader = observed.leader
    if leader is None:
        return None  # new volumes stay free: a lost quorum may be recovered as another group
    for replica in observed.replicas:
        # After a join the new volume can no longer form a group of its own.
        if not replica.belongs and replica.ordinal < wanted:
            return Join(replica.ordinal, cluster_id)
    if leader.changing:
        return None
    return (
        _replaced(observed, leader)
        or _promote(observed, leader, wanted)
        or _add(observed, leader, wanted)
        or _remove(observed, leader, wanted)
    )


def pods_wanted(observed: ObservedPartition, wanted: int) -> int:
    """Returns how many pods must exist. A member keeps its pod until its removal is complete.
    Without a leader every possible voter keeps its pod, because the election may need it."""
    leader = observed.leader
    if leader is not None:
        known = [m.address for m in leader.members]
    else:
        known = [m.address for r in observed.replicas for m in r.members]
        # After a hibernation no replica answers that could tell the members.
        pods = [member.get("pod", "") for member in observed.partition.status.get("members", [])]
        known += [f"{pod}." for pod in pods]
        live = observed.objects.get(("StatefulSet", observed.partition.name))
        wanted = max(wanted, int(((live or {}).get("spec") or {}).get("replicas", 0)))
    return max([wanted, *(observed.ordinal_of(address) + 1 for address in known)])


def lag(leader: ObservedReplica, member: ObservedMember) -> int:
    """Returns how many entries the member is behind the leader."""
    return max(leader.last_index - member.matched, 0)


def lacks(leader: ObservedReplica, member: ObservedMember) -> int:
    """Returns how many committed entries the member lacks. Under load the leader's log is thousands
    of entries ahead of them, so `lag` says little about a healthy follower."""
    return max(leader.committed - member.matched, 0)


def successor(
    observed: ObservedPartition, revision: str = "", *, settled: bool = False
) -> ObservedMember | None:
    """Returns the voter that shall lead next; None if no other one has caught up. Those on nodes
    without a cordon go first, then those whose pods have this revision, "" for any: otherwise two
    reasons for a hand-over would hand it to and fro. settled: both are required, and that the pod
    is ready."""
    leader = observed.leader
    if leader is None:
        return None

    def rank(member: ObservedMember) -> tuple[bool, bool, bool, int]:
        pod = observed.pod(observed.ordinal_of(member.address))
        ready = pod is not None and pod.ready and not pod.deleting
        cordoned = pod is not None and pod.node in observed.cordoned
        newest = pod is not None and (not revision or pod.revision == revision)
        return not cordoned, newest, ready, member.matched

    fit = [
        member
        for member in leader.members
        if member.voter
        and member.member_id != leader.member_id
        and member.recently_active
        and lacks(leader, member) <= PROMOTE_LAG_MAX
    ]
    best = max(fit, key=rank, default=None)
    return None if best is None or (settled and not all(rank(best)[:3])) else best


def _pod(observed: ObservedPartition, address: str) -> str:
    return names.pod(observed.partition.name, observed.ordinal_of(address))


def _rest_has_quorum(
    observed: ObservedPartition, leader: ObservedReplica, leaving: ObservedMember
) -> bool:
    """Whether a majority of the remaining voters is active. Each has to answer: for a moment the
    leader still counts one that has just ended, and after the removal it may be missed."""
    rest = [m for m in leader.members if m.voter and m.member_id != leaving.member_id]
    return sum(answers(observed, m) for m in rest) > len(rest) // 2


def answers(observed: ObservedPartition, member: ObservedMember) -> bool:
    """Whether exactly this member answers at its address, and is active for the leader."""
    replica = observed.replica(observed.ordinal_of(member.address))
    return member.recently_active and replica is not None and replica.member_id == member.member_id


def _replaced(observed: ObservedPartition, leader: ObservedReplica) -> Action | None:
    """Removes a member whose volume is lost: another member ID answers at its address.

    A learner is removed at once, because it does not count for the quorum. A voter is removed only
    if the remaining voters have a quorum and its replacement has caught up.
    """
    for member in leader.members:
        replica = observed.replica(observed.ordinal_of(member.address))
        if replica is None or replica.member_id == member.member_id:
            continue
        if member.member_id == leader.member_id:
            continue
        remove = RemoveMember(leader.ordinal, member.member_id, _pod(observed, member.address))
        if not member.voter:
            return remove
        successor = next((m for m in leader.members if m.member_id == replica.member_id), None)
        if successor is None or not successor.matched or lag(leader, successor) > PROMOTE_LAG_MAX:
            continue
        if _rest_has_quorum(observed, leader, member):
            return remove
    return None


def _promote(observed: ObservedPartition, leader: ObservedReplica, wanted: int) -> Action | None:
    for member in leader.members:
        ordinal = observed.ordinal_of(member.address)
        caught_up = member.matched > 0 and lag(leader, member) <= PROMOTE_LAG_MAX
        alone = sum(m.address == member.address for m in leader.members) == 1
        if member.voter or not 0 <= ordinal < wanted or not caught_up or not alone:
            continue
        if answers(observed, member):
            pod = _pod(observed, member.address)
            return PromoteLearner(leader.ordinal, member.member_id, pod)
    return None


def _add(observed: ObservedPartition, leader: ObservedReplica, wanted: int) -> Action | None:
    known = {member.member_id for member in leader.members}
    if any(not member.voter for member in leader.members):
        return None  # one new member at a time: each may need a state transfer from the leader
    for replica in observed.replicas:
        if replica.ordinal < wanted and replica.belongs and replica.member_id not in known:
            address = observed.address(replica.ordinal)
            pod = _pod(observed, address)
            return AddLearner(leader.ordinal, replica.member_id, address, pod)
    return None


def _remove(observed: ObservedPartition, leader: ObservedReplica, wanted: int) -> Action | None:
    """Removes the member with the highest ordinal above `wanted` that the others can do without. If
    a member is lost, it may have to go before a higher one that counts for the quorum."""
    surplus = [m for m in leader.members if observed.ordinal_of(m.address) >= wanted]
    for member in sorted(surplus, key=lambda m: observed.ordinal_of(m.address), reverse=True):
        if member.member_id == leader.member_id:
            if transfer := _hand_over(observed, leader, wanted):
                return transfer
        elif not member.voter or _rest_has_quorum(observed, leader, member):
            return RemoveMember(leader.ordinal, member.member_id, _pod(observed, member.address))
    return None


def _hand_over(
    observed: ObservedPartition, leader: ObservedReplica, wanted: int
) -> TransferLeadership | None:
    """A leader that shall leave transfers its leadership first; None if nobody can take over."""
    transferees = [
        m
        for m in leader.members
        if m.voter and answers(observed, m) and observed.ordinal_of(m.address) < wanted
    ]
    best = max(transferees, key=lambda m: m.matched, default=None)
    return None if best is None else TransferLeadership(leader.ordinal, best.member_id)
