"""What the operator sees of one Partition, at one moment."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.words import ReplicaRole
from partition_operator.reconcile.observed.last_write import Key, Write
from partition_operator.reconcile.observed.restore import ObservedRestore


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A replica's pod. ip is "" until it has one. ends: when it has to have ended, of one that is
    being deleted, RFC 3339. labelled: it has our labels; without them it was found by its name."""

    ordinal: int
    ip: str
    ready: bool
    deleting: bool
    node: str = ""
    ends: str = ""
    uid: str = ""
    labelled: bool = True


@dataclass(frozen=True, slots=True)
class ObservedClaim:
    """A replica's PVC. cluster_id: what we wrote on it, "" for none. labelled: it has our labels;
    without them it was found by its name. bound: it has a volume. size: as it was asked for."""

    ordinal: int
    created: str
    cluster_id: str
    uid: str = ""
    labelled: bool = True
    bound: bool = False
    size: str = ""
    storage_class: str = ""
    deleting: bool = False
    version: str = ""


@dataclass(frozen=True, slots=True)
class ObservedMember:
    """A member as the leader sees it."""

    member_id: int
    address: str
    voter: bool
    matched: int
    recently_active: bool
    progress: str


@dataclass(frozen=True, slots=True)
class ObservedBackfill:
    """How far the writing of Raft's metadata is: LSNs, next and target as a replica says them."""

    first: int
    next: int
    target: int


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """What a replica says of itself. role: a word of its own, such as those of ReplicaRole."""

    ordinal: int
    cluster_id: str
    member_id: int
    role: str
    term: int
    leader_id: int
    last_index: int
    committed: int
    applied: int
    serving: bool
    changing: bool
    disk_full: bool
    members: tuple[ObservedMember, ...] = ()
    standalone: bool = False
    backfill: ObservedBackfill | None = None
    stored_from: int = 1

    @property
    def belongs(self) -> bool:
        """Its volume belongs to a cluster."""
        return bool(self.cluster_id)


@dataclass(frozen=True, slots=True)
class Certificates:
    """untrusting: Secrets whose authorities have to be written anew. changing: another authority
    takes over. problem: why the authority's Secret is not followed. refused: by ordinal, why TLS
    between the operator and a replica fails. authority_ends: its time, if it ends before a
    certificate that is issued now would have to be renewed."""

    untrusting: frozenset[str] = frozenset()
    changing: bool = False
    problem: str = ""
    refused: dict[int, str] = field(default_factory=dict)
    authority_ends: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class ObservedPartition:
    """Everything that `plan` looks at. objects: live ones of ours by (kind, name)."""

    partition: Partition
    now: dt.datetime
    objects: dict[Key, dict[str, Any]]
    pods: tuple[ObservedPod, ...]
    claims: tuple[ObservedClaim, ...]
    replicas: tuple[ObservedReplica, ...]
    certificates_good: dict[str, bool] = field(default_factory=dict)
    """By Secret: False if its certificate has to be issued."""
    writes: dict[Key, Write] = field(default_factory=dict)
    """What became of the last write of each object."""
    conflicting: tuple[Key, ...] = ()
    """Objects of somebody else that have the names of pods of ours."""
    pods_refused: str = ""
    """Why the StatefulSet's controller can't make pods that are missing, as the API server told
    it."""
    restore: ObservedRestore | None = None
    """Of a Partition that begins with a snapshot, until it has."""
    refused: str = ""
    """Why replica 0 refused to begin a backfill, where trying again alone does not help."""
    certificates: Certificates = field(default_factory=Certificates)

    @property
    def leader(self) -> ObservedReplica | None:
        """The replica that serves as leader, in the highest term; None where there is none."""
        leaders = [r for r in self.replicas if r.role == ReplicaRole.LEADER and r.serving]
        return max(leaders, key=lambda r: r.term, default=None)

    def replica(self, ordinal: int) -> ObservedReplica | None:
        return next((r for r in self.replicas if r.ordinal == ordinal), None)

    def pod(self, ordinal: int) -> ObservedPod | None:
        return next((p for p in self.pods if p.ordinal == ordinal), None)

    def address(self, ordinal: int) -> str:
        return names.address(self.partition.name, self.partition.namespace, ordinal)

    def ordinal_of(self, address: str) -> int:
        """The ordinal that a member's address names; -1 for a foreign one."""
        prefix = f"{self.partition.name}-"
        number = address.partition(".")[0].removeprefix(prefix)
        return int(number) if address.startswith(prefix) and number.isdigit() else -1
