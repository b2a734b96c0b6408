"""The part of a Partition's status about its snapshots. Pure."""

from dataclasses import dataclass

from partition_operator.api import schema
from partition_operator.api.events import Event
from partition_operator.api.partition import SNAPSHOT_CONDITIONS
from partition_operator.reconcile.partition.conditions import Condition, written
from partition_operator.reconcile.schedule import deletion
from partition_operator.reconcile.schedule.policy import ObservedSchedule, PolicyPlan


@dataclass(frozen=True, slots=True)
class Told:
    """status: what to write, None if nothing changed."""

    status: schema.PartitionStatus | None
    events: list[Event]


def fold(
    view: ObservedSchedule, step: PolicyPlan, problem: tuple[str, str] | None, *, under_way: bool
) -> Told:
    """Returns the status and the events of one turn. problem: (reason, message) of what prevents a
    deletion. under_way: whether deletions are in progress."""
    partition = view.partition
    old = {
        c["type"]: c
        for c in partition.whole_status.get("conditions") or []
        if c["type"] in SNAPSHOT_CONDITIONS
    }
    found, events = list(step.conditions), list(step.events)
    if step.spec is not None:
        last = deletion.as_it_stands(partition)
        enforced = deletion.enforced(problem, under_way=under_way, old=last)
        if enforced.status is False and (last is None or last["status"] != "False"):
            text = f"{enforced.reason}: {enforced.message}"
            events.append(Event("Warning", "SnapshotDeleteFailed", text))
        found += [enforced, deletion.deprecated(enforced)]
    events += [
        Event("Warning", condition.reason, condition.message)
        for condition in step.conditions
        if condition.type == "SnapshotScheduleValid"
        and condition.status is False
        and _is_news(old.get(condition.type), condition)
    ]
    conditions = [written(c, old.get(c.type), view.now, partition.generation) for c in found]
    wanted = (step.snapshots, {c["type"]: c for c in conditions})
    if (partition.snapshot_status, old) == wanted:
        return Told(None, events)
    body: schema.PartitionStatus = {"conditions": conditions} if conditions else {}
    if step.snapshots:
        body["snapshots"] = step.snapshots
    return Told(body, events)


def _is_news(old: schema.Condition | None, new: Condition) -> bool:
    return old is None or (old["reason"], old["message"]) != (new.reason, new.message)
