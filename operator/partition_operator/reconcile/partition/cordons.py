"""A leader leaves a cordoned node before its pod is drained. Pure.

A drain ends the leader's process; then no replica leads until an election. A hand-over before it
takes a few milliseconds.
"""

from dataclasses import dataclass

from partition_operator.api import names
from partition_operator.api.events import Event
from partition_operator.reconcile.observed.partition import ObservedMember, ObservedPartition
from partition_operator.reconcile.partition.actions import TransferLeadership
from partition_operator.reconcile.partition.membership import PROMOTE_LAG_MAX, lacks


@dataclass(frozen=True, slots=True)
class Departure:
    """The hand-over, and the event about it."""

    action: TransferLeadership
    event: Event


def look(observed: ObservedPartition) -> Departure | None:
    """Returns the hand-over that is due; None if the leader may stay or no other pod can lead."""
    leader = observed.leader
    if leader is None or leader.changing:
        return None
    pod = observed.pod(leader.ordinal)
    if pod is None or pod.node not in observed.cordoned:
        return None
    fit = [m for m in leader.members if m.member_id != leader.member_id and _fit(observed, m)]
    if not fit:
        return None
    best = max(fit, key=lambda member: member.matched)
    name = observed.partition.name
    here, there = leader.ordinal, observed.ordinal_of(best.address)
    message = (
        f"node {pod.node} is cordoned: {names.pod(name, here)} hands the leadership over to "
        f"{names.pod(name, there)}"
    )
    return Departure(
        TransferLeadership(here, best.member_id), Event("Normal", "LeaderLeavesNode", message)
    )


def _fit(observed: ObservedPartition, member: ObservedMember) -> bool:
    """Whether a member has caught up, and its pod serves on a node that is not cordoned."""
    leader = observed.leader
    assert leader is not None, "who hands over"
    pod = observed.pod(observed.ordinal_of(member.address))
    if pod is None or not pod.ready or pod.deleting or pod.node in observed.cordoned:
        return False
    caught_up = lacks(leader, member) <= PROMOTE_LAG_MAX
    return member.voter and member.recently_active and caught_up
