"""What the operator sees of a restore, at one moment."""

from dataclasses import dataclass
from typing import Any

from partition_operator.api.destination import Refusal
from partition_operator.api.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class RestoreSeen:
    """snapshot: what snapshotRef names; None where it is not there. refusal: what is wrong with the
    store's Secret. authority: whether it holds a CA. running: names of the pods whose volume may
    hold the snapshot. pod: the one that restores."""

    snapshot: Snapshot | None = None
    refusal: Refusal | None = None
    authority: bool = False
    running: frozenset[str] = frozenset()
    pod: dict[str, Any] | None = None
