"""What the operator observes of one Partition at one moment."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from partition_operator.api import names, schema
from partition_operator.api.partition import Partition
from partition_operator.api.words import ReplicaRole
from partition_operator.reconcile.observed.fence_failure import FenceFailure
from partition_operator.reconcile.observed.last_write import Key, Write
from partition_operator.reconcile.observed.restore import ObservedRestore
from partition_operator.resources.certificates import LIFETIMES, Lifetimes
from partition_operator.resources.trust import Phase, Reported


@dataclass(frozen=True, slots=True)
class ObservedPod:
    """A replica's pod. ip: "" until it has one. ends: when a pod that is being deleted must have
    ended, RFC 3339. labelled: it has our labels; without them it was found by its name. since:
    when it became ready or unready. revision: of its template, "" if unknown. broken: why it does
    not run and can't as it is, such as "ImagePullBackOff: …"; "" if it may. version: its
    resourceVersion."""

    ordinal: int
    ip: str
    ready: bool
    deleting: bool
    node: str = ""
    ends: str = ""
    uid: str = ""
    labelled: bool = True
    since: str = ""
    revision: str = ""
    broken: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class ObservedClaim:
    """A replica's PVC. cluster_id: its cluster-ID annotation, "" for none. labelled: it has our
    labels; without them it was found by its name. bound: it has a volume. size: as requested.
    capacity: what the volume has, "" if unknown. volume: the PersistentVolume's name. owned: it is
    deleted with the Partition. given_up: the operator deletes it, for a rebuild. lost: its volume
    exists no more. fixed: it shall grow, and its class does not allow that. attributes: the
    VolumeAttributesClass that it asks for, "" for none; attributes_now: the one that its volume
    has. infeasible: the driver can't change the volume to `attributes` in place."""

    ordinal: int
    created: str
    cluster_id: str
    uid: str = ""
    labelled: bool = True
    bound: bool = False
    size: str = ""
    capacity: str = ""
    storage_class: str = ""
    deleting: bool = False
    version: str = ""
    volume: str = ""
    owned: bool = False
    given_up: bool = False
    lost: bool = False
    fixed: bool = False
    attributes: str = ""
    attributes_now: str = ""
    infeasible: bool = False


@dataclass(frozen=True, slots=True)
class ObservedMember:
    """A member as the leader reports it."""

    member_id: int
    address: str
    voter: bool
    matched: int
    recently_active: bool
    progress: str


@dataclass(frozen=True, slots=True)
class ObservedBackfill:
    """The progress of a backfill, in LSNs: the first entry, the next one, and the last one."""

    first: int
    next: int
    target: int


@dataclass(frozen=True, slots=True)
class ObservedReplica:
    """The status that a replica reports. role: the replica's word, such as those of ReplicaRole."""

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
    disk_free: int = 0
    disk_total: int = 0
    last_term: int = 0
    """Of the entry at last_index; 0 if the replica does not tell."""
    version: str = ""
    """Of its program; "" if it does not tell."""
    tls: Reported | None = None
    """None from a replica of an earlier version."""

    @property
    def belongs(self) -> bool:
        """Whether its volume belongs to a cluster."""
        return bool(self.cluster_id)


@dataclass(frozen=True, slots=True)
class Certificates:
    """What is known of a Partition's certificates, without keys.

    untrusting: Secrets whose trusted authorities must be rewritten. changing: an authority is being
    replaced, and not all have changed over. problem: why the authority's Secret can't be used.
    refused: by ordinal, why TLS between the operator and a replica fails. authority_ends: when the
    authority expires, if that is before a certificate issued now would be renewed. roles: by
    Secret, in the order in which they are issued; empty for the replicas' and the clients' alone.
    extending: Secrets that get a certificate of the former authority. unseen: pods that a change
    waits for. until: when the phase may end by time. authority: the fingerprint of the operator's.
    ends: by Secret, when its certificate expires. source_problem: why the certificate that spec.tls
    names can't be used. list_differs: the replicas' list of clients must be written. clients: for
    status. revoked: by Secret of a revoked client, its uid. refused_calls: calls that replicas
    refused since their start because of the caller's certificate; refused_last: one of the reasons.
    """

    untrusting: frozenset[str] = frozenset()
    changing: bool = False
    problem: str = ""
    refused: dict[int, str] = field(default_factory=dict)
    authority_ends: dt.datetime | None = None
    roles: dict[str, str] = field(default_factory=dict)
    extending: frozenset[str] = frozenset()
    phase: Phase = Phase.SETTLED
    unseen: tuple[str, ...] = ()
    until: dt.datetime | None = None
    authority: str = ""
    ends: dict[str, dt.datetime] = field(default_factory=dict)
    source_problem: str = ""
    list_differs: bool = False
    clients: tuple[schema.ClientState, ...] = ()
    revoked: dict[str, str] = field(default_factory=dict)
    refused_calls: int = 0
    refused_last: str = ""
    lifetimes: Lifetimes = LIFETIMES


