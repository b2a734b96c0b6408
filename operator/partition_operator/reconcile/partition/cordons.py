"""A leader leaves a cordoned node before its pod is drained. Pure.

A drain ends the leader's process; then no replica leads until an election. A hand-over before it
takes a few milliseconds.
"""

from dataclasses import dataclass

from partition_operator.api import names
from partition_operator.api.events import Event
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import rollout
from partition_operator.reconcile.partition.actions import TransferLeadership
from partition_operator.reconcile.partition.membership import successor


@dataclass(frozen=True, slots=True)
class Departure:
    """The hand-over, and the event about it."""

    action: TransferLeadership
    event: Event


def look(observed: ObservedPartition) -> Departure | None:
    """Returns the hand-over that is due; None if the leader may stay or no other pod can lead. A
    leader that a user has chosen stays."""
    leader, partition = observed.leader, observed.partition
    if leader is None or leader.changing:
        return None
    pod = observed.pod(leader.ordinal)
    if pod is None or pod.node not in observed.cordoned:
        return None
    here = names.pod(partition.name, leader.ordinal)
    chosen = partition.annotation(names.ANNOTATION_SWITCHOVER)
    if chosen.partition("/")[0] == here and chosen == partition.status.get("switchover"):
        return None
    # A leader with the newest template does not hand over to a pod that a rollout replaces soon.
    newest = rollout.newest(observed)
    best = successor(observed, newest if pod.revision == newest else "", settled=True)
    if best is None:
        return None
    there = names.pod(partition.name, observed.ordinal_of(best.address))
    message = f"node {pod.node} is cordoned: {here} hands the leadership over to {there}"
    return Departure(
        TransferLeadership(leader.ordinal, best.member_id),
        Event("Normal", "LeaderLeavesNode", message),
    )
