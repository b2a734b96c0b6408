"""Replaces the pods whose template has changed, one at a time. Pure.

The StatefulSet's controller gives each template a revision. A pod of an earlier revision is behind.
Followers are replaced first, each only while all members have caught up. The leader is last, after
it has handed over. A pod that is broken does not run: it is replaced at once, because that can't
make things worse, and a user mends a broken template by another one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from partition_operator.api import names, schema
from partition_operator.api.events import Event
from partition_operator.api.partition import PartitionSpec
from partition_operator.api.times import parse_stamp, stamp
from partition_operator.api.update import ON_DELETE, SUPERVISED, Window
from partition_operator.api.words import EventKind, Reason
from partition_operator.errors import InvalidSpec
from partition_operator.reconcile import cron
from partition_operator.reconcile.observed.partition import (
    ObservedMember,
    ObservedPartition,
    ObservedPod,
    ObservedReplica,
)
from partition_operator.reconcile.partition import skew
from partition_operator.reconcile.partition.actions import (
    Action,
    Delete,
    EvictPod,
    TransferLeadership,
)
from partition_operator.reconcile.partition.conditions import Condition
from partition_operator.reconcile.partition.membership import (
    PROMOTE_LAG_MAX,
    lacks,
    successor,
)
from partition_operator.reconcile.partition.objects import own_set
from partition_operator.resources.pdb import quorum

TYPE: Final = "RolledOut"
EVENTS: dict[str, tuple[EventKind, str]] = {
    Reason.ROLLING: ("Normal", "RolloutStarted"),
    Reason.STALLED: ("Warning", "RolloutStalled"),
    "InvalidWindow": ("Warning", "RolloutWaits"),
    "OnDelete": ("Normal", "RolloutWaits"),
    "OutsideWindow": ("Normal", "RolloutWaits"),
    "WaitingForApproval": ("Normal", "RolloutWaits"),
}
"""By the reason of RolledOut."""
FATAL: Final = "FATAL: "
"""How a replica begins the line that says why it can't run, such as a newer format of its volume.
Another start ends in the same way."""
WINDOW = "spec.updateStrategy.maintenanceWindows"


@dataclass(frozen=True, slots=True)
class Rollout:
    """action: the next step; None if there is none now. condition: RolledOut. revision: what the
    pods shall have, "" if unknown. updated: the number of pods that have it."""

    action: Action | None
    condition: Condition
    revision: str
    updated: int


def image(observed: ObservedPartition, spec: PartitionSpec, default: str, *, auto: bool) -> str:
    """Returns the replicas' image: that of the spec. Otherwise a Partition keeps the image that it
    has, because a new operator must not restart its replicas; with `auto` it follows the operator's
    image, `default`."""
    if spec.image or auto:
        return spec.image or default
    status = observed.partition.status
    # An operator that recorded no image has left it in the StatefulSet.
    live = _live_image(observed) if status.get("bootstrapped") else ""
    return status.get("image") or live or default


def kept_image(observed: ObservedPartition, rollout: Rollout, chosen: str) -> str:
    """Returns status.image: the image with which all pods were ready when the last rollout was
    complete; before the first one, the chosen image, unless the spec has it. So an image of the
    spec that never worked is not kept. "" for none."""
    revision, pods = newest(observed), observed.pods
    works = bool(pods) and all(pod.ready and pod.revision == revision for pod in pods)
    if rollout.condition.status and works and revision:
        # Without a StatefulSet, because it is made anew, nothing has changed.
        return _live_image(observed) or observed.partition.status.get("image", "")
    asked = observed.partition.asked
    first = "" if asked is None or asked.image else chosen
    return observed.partition.status.get("image") or first


def look(
    observed: ObservedPartition,
    spec: PartitionSpec,
    default_image: str = "",
    *,
    unwritten: bool = False,
) -> Rollout:
    """Returns the state of the rollout and its next step. spec: the one that is followed now.
    default_image: the operator's. unwritten: the live template is not the wanted one yet."""
    if unwritten:
        updated = observed.partition.status.get("updatedReplicas", 0)
        return Rollout(None, _unwritten(spec), _old_revision(observed), updated)
    old = _old(observed)
    if not observed.pods and old is not None:
        # A hibernated group. Nobody knows yet whether the newest template works.
        return Rollout(None, _again(old), _old_revision(observed), 0)
    revision = newest(observed)
    pods = [pod for pod in observed.pods if not pod.deleting]
    behind = [pod for pod in pods if revision and pod.revision != revision]
    updated = len(pods) - len(behind) if revision else 0
    if not revision:
        updated = observed.partition.status.get("updatedReplicas", 0)
        return Rollout(None, _not_seen(observed), _old_revision(observed), updated)
    if behind:
        action, condition = _next(observed, spec, revision, behind)
        return Rollout(action, condition, revision, updated)
    # All pods may have got another template at once: those of a group that wakes.
    changed = _old_revision(observed) not in ("", revision)
    if old is None or (old["status"] != "False" and not changed):
        # A pod that fails without a rollout is none: Ready tells about it.
        condition = _done(observed, revision, default_image)
    elif unready := _unready(pods):
        condition = _waiting_for(observed, spec, revision, unready)
    elif absent := _absent(observed):
        condition = _rolling(f"waiting for {absent}")
    else:
        condition = _done(observed, revision, default_image)
    return Rollout(None, condition, revision, updated)


