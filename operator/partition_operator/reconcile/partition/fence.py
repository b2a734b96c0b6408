"""Fences replicas as a user's annotation says: they answer nobody, and their processes stay. Pure.

The replica keeps the fence on its volume, so that it outlasts its process and the operator's.
"""

from dataclasses import dataclass
from typing import Final

from partition_operator.api import names
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.partition.actions import Action, SetFenced
from partition_operator.reconcile.partition.conditions import Condition

TYPE: Final = "Fenced"


@dataclass(frozen=True, slots=True)
class Fencing:
    """action: the next replica to fence or to free; None if all are as asked, or do not answer."""

    action: Action | None
    condition: Condition


def look(observed: ObservedPartition) -> Fencing:
    partition = observed.partition
    text = partition.annotation(names.ANNOTATION_FENCE)
    asked = {name.strip() for name in text.split(",") if name.strip()}
    pods = {names.pod(partition.name, pod.ordinal): pod.ordinal for pod in observed.pods}
    fenced = {replica.ordinal for replica in observed.fenced}
    wanted = {pods[name] for name in asked if name in pods}
    action: Action | None = None
    for replica in observed.replicas:
        if replica.ordinal in wanted:
            action = action or SetFenced(replica.ordinal, fenced=True)
    for ordinal in sorted(fenced - wanted):
        action = action or SetFenced(ordinal, fenced=False)
    return Fencing(action, _condition(observed, sorted(asked - set(pods)), wanted, fenced))


def _condition(
    observed: ObservedPartition, unknown: list[str], wanted: set[int], fenced: set[int]
) -> Condition:
    name = observed.partition.name
    if fenced:
        which = ", ".join(names.pod(name, ordinal) for ordinal in sorted(fenced))
        message = (
            f"{which} answers nobody, and its volume is closed: remove the pod from annotation "
            f"{names.ANNOTATION_FENCE} to end that"
        )
        return Condition(TYPE, True, "Fenced", message)
    if unknown:
        message = f"{names.ANNOTATION_FENCE}: no pod is named {', '.join(unknown)}"
        return Condition(TYPE, False, "UnknownPod", message)
    if waiting := sorted(wanted - fenced):
        which = ", ".join(names.pod(name, ordinal) for ordinal in waiting)
        return Condition(TYPE, False, "Fencing", f"{which} is fenced as soon as it answers")
    return Condition(TYPE, False, "None", "no replica is fenced")
