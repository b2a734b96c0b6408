"""What is done for a PartitionSnapshot. Each is idempotent."""

from dataclasses import dataclass
from typing import Any

from partition_operator.api.destination import Destination


@dataclass(frozen=True, slots=True)
class Label:
    """Writes the Partition's label on the object: by it the Partition's snapshots are found."""

    partition: str


@dataclass(frozen=True, slots=True)
class StartTake:
    """Starts a snapshot on a replica, or finds the job of this ID there. full: nothing that was
    stored before is relied on."""

    ordinal: int
    job_id: str
    destination: Destination
    full: bool = False


@dataclass(frozen=True, slots=True)
class StartVerify:
    ordinal: int
    job_id: str
    destination: Destination


@dataclass(frozen=True, slots=True)
class CancelJob:
    """Ends a job that is given up. One that is gone, or whose replica is, has ended."""

    ordinal: int
    job_id: str


@dataclass(frozen=True, slots=True)
class CreateVerifyPod:
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeletePod:
    """uid: of the pod that was seen."""

    name: str
    uid: str


SnapshotAction = Label | StartTake | StartVerify | CancelJob | CreateVerifyPod | DeletePod
