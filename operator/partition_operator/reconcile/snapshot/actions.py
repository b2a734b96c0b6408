"""The actions for a PartitionSnapshot. Each is idempotent."""

from dataclasses import dataclass
from typing import Any

from partition_operator.api.destination import Destination


@dataclass(frozen=True, slots=True)
class Label:
    """Writes the Partition's label on the object, so that the operator finds it by the
    Partition."""

    partition: str


@dataclass(frozen=True, slots=True)
class StartTake:
    """Starts a snapshot on a replica, unless the job of this ID exists there. full: reuses nothing
    that was stored before."""

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
    """Ends an abandoned job. A job that does not exist, or whose replica does not, has ended."""

    ordinal: int
    job_id: str


@dataclass(frozen=True, slots=True)
class CreateVerifyPod:
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeletePod:
    """uid: of the observed pod."""

    name: str
    uid: str


SnapshotAction = Label | StartTake | StartVerify | CancelJob | CreateVerifyPod | DeletePod
