"""What the executor can do. Each is idempotent: doing it twice is doing it once."""

from dataclasses import dataclass
from typing import Any

from partition_operator.api import schema


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of an object. The executor looks whose the live one is before it writes."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Of an object of ours: uid tells it from another one that takes its name."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class RepairLabels:
    """Writes labels, and our ownership if `owned`, on an object of ours that lost them. Its content
    stays. uid: of the object that was seen."""

    kind: str
    name: str
    uid: str
    labels: dict[str, str]
    owned: bool = False


@dataclass(frozen=True, slots=True)
class DeleteUnchanged:
    """Of an object that may be deleted as it was seen: if it has changed since, it stays."""

    kind: str
    name: str
    uid: str
    version: str


@dataclass(frozen=True, slots=True)
class IssueCertificate:
    """Writes a Secret with a new certificate for `role`."""

    secret: str
    role: str


@dataclass(frozen=True, slots=True)
class TrustAuthority:
    """Writes into a Secret which authorities its user trusts; its certificate stays."""

    secret: str
    role: str


@dataclass(frozen=True, slots=True)
class RecordCluster:
    """Writes the cluster ID, drawn or adopted, into status before anything is done with it."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class AnnotateClaim:
    """Writes the cluster ID on a PVC, before its volume is touched."""

    ordinal: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """standalone: one replica with a standalone log, without Raft."""

    ordinal: int
    cluster_id: str
    standalone: bool = False


@dataclass(frozen=True, slots=True)
class EnableReplication:
    """Begins the backfill of a standalone replica's log; it goes on by itself."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class RecordBootstrapped:
    """Writes into status that the group exists: from now on nothing bootstraps it again."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class Join:
    ordinal: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class AddLearner:
    leader: int
    member_id: int
    address: str
    pod: str


@dataclass(frozen=True, slots=True)
class PromoteLearner:
    leader: int
    member_id: int
    pod: str


@dataclass(frozen=True, slots=True)
class RemoveMember:
    leader: int
    member_id: int
    pod: str


@dataclass(frozen=True, slots=True)
class TransferLeadership:
    leader: int
    to_member_id: int


@dataclass(frozen=True, slots=True)
class CreatePod:
    """A pod that runs once; one of its name that exists is left alone."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """A PVC with nothing on it; one of its name that exists is left alone."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordRestored:
    """Writes into status what volume 0 was made of: from now on nothing restores it again."""

    record: schema.Restored


Action = (
    Apply
    | CreatePod
    | CreateClaim
    | RecordRestored
    | Delete
    | DeleteUnchanged
    | RepairLabels
    | IssueCertificate
    | TrustAuthority
    | RecordCluster
    | AnnotateClaim
    | Bootstrap
    | EnableReplication
    | RecordBootstrapped
    | Join
    | AddLearner
    | PromoteLearner
    | RemoveMember
    | TransferLeadership
)
