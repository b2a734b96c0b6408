"""One membership change at a time: newcomers join, learn, and are promoted; who leaves is removed
before its pod goes."""

from partition_operator.api import names
from partition_operator.reconcile.actions import (
    Action,
    AddLearner,
    Join,
    PromoteLearner,
    RemoveMember,
    TransferLeadership,
)
from partition_operator.reconcile.observed import Member, Observed, Replica

PROMOTE_LAG_MAX = 1000
"""As the replica's own limit, which refuses above it."""


def next_change(observed: Observed, cluster_id: str, wanted: int) -> Action | None:
    """The next safe step towards `wanted` voters on ordinals 0 to wanted - 1; None where there is
    none now."""
    for replica in observed.replicas:
        # A volume that is new joins; it can't form a group of its own.
        if not replica.belongs and replica.ordinal < wanted:
            return Join(replica.ordinal, cluster_id)
    leader = observed.leader
    if leader is None or leader.changing:
        return None
    return (
        _replaced(observed, leader)
        or _promote(observed, leader, wanted)
        or _add(observed, leader, wanted)
        or _remove(observed, leader, wanted)
    )


def pods_wanted(observed: Observed, wanted: int) -> int:
    """How many pods there must be: a member that is being removed keeps its pod until it is out."""
    leader = observed.leader
    if leader is None:
        live = observed.objects.get(("StatefulSet", observed.partition.name))
        running = int(((live or {}).get("spec") or {}).get("replicas", 0))
        return max(wanted, running)
    highest = max((observed.ordinal_of(m.address) for m in leader.members), default=-1)
    return max(wanted, highest + 1)


def lag(leader: Replica, member: Member) -> int:
    """Entries that a member is behind."""
    return max(leader.last_index - member.matched, 0)


def _pod(observed: Observed, address: str) -> str:
    return names.pod(observed.partition.name, observed.ordinal_of(address))


def _replaced(observed: Observed, leader: Replica) -> Action | None:
    """Removes a member whose volume is gone: another member answers at its address, which proves
    it. Only while the rest has a quorum, and when its successor has caught up."""
    by_address: dict[str, list[Member]] = {}
    for member in leader.members:
        by_address.setdefault(member.address, []).append(member)
    for address, members in by_address.items():
        replica = observed.replica(observed.ordinal_of(address))
        if replica is None or len(members) < 2:
            continue
        current = next((m for m in members if m.member_id == replica.member_id), None)
        if current is None or lag(leader, current) > PROMOTE_LAG_MAX or not current.matched:
            continue
        for member in members:
            if member.member_id in (replica.member_id, leader.member_id):
                continue
            rest = [m for m in leader.members if m.voter and m.member_id != member.member_id]
            active = sum(m.recently_active for m in rest)
            if active > len(rest) // 2:
                return RemoveMember(leader.ordinal, member.member_id, _pod(observed, address))
    return None


def _promote(observed: Observed, leader: Replica, wanted: int) -> Action | None:
    for member in leader.members:
        ordinal = observed.ordinal_of(member.address)
        behind = lag(leader, member)
        caught_up = member.matched > 0 and behind <= PROMOTE_LAG_MAX
        alone = sum(m.address == member.address for m in leader.members) == 1
        if not member.voter and 0 <= ordinal < wanted and caught_up and alone:
            pod = _pod(observed, member.address)
            return PromoteLearner(leader.ordinal, member.member_id, pod)
    return None


def _add(observed: Observed, leader: Replica, wanted: int) -> Action | None:
    known = {member.member_id for member in leader.members}
    if any(not member.voter for member in leader.members):
        return None  # one newcomer at a time: each costs the leader a snapshot
    for replica in observed.replicas:
        if replica.ordinal < wanted and replica.belongs and replica.member_id not in known:
            address = observed.address(replica.ordinal)
            pod = _pod(observed, address)
            return AddLearner(leader.ordinal, replica.member_id, address, pod)
    return None


def _remove(observed: Observed, leader: Replica, wanted: int) -> Action | None:
    """Scaling down: the highest ordinal first; the leader hands over before it goes."""
    surplus = [m for m in leader.members if observed.ordinal_of(m.address) >= wanted]
    surplus.sort(key=lambda m: observed.ordinal_of(m.address), reverse=True)
    for member in surplus:
        if member.member_id != leader.member_id:
            pod = _pod(observed, member.address)
            return RemoveMember(leader.ordinal, member.member_id, pod)
        heirs = [
            m
            for m in leader.members
            if m.voter and m.recently_active and observed.ordinal_of(m.address) < wanted
        ]
        if heirs:
            best = max(heirs, key=lambda m: m.matched)
            return TransferLeadership(leader.ordinal, best.member_id)
    return None
