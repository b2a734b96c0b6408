"""What the operator observes of a restore at one moment."""

from dataclasses import dataclass
from typing import Any

from partition_operator.api.destination import DestinationProblem
from partition_operator.api.snapshot import Snapshot
from partition_operator.reconcile.observed.progress import JobProgress


@dataclass(frozen=True, slots=True)
class ObservedRestore:
    """A restore and its source.

    snapshot: the one that snapshotRef names; None if it does not exist. refusal: what is wrong with
    the store's Secret. authority: whether that Secret contains a CA. running: names of the pods
    whose volumes may have the snapshot. volumes: UIDs of the claims that may, by name; None if not
    read. pod: the restoring pod. progress: what that pod reports; None if it reports nothing.
    taken: a pod of another owner has its name. claimed: a claim with volume 0's name exists, of any
    owner.
    """

    snapshot: Snapshot | None = None
    refusal: DestinationProblem | None = None
    authority: bool = False
    running: frozenset[str] = frozenset()
    volumes: dict[str, str] | None = None
    pod: dict[str, Any] | None = None
    progress: JobProgress | None = None
    taken: bool = False
    claimed: bool = False
