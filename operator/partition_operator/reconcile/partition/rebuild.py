"""Gives members new volumes: for a volume that is lost, for a user's request, and for volumes that
shall be smaller, have another class, or can't grow. Pure.

A member loses its claim and its pod; the StatefulSet makes both again, and membership.py replaces
the old member by the one on the new volume. One member at a time, and only while the others have a
quorum. Of what is not lost, only while the whole group is sound, the leader last.
"""

from dataclasses import dataclass
from typing import Final

from partition_operator.api import names, schema
from partition_operator.api.events import Event
from partition_operator.api.partition import PartitionSpec
from partition_operator.api.quantities import parse_quantity
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.partition import (
    ObservedClaim,
    ObservedMember,
    ObservedPartition,
    ObservedReplica,
)
from partition_operator.reconcile.partition import rollout, storage
from partition_operator.reconcile.partition.actions import (
    Action,
    Delete,
    DeleteUnchanged,
    EvictPod,
    GiveUpVolume,
    OrphanPods,
    TransferLeadership,
)
from partition_operator.reconcile.partition.attributes import FIELD
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.reconcile.partition.membership import (
    PROMOTE_LAG_MAX,
    answers,
    lacks,
    successor,
)

NOT_ALLOWED: Final = "this operator may not read PersistentVolumes: set watchNodes in the chart"
ROOM: Final = 1.25
"""A smaller volume must have this many times the bytes that the fullest one holds."""


@dataclass(frozen=True, slots=True)
class Rebuild:
    """action: the next step; None if there is none now. told: the condition StorageReady while a
    member gets another volume, or why it does not; None if nothing is to be done. record:
    status.rebuild, which remembers the request that was followed last. event: why a volume is given
    up."""

    action: Action | None = None
    told: Condition | None = None
    record: schema.Rebuild | None = None
    event: Event | None = None


def look(observed: ObservedPartition, spec: PartitionSpec) -> Rebuild:
    record = observed.partition.status.get("rebuild")
    if step := _without_claim(observed) or _misfit(observed, spec):
        # First: what follows may wait for this member to be back.
        return Rebuild(step, _rebuilding("a claim without a volume is made anew"), record)
    if leaving := [claim for claim in storage.of_replicas(observed) if claim.deleting]:
        return _finish(observed, leaving, record)
    if any(_claim(observed, ordinal) is not None for ordinal in observed.lost):
        return _lost(observed, record)
    asked = observed.partition.annotation(names.ANNOTATION_REBUILD)
    if asked and (record is None or asked != record["request"]):
        return _asked(observed, asked)
    if asked and record is not None and (claim := _recorded(observed, record)):
        # The operator ended between the record and the deletion, or the others were not there.
        return _follow(observed, claim, record)
    return _replacement(observed, spec, record)


# --- lost -------------------------------------------------------------------------------------


def _lost(observed: ObservedPartition, record: schema.Rebuild | None) -> Rebuild:
    """The first that the group can do without: another may wait for it, such as for a learner that
    is lost itself."""
    waiting: Condition | None = None
    for ordinal, why in sorted(observed.lost.items()):
        claim = _claim(observed, ordinal)
        if claim is None:
            continue
        if refusal := _why_not(observed, ordinal):
            told = f"{why}; it is not rebuilt: {refusal}"
            waiting = waiting or Condition("StorageReady", False, Reason.VOLUME_LOST, told)
            continue
        if step := _hand_over(observed, ordinal):
            return Rebuild(step, record=record)
        return _give_up(observed, claim, why, record)
    return Rebuild(told=waiting, record=record)


def _asked(observed: ObservedPartition, asked: str) -> Rebuild:
    """Records the claim first, so that its successor is never taken for it."""
    pod = asked.partition("/")[0]
    ordinal = observed.ordinal_of(f"{pod}.")
    claim = _claim(observed, ordinal)
    which = ""
    if claim is None:
        which = "it is no member with a volume"
    elif not _others(observed, ordinal):
        which = "it is the only member"
    elif not observed.sees_volumes:
        which = NOT_ALLOWED
    if claim is None or which:
        message = f"{names.ANNOTATION_REBUILD}: {pod!r} is not rebuilt: {which}"
        refused: schema.Rebuild = {"request": asked}
        return Rebuild(record=refused, event=Event("Warning", "RebuildRefused", message))
    follows: schema.Rebuild = {"request": asked, "pod": pod, "claimUID": claim.uid}
    return _follow(observed, claim, follows)