@dataclass(frozen=True, slots=True)
class ObservedPartition:
    """Everything that `plan` reads. objects: the Partition's live objects, by (kind, name)."""

    partition: Partition
    now: dt.datetime
    objects: dict[Key, dict[str, Any]]
    pods: tuple[ObservedPod, ...]
    claims: tuple[ObservedClaim, ...]
    replicas: tuple[ObservedReplica, ...]
    certificates_good: dict[str, bool] = field(default_factory=dict)
    """By Secret: False if its certificate must be issued."""
    writes: dict[Key, Write] = field(default_factory=dict)
    """The result of the last write of each object."""
    conflicting: tuple[Key, ...] = ()
    """Pods of other owners that have the names of our pods."""
    pods_refused: str = ""
    """Why the StatefulSet's controller can't create missing pods, in the API server's words."""
    restore: ObservedRestore | None = None
    """Set while a Partition restores a snapshot."""
    refused: str = ""
    """Why replica 0 refused to begin a backfill, if a retry alone does not help."""
    certificates: Certificates = field(default_factory=Certificates)
    fenced: tuple[ObservedReplica, ...] = ()
    """The replicas that are fenced. They tell nothing about the group, so they are not in
    `replicas`."""
    sees_volumes: bool = True
    """Whether the operator may read nodes and PersistentVolumes (watchNodes)."""
    class_missing: bool = False
    """Whether the storage class of the spec does not exist; looked up before a replacement."""
    attributes_problem: str = ""
    """Why no volume can have the VolumeAttributesClass of the spec; looked up while one lacks
    it."""
    lost: dict[int, str] = field(default_factory=dict)
    """Why a volume is out of reach for good, by ordinal."""
    cordoned: frozenset[str] = frozenset()
    """The nodes of our pods on which no pod shall be placed."""
    apart: tuple[ObservedReplica, ...] = ()
    """Replicas of the other cluster of a recovery (reconcile/partition/recovery.py); `replicas` has
    the others."""
    eviction_refused: str = ""
    """Why the last eviction of a pod was refused; "" if it was not."""
    fence_failures: dict[int, FenceFailure] = field(default_factory=dict)
    """The last try to fence a replica or to end its fence, by ordinal, if it failed."""

    @property
    def leader(self) -> ObservedReplica | None:
        """The serving leader with the highest term; None if there is none."""
        leaders = [r for r in self.replicas if r.role == ReplicaRole.LEADER and r.serving]
        return max(leaders, key=lambda r: r.term, default=None)

    def replica(self, ordinal: int) -> ObservedReplica | None:
        return next((r for r in self.replicas if r.ordinal == ordinal), None)

    def versions(self) -> Iterator[tuple[str, str]]:
        """The uid and the resourceVersion of each object that was observed, of watched kinds and
        others."""
        for body in (self.partition.body, *self.objects.values()):
            metadata = body["metadata"]
            yield metadata.get("uid", ""), metadata.get("resourceVersion", "")
        yield from ((pod.uid, pod.version) for pod in self.pods)
        yield from ((claim.uid, claim.version) for claim in self.claims)

    def pod(self, ordinal: int) -> ObservedPod | None:
        return next((p for p in self.pods if p.ordinal == ordinal), None)

    def address(self, ordinal: int) -> str:
        return names.address(self.partition.name, self.partition.namespace, ordinal)

    def ordinal_of(self, address: str) -> int:
        """Returns the ordinal in a member's address; -1 for an address of another Partition."""
        prefix = f"{self.partition.name}-"
        number = address.partition(".")[0].removeprefix(prefix)
        return int(number) if address.startswith(prefix) and number.isdigit() else -1
