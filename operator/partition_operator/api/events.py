"""What is told to people about an object of ours."""

from dataclasses import dataclass

from partition_operator.api.words import EventKind


@dataclass(frozen=True, slots=True)
class Event:
    """reason: one word. message: for people."""

    kind: EventKind
    reason: str
    message: str
