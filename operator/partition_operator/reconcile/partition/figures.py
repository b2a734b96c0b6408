"""What the operator's metrics say about one Partition. Pure."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from partition_operator.api import schema
from partition_operator.reconcile.observed.partition import ObservedPartition

ConditionLabels = tuple[str, str, str]
"""Type, status and reason of a condition."""


@dataclass(frozen=True, slots=True)
class PartitionFigures:
    """mode, state: as in status. wanted: replicas of the spec; if it is not valid, the pods that
    there are. certificates: when each Secret's certificate expires, by the Secret's name."""

    mode: str
    state: str
    conditions: tuple[ConditionLabels, ...]
    wanted: int
    ready: int
    updated: int
    answering: int
    certificates: Mapping[str, dt.datetime]


def figures(observed: ObservedPartition, status: schema.PartitionStatus) -> PartitionFigures:
    """Returns the figures of a Partition. status: as just planned from `observed`."""
    spec = observed.partition.asked
    return PartitionFigures(
        mode=status.get("mode", ""),
        state=status.get("state", ""),
        conditions=labels_of(status.get("conditions", [])),
        wanted=spec.replicas if spec is not None else len(observed.pods),
        ready=sum(pod.ready for pod in observed.pods),
        updated=status.get("updatedReplicas", 0),
        answering=len(observed.replicas),
        certificates=observed.certificates.ends,
    )


def labels_of(conditions: Iterable[schema.Condition]) -> tuple[ConditionLabels, ...]:
    return tuple((c["type"], c["status"], c["reason"]) for c in conditions)
