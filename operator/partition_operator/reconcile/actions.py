"""What the executor can do. Each is idempotent: doing it twice is doing it once."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of an object."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Of an object of ours."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class IssueCertificate:
    """Writes a Secret with a new certificate for `role`."""

    secret: str
    role: str


@dataclass(frozen=True, slots=True)
class RecordCluster:
    """Writes the cluster ID, drawn or adopted, into status before anything is done with it."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class MarkClaim:
    """Writes the cluster ID on a PVC, before its volume is touched."""

    ordinal: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class Bootstrap:
    ordinal: int
    cluster_id: str


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


Action = (
    Apply
    | Delete
    | IssueCertificate
    | RecordCluster
    | MarkClaim
    | Bootstrap
    | RecordBootstrapped
    | Join
    | AddLearner
    | PromoteLearner
    | RemoveMember
    | TransferLeadership
)