def _next(  # noqa: PLR0911  # the order of concerns: one return for each
    observed: ObservedPartition, spec: PartitionSpec, revision: str, behind: list[ObservedPod]
) -> tuple[Action | None, Condition]:
    if held := _held(observed, spec, revision, behind):
        return None, held
    broken = [pod for pod in behind if pod.broken]
    if broken and not _absent(observed):
        pod = broken[0]
        name = _name(observed, pod)
        why = f"{name} is replaced, because it is broken: {pod.broken}"
        return Delete("Pod", name, pod.uid), _rolling(why)
    for pod in _unready(behind):
        if _hopeless(observed, spec, pod):
            name = _name(observed, pod)
            # Not evicted: without a quorum the budget protects every pod.
            told = f"{name} is replaced: it is not ready since {pod.since}, and no replica leads"
            return Delete("Pod", name, pod.uid), _rolling(told)
    if unready := _unready(pod for pod in observed.pods if pod not in behind):
        return None, _waiting_for(observed, spec, revision, unready)
    if closed := _closed(observed, spec, behind):
        return None, closed
    for pod in _unready(behind):
        if _dispensable(observed, pod):
            told = f"{_name(observed, pod)} is replaced: it is not ready"
            return EvictPod(pod.ordinal, pod.uid), _evicting(observed, told)
    if why := _not_whole(observed, spec.replicas):
        return None, _rolling(f"{_names(observed, behind)} follow later: {why}")
    return _replace(observed, behind)


def _replace(
    observed: ObservedPartition, behind: list[ObservedPod]
) -> tuple[Action | None, Condition]:
    """The group is whole. Learners never exist then; the last follower is the first one."""
    leader = observed.leader
    assert leader is not None, "a whole group has a leader"
    followers = [pod for pod in behind if pod.ordinal != leader.ordinal]
    if followers:
        pod = followers[-1]
        told = _evicting(observed, f"{_name(observed, pod)} is replaced")
        return EvictPod(pod.ordinal, pod.uid), told
    (pod,) = behind
    name = _name(observed, pod)
    best = successor(observed, newest(observed))
    if best is None:
        told = _evicting(observed, f"{name}, the only replica, is replaced")
        return EvictPod(pod.ordinal, pod.uid), told
    told = _rolling(f"{name} is the last one, and hands the leadership over first")
    return TransferLeadership(leader.ordinal, best.member_id), told


# --- what a rollout waits for -----------------------------------------------------------------


def _held(
    observed: ObservedPartition, spec: PartitionSpec, revision: str, behind: list[ObservedPod]
) -> Condition | None:
    """Returns the condition while a user has to act; None if the operator goes on by itself."""
    pods, partition = _names(observed, behind), observed.partition
    if observed.fenced:
        message = f"{pods} are behind revision {revision}; no pod is replaced while one is fenced"
        return Condition(TYPE, False, "Fenced", message)
    if why := skew.refusal(observed, _live_image(observed), revision):
        return Condition(TYPE, False, Reason.STALLED, why)
    if spec.update.type == ON_DELETE and behind:
        message = f"{pods} are behind revision {revision}: delete them, one after the other"
        return Condition(TYPE, False, "OnDelete", message)
    approved = partition.annotation(names.ANNOTATION_APPROVE)
    if spec.update.type == SUPERVISED and behind and approved != revision:
        message = (
            f"{pods} are behind revision {revision}: to replace them, kubectl annotate partition "
            f"{partition.name} {names.ANNOTATION_APPROVE}={revision} --overwrite"
        )
        return Condition(TYPE, False, "WaitingForApproval", message)
    return None