def _follow(observed: ObservedPartition, claim: ObservedClaim, record: schema.Rebuild) -> Rebuild:
    pod = names.pod(observed.partition.name, claim.ordinal)
    old = observed.partition.status.get("rebuild")
    if why := _why_not(observed, claim.ordinal):
        told = f"{pod} shall get a new volume; waiting: {why}"
        return Rebuild(told=Condition("StorageReady", True, Reason.WAITING, told), record=old)
    if step := _hand_over(observed, claim.ordinal):
        return Rebuild(step, record=old)
    return _give_up(observed, claim, f"asked for by {names.ANNOTATION_REBUILD}", record)


def _recorded(observed: ObservedPartition, record: schema.Rebuild) -> ObservedClaim | None:
    """Returns the claim of a request that was begun, while it is there."""
    uid = record.get("claimUID")
    return next((c for c in storage.of_replicas(observed) if uid and c.uid == uid), None)


# --- replaced ---------------------------------------------------------------------------------


def _misfit(observed: ObservedPartition, spec: PartitionSpec) -> Action | None:
    """Returns the step that makes a claim without a volume anew, as the spec asks for it now. It
    needs no sound group: nothing is on that claim, and its pod does not run."""
    wrong = storage.misfits(observed, spec)
    if not wrong or observed.class_missing or observed.attributes_problem:
        return None
    if storage.template_differs(observed, spec):
        return _orphan(observed)
    claim, name = wrong[0], names.claim(observed.partition.name, wrong[0].ordinal)
    return DeleteUnchanged("PersistentVolumeClaim", name, claim.uid, claim.version)


def _orphan(observed: ObservedPartition) -> Action:
    live = observed.objects["StatefulSet", observed.partition.name]["metadata"]
    return OrphanPods(observed.partition.name, live["uid"], live["resourceVersion"])


def _replacement(
    observed: ObservedPartition, spec: PartitionSpec, record: schema.Rebuild | None
) -> Rebuild:
    wrong = storage.to_replace(observed, spec)
    if not wrong:
        return Rebuild(record=record)
    told = f"volumes are replaced: {wrong[0].why}"
    if why := _why_not_now(observed, spec):
        told = f"{told}; waiting: {why}"
        return Rebuild(told=Condition("StorageReady", True, Reason.WAITING, told), record=record)
    condition = Condition("StorageReady", True, Reason.REPLACING, told)
    if storage.template_differs(observed, spec):
        return Rebuild(_orphan(observed), condition, record)
    leader = observed.leader
    assert leader is not None, "a whole group has a leader"
    followers = [one for one in wrong if one.claim.ordinal != leader.ordinal]
    chosen = (followers or wrong)[-1]
    if refusal := _why_not(observed, chosen.claim.ordinal):
        told = f"{told}; waiting: {refusal}"
        return Rebuild(told=Condition("StorageReady", True, Reason.WAITING, told), record=record)
    if step := _hand_over(observed, chosen.claim.ordinal):
        return Rebuild(step, condition, record)
    given = _give_up(observed, chosen.claim, chosen.why, record, keep=spec.keep_replaced)
    return Rebuild(given.action, condition, record, given.event)


