"""A Partition that sleeps: no pod runs, and the volumes stay. Pure.

Only a group that exists sleeps, and only whole: a backfill comes to its end first. Every
acknowledged entry is on the volumes, so the pods may end in any order.
"""

from dataclasses import dataclass
from typing import Final

from partition_operator.api.partition import PartitionSpec
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition import replication
from partition_operator.reconcile.partition.conditions import Condition

TYPE: Final = "Hibernated"
WAY_BACK = "set spec.hibernated to false to start them again"


@dataclass(frozen=True, slots=True)
class Hibernation:
    """asleep: no pod may run now. condition: Hibernated. over: no pod exists any more."""

    asleep: bool
    condition: Condition
    over: bool = False


def look(observed: ObservedPartition, spec: PartitionSpec, *, bootstrapped: bool) -> Hibernation:
    if not spec.hibernated:
        return Hibernation(False, Condition(TYPE, False, "Awake", "the replicas run"))
    if not bootstrapped:
        return _later("the group has to exist before it can hibernate")
    if observed.partition.status.get("mode") == replication.BACKFILLING:
        return _later("the backfill comes to its end first: see BackfillComplete")
    if observed.pods:
        left = len(observed.pods)
        message = f"{left} pods are ending" if left > 1 else "1 pod is ending"
        return Hibernation(True, Condition(TYPE, False, Reason.HIBERNATING, message))
    message = f"no pod runs, and the volumes stay: {WAY_BACK}"
    return Hibernation(True, Condition(TYPE, True, Reason.HIBERNATED, message), over=True)


def _later(message: str) -> Hibernation:
    return Hibernation(False, Condition(TYPE, False, Reason.WAITING, message))


def explain(found: list[Condition], hibernation: Hibernation) -> list[Condition]:
    """Returns the conditions and Hibernated. That nothing serves is what the user asked for."""
    told = hibernation.condition
    if not hibernation.asleep:
        return [*found, told]
    reason, message = told.reason, f"spec.hibernated is true: {told.message}"
    instead = [
        Condition("QuorumAvailable", False, reason, message),
        Condition("Replicated", False, reason, message),
        Condition("PodsPlaced", None, reason, message),
        Condition("Progressing", not hibernation.over, reason, message),
        Condition("Ready", False, reason, message),
    ]
    by_type = {condition.type: condition for condition in instead}
    return [*(by_type.get(condition.type, condition) for condition in found), told]