def _closed(
    observed: ObservedPartition, spec: PartitionSpec, behind: list[ObservedPod]
) -> Condition | None:
    """Returns the condition while no maintenance window is open; None if one is."""
    windows, now = spec.update.windows, observed.now
    if not windows:
        return None
    try:
        schedules = [_schedule(n, window) for n, window in enumerate(windows)]
    except InvalidSpec as error:
        return Condition(TYPE, False, "InvalidWindow", str(error))
    for window, schedule in zip(windows, schedules, strict=True):
        if schedule.latest(now - window.duration, now) is not None:
            return None
    following = [due for schedule in schedules if (due := schedule.next_after(now)) is not None]
    message = f"{_names(observed, behind)} are replaced in the next maintenance window"
    if following:
        message += f", which opens at {stamp(min(following))}"
    return Condition(TYPE, False, "OutsideWindow", message)


def _schedule(number: int, window: Window) -> cron.Schedule:
    return cron.parse(window.schedule, window.time_zone, f"{WINDOW}[{number}]")


def _waiting_for(
    observed: ObservedPartition, spec: PartitionSpec, revision: str, unready: list[ObservedPod]
) -> Condition:
    """unready: replaced pods that are not ready yet."""
    pod = unready[0]
    name, why = _name(observed, pod), f" ({pod.broken})" if pod.broken else ""
    if _is_late(observed, spec, pod) or FATAL in pod.broken:
        message = (
            f"{name} has revision {revision} and is not ready since {pod.since}{why}: the other "
            "pods stay as they are. kubectl describe pod shows more; another change of the spec, "
            "or the former one, replaces this pod first"
        )
        return Condition(TYPE, False, Reason.STALLED, message)
    return _rolling(f"waiting for {name} to be ready{why}")


def why_not_now(observed: ObservedPartition, spec: PartitionSpec) -> str:
    """Returns why no sound member may be stopped now for a change; "" if one may."""
    closed = _closed(observed, spec, list(observed.pods))
    return closed.message if closed else _not_whole(observed, spec.replicas)


def _not_whole(observed: ObservedPartition, wanted: int) -> str:
    """Returns why no sound pod may be replaced now; "" if one may."""
    if absent := _absent(observed, wanted):
        return f"waiting for {absent}"
    leader = observed.leader
    if leader is None:
        return "no replica leads"
    if leader.changing or len(leader.members) != wanted:
        return "the members of the group change"
    for member in leader.members:
        pod = names.pod(observed.partition.name, observed.ordinal_of(member.address))
        if not member.voter:
            return f"{pod} is not a voter yet"
        if problem := _lags(leader, member):
            return f"{pod} {problem}"
    unready = [pod for pod in observed.pods if not pod.ready]
    return f"{_names(observed, unready)} not ready" if unready else ""


def _dispensable(observed: ObservedPartition, pod: ObservedPod) -> bool:
    """Whether the group serves without this pod, and every other pod exists."""
    leader = observed.leader
    if leader is None or leader.ordinal == pod.ordinal or _absent(observed):
        return False
    voters = [member for member in leader.members if member.voter]
    address = observed.address(pod.ordinal)
    active = sum(m.recently_active and m.address != address for m in voters)
    return active >= quorum(len(voters))


def _hopeless(observed: ObservedPartition, spec: PartitionSpec, pod: ObservedPod) -> bool:
    """Whether a pod is not ready for so long, in a group without a leader, that another template
    may be what helps. Every other pod exists, so that one after the other is replaced. Those that
    were replaced before need not be ready: they may need the others for a quorum."""
    return observed.leader is None and not _absent(observed) and _is_late(observed, spec, pod)


def _is_late(observed: ObservedPartition, spec: PartitionSpec, pod: ObservedPod) -> bool:
    since = parse_stamp(pod.since)
    return since is not None and observed.now - since > spec.update.deadline


def _lags(leader: ObservedReplica, member: ObservedMember) -> str:
    if not member.recently_active:
        return "does not answer the leader"
    entries = lacks(leader, member)
    if entries <= PROMOTE_LAG_MAX:
        return ""
    # Rounded, so that the message does not change at each look.
    return f"is about {10 ** (len(str(entries)) - 1)} entries behind"