def _why_not_now(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns why no volume may be replaced now; "" if one may."""
    if not observed.sees_volumes:
        return NOT_ALLOWED
    if observed.class_missing:
        return f"there is no storage class {spec.storage_class}"
    if observed.attributes_problem:
        return f"{FIELD}: {observed.attributes_problem}"
    return _too_small(observed, spec) or rollout.why_not_now(observed, spec)


def _too_small(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns why the data does not fit into a volume of the spec's size; "" if it does."""
    own = [r for r in observed.replicas if storage.has_own_file_system(observed, r)]
    used = max((r.disk_total - r.disk_free for r in own), default=0)
    size = parse_quantity(spec.storage_size)
    if size is None or used * ROOM <= size:
        return ""
    return (
        f"spec.storage.size {spec.storage_size} is too small: the fullest volume holds {used} "
        f"bytes, so at least {int(used * ROOM)} are allowed"
    )


# --- steps ------------------------------------------------------------------------------------


def _give_up(
    observed: ObservedPartition,
    claim: ObservedClaim,
    why: str,
    record: schema.Rebuild | None,
    *,
    keep: bool = True,
) -> Rebuild:
    """The claim goes first: a pod that is made again would use it again. `_finish` goes on."""
    name = names.pod(observed.partition.name, claim.ordinal)
    message = f"{name} gets a new volume: {why}"
    action = GiveUpVolume(claim.ordinal, claim.uid, claim.volume, keep)
    event = Event("Normal", "ReplicaRebuilding", message)
    return Rebuild(action, _rebuilding(message), record, event)


def _finish(
    observed: ObservedPartition, leaving: list[ObservedClaim], record: schema.Rebuild | None
) -> Rebuild:
    """Returns the step that ends the pod of a claim that was given up, and nothing else while any
    claim leaves: each takes a copy of the data with it. leaving: claims that are being deleted,
    until no pod uses them."""
    ours = [claim for claim in leaving if claim.given_up]
    if not ours:
        name = names.claim(observed.partition.name, leaving[0].ordinal)
        message = f"claim {name} is being deleted: its replica loses its volume when its pod ends"
        return Rebuild(told=_rebuilding(message), record=record)
    ordinal = ours[0].ordinal
    name = names.pod(observed.partition.name, ordinal)
    pod = observed.pod(ordinal)
    message = f"{name} gets a new volume: its claim is given up"
    if pod is None or pod.deleting:
        return Rebuild(None, _rebuilding(message), record)
    if why := _why_not(observed, ordinal):
        return Rebuild(None, _rebuilding(f"{message}; waiting: {why}"), record)
    if step := _hand_over(observed, ordinal):
        return Rebuild(step, _rebuilding(message), record)
    # A pod that serves is evicted: a node may be drained at the same moment.
    evict = EvictPod(ordinal, pod.uid)
    end = evict if pod.ready else Delete("Pod", name, pod.uid)
    if observed.eviction_refused:
        message = f"{message}; its pod can't be evicted so far: {observed.eviction_refused}"
    return Rebuild(end, _rebuilding(message), record)


def _rebuilding(message: str) -> Condition:
    return Condition("StorageReady", True, "Rebuilding", message)


def _without_claim(observed: ObservedPartition) -> Action | None:
    """Returns the deletion of a pod that no node has taken and whose claim is gone: the StatefulSet
    makes a claim only together with a pod."""
    has = {claim.ordinal for claim in observed.claims}
    for pod in observed.pods:
        if pod.ordinal not in has and not pod.node and not pod.deleting and pod.broken:
            return Delete("Pod", names.pod(observed.partition.name, pod.ordinal), pod.uid)
    return None


def _hand_over(observed: ObservedPartition, ordinal: int) -> Action | None:
    """Returns the hand-over if this pod leads; None if it does not, or nobody can take over."""
    leader = observed.leader
    if leader is None or leader.ordinal != ordinal:
        return None
    best = successor(observed)
    return None if best is None else TransferLeadership(leader.ordinal, best.member_id)


def _why_not(observed: ObservedPartition, ordinal: int) -> str:
    """Returns why the group can't do without this member's volume; "" if it can. The leader may
    hand over first, so it counts like a follower."""
    leader = observed.leader
    if leader is None:
        return "no replica leads, so it may hold the only copy of the newest entries"
    address = observed.address(ordinal)
    if leader.changing or any(not m.voter and m.address != address for m in leader.members):
        return "the members of the group change"
    rest = [member for member in leader.members if member.address != address]
    if not rest:
        return "it is the only member: raise spec.replicas first"
    if not _have_quorum(observed, leader, rest):
        return "the other members have no quorum without it"
    return ""


def _others(observed: ObservedPartition, ordinal: int) -> bool:
    """Whether the group has other members; also if it can't be seen now."""
    members = observed.partition.status.get("members", [])
    pod = names.pod(observed.partition.name, ordinal)
    return any(member.get("pod") != pod for member in members)


def _have_quorum(
    observed: ObservedPartition, leader: ObservedReplica, rest: list[ObservedMember]
) -> bool:
    """Whether those who have caught up are a majority of the whole group. Each has to answer: for
    a moment the leader still counts one whose volume was given up just now."""
    voters = sum(member.voter for member in leader.members)
    sound = [m for m in rest if answers(observed, m) and lacks(leader, m) <= PROMOTE_LAG_MAX]
    return len(sound) > voters // 2


def _claim(observed: ObservedPartition, ordinal: int) -> ObservedClaim | None:
    """Returns the claim of this group's member."""
    return next(
        (claim for claim in storage.of_replicas(observed) if claim.ordinal == ordinal), None
    )


# --- the condition ----------------------------------------------------------------------------


def explain(found: list[Condition], rebuild: Rebuild) -> list[Condition]:
    """Returns the conditions with what is told about volumes. A full disk is more urgent."""
    told = rebuild.told
    if told is None:
        return found
    return [told if c.type == told.type and c.reason != Reason.DISK_FULL else c for c in found]
