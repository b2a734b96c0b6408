"""What the operator sees of a restore, at one moment."""

from dataclasses import dataclass
from typing import Any

from partition_operator.api.destination import DestinationProblem
from partition_operator.api.snapshot import Snapshot
from partition_operator.reconcile.observed.progress import JobProgress


@dataclass(frozen=True, slots=True)
class ObservedRestore:
    """snapshot: what snapshotRef names; None where it is not there. refusal: what is wrong with the
    store's Secret. authority: whether it holds a CA. running: names of the pods whose volume may
    hold the snapshot; volumes: UIDs of the claims that may, by name, None where not looked at. pod:
    the one that restores; progress: of what runs in it, None where it did not say; taken: what has
    its name is somebody else's. claimed: a claim of volume 0's name exists, whoever made it."""

    snapshot: Snapshot | None = None
    refusal: DestinationProblem | None = None
    authority: bool = False
    running: frozenset[str] = frozenset()
    volumes: dict[str, str] | None = None
    pod: dict[str, Any] | None = None
    progress: JobProgress | None = None
    taken: bool = False
    claimed: bool = False
