"""The actions of the executor. Each is idempotent: executing it twice has the effect of once."""

from dataclasses import dataclass
from typing import Any

from partition_operator.api import schema


@dataclass(frozen=True, slots=True)
class Apply:
    """Server-side apply of an object. The executor checks the owner of the live object first."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Delete:
    """Deletes an object of the Partition. uid: protects another object of the same name."""

    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class RepairLabels:
    """Restores the labels of an object of the Partition, and its owner reference if `owned`. The
    content stays. uid: of the observed object."""

    kind: str
    name: str
    uid: str
    labels: dict[str, str]
    owned: bool = False


@dataclass(frozen=True, slots=True)
class DeleteUnchanged:
    """Deletes an object only if it has not changed since it was observed."""

    kind: str
    name: str
    uid: str
    version: str


@dataclass(frozen=True, slots=True)
class IssueCertificate:
    """Writes a Secret with a new certificate for `role`. former: of the authority before, because a
    change to the present one has not reached everybody yet."""

    secret: str
    role: str
    former: bool = False


@dataclass(frozen=True, slots=True)
class TrustAuthority:
    """Writes the trusted authorities into a Secret; its certificate stays."""

    secret: str
    role: str


@dataclass(frozen=True, slots=True)
class WriteClients:
    """Writes the list of client identities into the replicas' Secret. kept: Secrets of clients that
    exist."""

    secret: str
    kept: frozenset[str]


@dataclass(frozen=True, slots=True)
class RecordCluster:
    """Writes the new or adopted cluster ID into status, before the ID is used."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class AnnotateClaim:
    """Writes the cluster-ID annotation on a PVC, before its volume is used."""

    ordinal: int
    cluster_id: str


@dataclass(frozen=True, slots=True)
class GrowClaim:
    """Asks for a larger volume. uid: of the observed claim."""

    ordinal: int
    uid: str
    size: str


@dataclass(frozen=True, slots=True)
class ModifyClaim:
    """Asks for another VolumeAttributesClass; "" for the none that it had. uid: of the observed
    claim."""

    ordinal: int
    uid: str
    attributes_class: str


@dataclass(frozen=True, slots=True)
class OwnClaim:
    """Makes the Partition an owner of a claim, so that Kubernetes deletes both together, or ends
    that. uid: of the observed claim."""

    ordinal: int
    uid: str
    owned: bool


@dataclass(frozen=True, slots=True)
class SetFinalizer:
    """Puts the finalizer of the last snapshot on the Partition, or removes it."""

    present: bool


@dataclass(frozen=True, slots=True)
class CreateSnapshot:
    """Creates a PartitionSnapshot. An existing one of this name is left unchanged."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GiveUpVolume:
    """Deletes a claim, so that its replica gets another volume. keep: its PersistentVolume is set
    to Retain first, so that its data stays. uid: of the observed claim. volume: "" if it has
    none."""

    ordinal: int
    uid: str
    volume: str
    keep: bool


@dataclass(frozen=True, slots=True)
class OrphanPods:
    """Deletes the StatefulSet, and leaves its pods running: the next one adopts them. Its claim
    template can't be changed otherwise."""

    name: str
    uid: str
    version: str


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """Makes a new volume the first of a group. standalone: with a standalone log, without Raft."""

    ordinal: int
    cluster_id: str
    standalone: bool = False


@dataclass(frozen=True, slots=True)
class EnableReplication:
    """Begins the backfill of a standalone replica's log. The replica continues it by itself."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class RecordBootstrapped:
    """Writes into status that the group exists. From then on no replica is bootstrapped."""

    cluster_id: str


@dataclass(frozen=True, slots=True)
class RecordRecovery:
    """Writes the recovery of a lost quorum into status, before its next step. None: forgets it.
    cluster_id: the Partition's from now on, "" if it stays."""

    record: schema.Recovery | None
    cluster_id: str = ""


@dataclass(frozen=True, slots=True)
class RecoverQuorum:
    """Makes a replica the only voter of a new group. It restarts for that. accept_loss: the token
    of the loss on this member."""

    ordinal: int
    member_id: int
    cluster_id: str
    accept_loss: str


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
class SetFenced:
    """Fences a replica, or ends its fence."""

    ordinal: int
    fenced: bool


@dataclass(frozen=True, slots=True)
class EvictPod:
    """Evicts a replica's pod, which the PodDisruptionBudget may refuse: a node may be drained at
    the same moment. uid: of the observed pod."""

    ordinal: int
    uid: str


@dataclass(frozen=True, slots=True)
class CreatePod:
    """Creates a pod that runs once. An existing pod of this name is left unchanged."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class CreateClaim:
    """Creates an empty PVC. An existing PVC of this name is left unchanged."""

    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RecordRestored:
    """Writes into status which snapshot volume 0 contains. It is never restored again."""

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
    | WriteClients
    | RecordCluster
    | AnnotateClaim
    | GrowClaim
    | ModifyClaim
    | OwnClaim
    | SetFinalizer
    | CreateSnapshot
    | GiveUpVolume
    | OrphanPods
    | Bootstrap
    | EnableReplication
    | RecordBootstrapped
    | RecordRecovery
    | RecoverQuorum
    | Join
    | AddLearner
    | PromoteLearner
    | RemoveMember
    | TransferLeadership
    | SetFenced
    | EvictPod
)
