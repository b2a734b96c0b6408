"""Kubernetes events about Partitions and PartitionSnapshots."""

from dataclasses import dataclass

from partition_operator.api.words import EventKind


@dataclass(frozen=True, slots=True)
class Event:
    """reason: one CamelCase word. message: for people."""

    kind: EventKind
    reason: str
    message: str
