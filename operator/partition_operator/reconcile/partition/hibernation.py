"""A Partition that sleeps: no pod runs, and the volumes stay. Pure.

Only a group that exists sleeps, and only whole: a backfill that has begun comes to its end first.
Every acknowledged entry is on the volumes, so the pods may end in any order.
"""

from dataclasses import dataclass, replace
from typing import Final

from partition_operator.api.partition import PartitionSpec
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import objects, replication
from partition_operator.reconcile.partition.conditions import Condition

TYPE: Final = "Hibernated"
BACKFILL_WAITS: Final = frozenset({Reason.RUNNING, Reason.STALLED, Reason.WAITING})
WAY_BACK = "set spec.hibernated to false to start them again"


@dataclass(frozen=True, slots=True)
class Hibernation:
    """asleep: no pod may run now. condition: Hibernated. over: no pod exists any more. why: what
    keeps it asleep."""

    asleep: bool
    condition: Condition
    over: bool = False
    why: str = "spec.hibernated is true"


def look(observed: ObservedPartition, spec: PartitionSpec, *, bootstrapped: bool) -> Hibernation:
    if spec.paused:
        return _stopped(observed, spec, "spec.paused is true")
    if objects.leaving(observed):
        return _stopped(observed, spec, "objects of the Partition are being deleted")
    if not spec.hibernated:
        return Hibernation(False, Condition(TYPE, False, "Awake", "the replicas run"))
    if not bootstrapped:
        return _later("the group has to exist before it can hibernate")
    if _backfills(observed) and not _slept(observed):
        return _later("the backfill comes to its end first: see BackfillComplete")
    return _asleep(observed, WAY_BACK)


def _asleep(observed: ObservedPartition, way_back: str) -> Hibernation:
    if observed.pods:
        left = len(observed.pods)
        message = f"{left} pods are ending" if left > 1 else "1 pod is ending"
        return Hibernation(True, Condition(TYPE, False, Reason.HIBERNATING, message))
    message = f"no pod runs, and the volumes stay: {way_back}"
    return Hibernation(True, Condition(TYPE, True, Reason.HIBERNATED, message), over=True)


def _stopped(observed: ObservedPartition, spec: PartitionSpec, why: str) -> Hibernation:
    """While the operator changes nothing, the StatefulSet decides, not the spec. why: it does
    not."""
    live = observed.objects.get(("StatefulSet", observed.partition.name))
    runs = bool(live["spec"].get("replicas", 0)) if live is not None else bool(observed.pods)
    if not runs and spec.hibernated:
        return _asleep(observed, f"{WAY_BACK}, once this is over: {why}")
    if not runs and _slept(observed):
        return replace(_asleep(observed, f"they start once this is over: {why}"), why=why)
    if spec.hibernated:
        return _later(f"the replicas run on, because the operator changes nothing: {why}")
    return Hibernation(False, Condition(TYPE, False, "Awake", "the replicas run"))


def _backfills(observed: ObservedPartition) -> bool:
    """Whether a backfill has begun. A log that was still standalone when its pods ended has none,
    although its mode may be Backfilling by now."""
    status = observed.partition.status
    return status.get("mode") == replication.BACKFILLING and "backfill" in status


def _slept(observed: ObservedPartition) -> bool:
    """Whether the pods were ended for a hibernation, and were not started again since."""
    old = observed.partition.status.get("conditions", [])
    asleep = (Reason.HIBERNATED, Reason.HIBERNATING)
    return any(c["type"] == TYPE and c["reason"] in asleep for c in old)


def _later(message: str) -> Hibernation:
    return Hibernation(False, Condition(TYPE, False, Reason.WAITING, message))


def explain(found: list[Condition], hibernation: Hibernation) -> list[Condition]:
    """Returns the conditions and Hibernated. That nothing serves is what the user asked for."""
    told = hibernation.condition
    if not hibernation.asleep:
        return [*found, told]
    reason, message = told.reason, f"{hibernation.why}: {told.message}"
    instead = [
        Condition("QuorumAvailable", False, reason, message),
        Condition("Replicated", False, reason, message),
        Condition("PodsPlaced", None, reason, message),
        Condition("Progressing", not hibernation.over, reason, message),
        Condition("Ready", False, reason, message),
    ]
    if any(c.type == "BackfillComplete" and c.reason in BACKFILL_WAITS for c in found):
        # It was asked for while nothing runs: it neither runs nor stalls.
        instead.append(Condition("BackfillComplete", False, Reason.WAITING, message))
    by_type = {condition.type: condition for condition in instead}
    return [*(by_type.get(condition.type, condition) for condition in found), told]
