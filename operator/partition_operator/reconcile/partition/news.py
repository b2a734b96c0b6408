"""The events for the changes from one status of a Partition to the next. Pure."""

from collections.abc import Callable

from partition_operator.api import schema
from partition_operator.api.events import Event
from partition_operator.api.words import MemberRole, Reason
from partition_operator.reconcile.partition import placement, recovery, restore, rollout, writes
from partition_operator.reconcile.partition.conditions import NO_GROUP
from partition_operator.resources.clients import READY

TOLD = (Reason.VOLUME_LOST, Reason.QUORUM_LOST, Reason.POD_STUCK, Reason.SOURCE_INVALID)
"""Reasons whose message is news by itself."""


def events(old: schema.PartitionStatus, new: schema.PartitionStatus) -> list[Event]:
    """Returns the events for the changes from the old status to the new one."""
    before = {c["type"]: c for c in old.get("conditions", [])}
    found = []
    for condition in new["conditions"]:
        event = _event(before.get(condition["type"]), condition, new.get("state", ""))
        if event is not None:
            found.append(event)
    found += _client_events(old, new)
    leader, previous = new.get("leader", ""), old.get("leader", "")
    if leader and leader != previous and old.get("bootstrapped"):
        after = f", after {previous}" if previous else ""
        message = f"{leader} leads in term {new.get('term')}{after}"
        found.append(Event("Normal", "LeaderChanged", message))
    roles = {m["memberID"]: m for m in old.get("members", [])}
    if old.get("members"):
        for member in new.get("members", []):
            was = roles.pop(member["memberID"], None)
            if was is None:
                message = f"{member['pod']} is a {member['role']}"
                found.append(Event("Normal", "MemberAdded", message))
            elif was["role"] == MemberRole.LEARNER and member["role"] == MemberRole.VOTER:
                message = f"{member['pod']} has caught up and is a voter"
                found.append(Event("Normal", "LearnerPromoted", message))
        if "members" in new:
            found += [
                Event("Normal", "MemberRemoved", f"{member['pod']} is no longer a member")
                for member in roles.values()
            ]
    return found


def _client_events(old: schema.PartitionStatus, new: schema.PartitionStatus) -> list[Event]:
    before = {c["name"]: c["state"] for c in old.get("clients", [])}
    after = {c["name"]: c["state"] for c in new.get("clients", [])}
    found = [
        Event("Normal", "ClientReady", f"client {name} can connect with the files of its Secret")
        for name, state in after.items()
        if state == READY != before.get(name)
    ]
    gone = [name for name in before if name not in after]
    return found + [
        Event("Normal", "ClientRevoked", f"every replica refuses client {name}") for name in gone
    ]


def _event(old: schema.Condition | None, new: schema.Condition, state: str) -> Event | None:
    if new["type"] == restore.TYPE:
        return restore.event(old, new, state)
    return OF_TYPE.get(new["type"], _condition_event)(old, new)


def _is_news(old: schema.Condition | None, new: schema.Condition) -> bool:
    if old is None or (old["status"], old["reason"]) != (new["status"], new["reason"]):
        return True
    # The messages of these conditions name the problem, so a new message needs an event.
    told = new["type"] == "Accepted" or new["reason"] in TOLD
    return bool(told and old["message"] != new["message"])


def _condition_event(  # noqa: PLR0911  # a flat match over conditions
    old: schema.Condition | None, new: schema.Condition
) -> Event | None:
    if not _is_news(old, new):
        return None
    match new["type"], new["status"], new["reason"]:
        case "Accepted", "False", reason:
            return Event("Warning", reason, new["message"])
        case "Bootstrapped", "True", _:
            return Event("Normal", "Bootstrapped", new["message"])
        case "QuorumAvailable", _, _:
            return _quorum_event(old, new)
        case "CertificatesReady", _, _:
            return _certificates_event(old, new)
        case "StorageReady", _, _:
            return _storage_event(old, new)
        case ("Ready", "False", Reason.VOLUME_LOST | Reason.QUORUM_LOST) | (
            placement.PLACED,
            "False",
            _,
        ):
            return Event("Warning", new["reason"], new["message"])
        case "BackfillComplete", _, _:
            return _backfill_event(old, new)
        case "Ready", "True", Reason.READY:
            return Event("Normal", "Ready", new["message"])
    return None