def _absent(observed: ObservedPartition, wanted: int = 0) -> str:
    """Names a pod that does not exist or is being deleted; "" if there is none."""
    for ordinal in range(max(wanted, _size(observed))):
        pod = observed.pod(ordinal)
        if pod is None or pod.deleting:
            return f"{names.pod(observed.partition.name, ordinal)} to be created anew"
    return ""


def _unready(pods: Iterable[ObservedPod]) -> list[ObservedPod]:
    return [pod for pod in pods if not pod.ready and not pod.deleting]


# --- what is observed -------------------------------------------------------------------------


def _live(observed: ObservedPartition) -> dict[str, Any]:
    return own_set(observed) or {}


def _size(observed: ObservedPartition) -> int:
    return int((_live(observed).get("spec") or {}).get("replicas", 0))


def _live_image(observed: ObservedPartition) -> str:
    template = (_live(observed).get("spec") or {}).get("template") or {}
    for container in (template.get("spec") or {}).get("containers") or []:
        if container.get("name") == names.REPLICA_CONTAINER:
            return str(container.get("image", ""))
    return ""


def newest(observed: ObservedPartition) -> str:
    """Returns the newest revision; "" while the StatefulSet's controller has not seen the newest
    template."""
    live = _live(observed)
    status = live.get("status") or {}
    seen = int(status.get("observedGeneration") or 0)
    if not live or seen < int(live["metadata"].get("generation") or 0):
        return ""
    return str(status.get("updateRevision") or "")


def _old(observed: ObservedPartition) -> schema.Condition | None:
    conditions = observed.partition.status.get("conditions", [])
    return next((c for c in conditions if c["type"] == TYPE), None)


def _old_revision(observed: ObservedPartition) -> str:
    return observed.partition.status.get("revision", "")


def _name(observed: ObservedPartition, pod: ObservedPod) -> str:
    return names.pod(observed.partition.name, pod.ordinal)


def _names(observed: ObservedPartition, pods: list[ObservedPod]) -> str:
    return ", ".join(_name(observed, pod) for pod in pods)


# --- the condition ----------------------------------------------------------------------------


def _rolling(message: str) -> Condition:
    return Condition(TYPE, False, Reason.ROLLING, message)


def _evicting(observed: ObservedPartition, message: str) -> Condition:
    refused = observed.eviction_refused
    return _rolling(f"{message}; refused so far: {refused}" if refused else message)


def _unwritten(spec: PartitionSpec) -> Condition:
    if spec.paused:
        message = "the pods have an earlier template, because spec.paused stops the operator"
        return Condition(TYPE, False, "Paused", message)
    return Condition(TYPE, False, "NotWritten", "the pod template has to be written first")


def _not_seen(observed: ObservedPartition) -> Condition:
    """The last condition, so that a moment in which nothing is known is no news."""
    old = _old(observed)
    if old is None:
        message = "the StatefulSet's controller has not seen the pod template yet"
        return Condition(TYPE, None, "NotSeen", message)
    return _again(old)


def _again(old: schema.Condition) -> Condition:
    status = {"True": True, "False": False}.get(old["status"])
    return Condition(TYPE, status, old["reason"], old["message"])


def _done(observed: ObservedPartition, revision: str, default_image: str) -> Condition:
    has = _live_image(observed)
    if default_image and has and has != default_image:
        message = (
            f"every pod has revision {revision}; the operator's image is {default_image}: to move "
            "to it, set spec.image"
        )
        return Condition(TYPE, True, "OtherImage", message)
    return Condition(TYPE, True, "UpToDate", f"every pod has revision {revision}")


def explain(found: list[Condition], rollout: Rollout) -> list[Condition]:
    """Returns the conditions and RolledOut. A rollout that goes on is progress."""
    told = rollout.condition
    if told.reason not in (Reason.ROLLING, Reason.STALLED):
        return [*found, told]
    progress = Condition("Progressing", True, told.reason, told.message)
    settled = any(c.type == "Progressing" and not c.status for c in found)
    return [*(progress if settled and c.type == "Progressing" else c for c in found), told]


def event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    """Returns the event for a change of RolledOut. A Partition that begins has no rollout."""
    if old is None or (old["status"], old["reason"]) == (new["status"], new["reason"]):
        return None
    if new["status"] == "True":
        done = old["status"] == "False"
        return Event("Normal", "RolloutCompleted", new["message"]) if done else None
    found = EVENTS.get(new["reason"])
    return None if found is None else Event(*found, new["message"])
