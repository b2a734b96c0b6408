"""Hands the leadership over to the pod that a user names in an annotation. Pure.

The annotation is followed once: status keeps its value. A value may end with `/` and anything, so
that the same pod can be asked for again.
"""

from dataclasses import dataclass

from partition_operator.api import names
from partition_operator.api.events import Event
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition.actions import Action, TransferLeadership
from partition_operator.reconcile.partition.membership import PROMOTE_LAG_MAX, lacks


@dataclass(frozen=True, slots=True)
class Switchover:
    """action: the hand-over; None if there is nothing to do, or not yet. followed: the value of the
    annotation that was followed last, "" for none. event: what became of a new value."""

    action: Action | None
    followed: str
    event: Event | None = None


def look(observed: ObservedPartition) -> Switchover:
    partition = observed.partition
    asked = partition.annotation(names.ANNOTATION_SWITCHOVER)
    followed = partition.status.get("switchover", "")
    leader = observed.leader
    if not asked or asked == followed or leader is None:
        return Switchover(None, followed)
    pod = asked.partition("/")[0]
    pods = {names.pod(partition.name, observed.ordinal_of(m.address)): m for m in leader.members}
    target = pods.get(pod)
    if target is None or not target.voter:
        voters = ", ".join(sorted(name for name, member in pods.items() if member.voter))
        message = f"{names.ANNOTATION_SWITCHOVER}: {pod!r} is no voter; the voters are {voters}"
        return Switchover(None, asked, Event("Warning", "SwitchoverRefused", message))
    if target.member_id == leader.member_id:
        return Switchover(None, asked, Event("Normal", "SwitchoverCompleted", f"{pod} leads"))
    caught_up = target.recently_active and lacks(leader, target) <= PROMOTE_LAG_MAX
    if not caught_up or leader.changing:
        return Switchover(None, followed)
    return Switchover(TransferLeadership(leader.ordinal, target.member_id), followed)