def _pause_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    if not _is_news(old, new):
        return None
    if new["status"] == "True":
        return Event("Normal", "Paused", new["message"])
    return None if old is None else Event("Normal", "Resumed", new["message"])


def _fence_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    if old is None or old["message"] == new["message"]:
        return None
    match new["reason"], old["reason"]:
        case "Fenced", _:
            return Event("Warning", "ReplicaFenced", new["message"])
        case "Failed", reason if reason != "Failed":
            # Once: the words of later tries may differ.
            return Event("Warning", "FenceFailed", new["message"])
        case "UnknownPod", _:
            return Event("Warning", "FenceRefused", new["message"])
        case "None", "Fenced":
            return Event("Normal", "FenceEnded", new["message"])
    return None


def _hibernation_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    if old is None or old["reason"] == new["reason"]:
        return None
    match new["reason"]:
        case Reason.HIBERNATED:
            return Event("Normal", "Hibernated", new["message"])
        case "Awake" if old["reason"] in (Reason.HIBERNATED, Reason.HIBERNATING):
            return Event("Normal", "Woken", "the pods are started again")
        case Reason.WAITING:
            return Event("Normal", "HibernationWaits", new["message"])
    return None


def _quorum_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    match new["status"], new["reason"]:
        case "False", Reason.HIBERNATED | Reason.HIBERNATING:
            return None  # asked for
        case "False", _ if old is not None and old["status"] == "True":
            return Event("Warning", "QuorumLost", new["message"])
        case "True", Reason.NO_SPARE:
            return Event("Warning", "QuorumAtRisk", new["message"])
        case "True", Reason.QUORUM | Reason.STANDALONE if (
            old is not None
            and (old["status"] == "False" or old["reason"] == Reason.NO_SPARE)
            and old["message"] != NO_GROUP
        ):
            return Event("Normal", "QuorumAvailable", new["message"])
    return None


def _certificates_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    if new["status"] == "False":
        return Event("Warning", f"Certificates{new['reason']}", new["message"])
    if old is None:
        return None
    return Event("Normal", f"Certificates{new['reason']}", new["message"])


def _storage_event(  # noqa: PLR0911  # a flat match over reasons
    old: schema.Condition | None, new: schema.Condition
) -> Event | None:
    if new["status"] == "False":
        return Event("Warning", new["reason"], new["message"])
    match new["reason"], old and old["reason"]:
        case Reason.GROWING, _:
            return Event("Normal", "VolumesGrow", new["message"])
        case Reason.REPLACING, _:
            return Event("Normal", "VolumesReplaced", new["message"])
        case Reason.ATTRIBUTES_REFUSED, _:
            return Event("Warning", "AttributesRefused", new["message"])
        case Reason.MODIFYING, _:
            return Event("Normal", "VolumesModify", new["message"])
        case Reason.READY, Reason.MODIFYING:
            return Event("Normal", "VolumesModified", "every volume has the class of the spec")
        case _, Reason.GROWING:
            return Event("Normal", "VolumeResized", "every volume has the size of the spec")
        case _, Reason.DISK_FULL:
            return Event("Normal", "DiskFreed", new["message"])
    return None


def _backfill_event(old: schema.Condition | None, new: schema.Condition) -> Event | None:
    match new["reason"]:
        # A backfill that resumes after a stall sends no second event.
        case Reason.RUNNING if old is None or old["reason"] in (
            Reason.NOT_REQUESTED,
            Reason.WAITING,
        ):
            return Event("Normal", "BackfillStarted", new["message"])
        case Reason.STALLED | Reason.REFUSED:
            return Event("Warning", "BackfillStalled", new["message"])
        case Reason.COMPLETED:
            return Event("Normal", "BackfillCompleted", new["message"])
    return None


OF_TYPE: dict[str, Callable[[schema.Condition | None, schema.Condition], Event | None]] = {
    "Fenced": _fence_event,
    "Hibernated": _hibernation_event,
    "Paused": _pause_event,
    recovery.TYPE: recovery.event,
    rollout.TYPE: rollout.event,
    writes.TYPE: writes.event,
}
"""What tells of a change, by the type of the condition."""
