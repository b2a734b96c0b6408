"""Fences replicas as a user's annotation says: they answer nobody, and their processes stay. Pure.

The replica keeps the fence on its volume, so that it outlasts its process and the operator's. A
fence that can't be put or ended now is tried again after a pause; other steps go on meanwhile.
"""

from dataclasses import dataclass
from typing import Final

from partition_operator.api import names
from partition_operator.api.partition import STANDALONE
from partition_operator.reconcile.observed.fence_failure import FenceFailure
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedReplica
from partition_operator.reconcile.partition.actions import Action, SetFenced
from partition_operator.reconcile.partition.conditions import Condition, fenced_pods

TYPE: Final = "Fenced"


@dataclass(frozen=True, slots=True)
class Fencing:
    """action: the next replica to fence or to free; None if all are as asked, do not answer, or
    wait for their next try. retry_s: seconds until that try; None if there is none."""

    action: Action | None
    condition: Condition
    retry_s: float | None = None


def look(observed: ObservedPartition) -> Fencing:
    asked, unknown = _asked(observed)
    due = _due(observed, asked)
    failed = {
        step.ordinal: failure
        for step in due
        if (failure := observed.fence_failures.get(step.ordinal)) is not None
        and failure.fenced == step.fenced
    }
    held = {ordinal: f.retry_s for ordinal, f in failed.items() if f.retry_s > 0}
    action = next((step for step in due if step.ordinal not in held), None)
    condition = _condition(observed, asked, unknown, failed)
    return Fencing(action, condition, min(held.values(), default=None))


def sooner(one: float | None, other: float | None) -> float | None:
    """Returns the shorter of two pauses in seconds; None stands for no pause."""
    return min((pause for pause in (one, other) if pause is not None), default=None)


def _asked(observed: ObservedPartition) -> tuple[set[int], list[str]]:
    """Returns (the ordinals that the annotation names, its names of no pod of this Partition). A
    pod of the spec counts although it does not exist now: it is recreated, or hibernates."""
    partition = observed.partition
    text = partition.annotation(names.ANNOTATION_FENCE)
    spec = partition.asked
    size = 0 if spec is None else 1 if spec.mode == STANDALONE else spec.replicas
    ordinals = {*range(size), *(pod.ordinal for pod in observed.pods)}
    ordinals |= {claim.ordinal for claim in observed.claims}
    pods = {names.pod(partition.name, ordinal): ordinal for ordinal in ordinals}
    asked = {name.strip() for name in text.split(",") if name.strip()}
    return {pods[name] for name in asked if name in pods}, sorted(asked - set(pods))


def _due(observed: ObservedPartition, asked: set[int]) -> list[SetFenced]:
    put = [r for r in observed.replicas if r.ordinal in asked]
    end = sorted((r for r in observed.fenced if r.ordinal not in asked), key=lambda r: r.ordinal)
    return [
        *(SetFenced(r.ordinal, fenced=True) for r in put if _ours(observed, r)),
        *(SetFenced(r.ordinal, fenced=False) for r in end if _ours(observed, r)),
    ]


def _ours(observed: ObservedPartition, replica: ObservedReplica) -> bool:
    """Whether the replica belongs to this Partition's group. Before the group is recorded, its
    volume may be another Partition's of the same name; with adopt, that one's data is wanted."""
    partition = observed.partition
    if partition.status.get("bootstrapped"):
        return True
    if partition.asked is not None and partition.asked.adopt:
        return True
    # A fence that a person put by hand tells no cluster.
    marks = {c.cluster_id for c in observed.claims if c.ordinal == replica.ordinal}
    clusters = {replica.cluster_id} if replica.cluster_id else marks
    return bool(clusters) and clusters == {partition.status.get("clusterID", "")}


def _condition(
    observed: ObservedPartition,
    asked: set[int],
    unknown: list[str],
    failed: dict[int, FenceFailure],
) -> Condition:
    """Every part of the message holds at once; the reason is that of the most urgent part."""
    name = observed.partition.name
    fenced = {replica.ordinal for replica in observed.fenced}
    said: list[tuple[str, str]] = []
    if fenced:
        said.append(("Fenced", fenced_pods(observed)))
    for ordinal, failure in sorted(failed.items()):
        pod, verb = names.pod(name, ordinal), "fenced" if failure.fenced else "freed"
        said.append(("Failed", f"{pod} can't be {verb}, which is tried again: {failure.why}"))
    if unknown:
        message = f"{names.ANNOTATION_FENCE}: no pod is named {', '.join(unknown)}"
        said.append(("UnknownPod", message))
    if waiting := sorted(asked - fenced - set(failed)):
        which = ", ".join(names.pod(name, ordinal) for ordinal in waiting)
        said.append(("Fencing", f"{which} is fenced as soon as it answers"))
    if not said:
        return Condition(TYPE, False, "None", "no replica is fenced")
    return Condition(TYPE, bool(fenced), said[0][0], "; ".join(text for _, text in said))
