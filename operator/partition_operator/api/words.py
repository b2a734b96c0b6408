"""The words in status and events, as closed sets, so that the type checker finds a misspelt one.

The reasons of conditions are open, because replicas, jobs and pods have their own. `Reason`
contains the reasons that another module compares.
"""

from enum import StrEnum
from typing import Literal

EventKind = Literal["Normal", "Warning"]
"""The types of Kubernetes events."""

PartitionCondition = Literal[
    "Accepted",
    "BackfillComplete",
    "Bootstrapped",
    "CertificatesReady",
    "Fenced",
    "Hibernated",
    "ObjectsApplied",
    "Paused",
    "PodsPlaced",
    "Progressing",
    "QuorumAvailable",
    "QuorumRecovered",
    "Ready",
    "Replicated",
    "Restored",
    "RetentionEnforced",
    "RolledOut",
    "SnapshotFresh",
    "SnapshotScheduleValid",
    "SnapshotsPruned",
    "StorageReady",
]
SnapshotCondition = Literal["Queued", "Running", "Succeeded", "Failed", "Verified", "Available"]


class ReplicaRole(StrEnum):
    """The roles in a replica's status that the operator uses."""

    LEADER = "leader"
    FOLLOWER = "follower"
    FENCED = "fenced"


class MemberRole(StrEnum):
    """The role of a member in its group's configuration."""

    VOTER = "voter"
    LEARNER = "learner"


class RecoveryPhase(StrEnum):
    """How far the recovery of a lost quorum has come."""

    ACCEPTED = "Accepted"
    """The user has accepted the loss. The survivor may have switched to the new cluster, or not."""
    SWITCHED = "Switched"
    """The new group exists. Volumes of the former one may be left."""
    COMPLETE = "Complete"


class JobState(StrEnum):
    """The state of a job on a replica."""

    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Reason(StrEnum):
    """Reasons of conditions that are written in one place and compared in another."""

    ATTRIBUTES_REFUSED = "AttributesRefused"
    COMPLETED = "Completed"
    DEGRADED = "Degraded"
    DISK_FULL = "DiskFull"
    GROWING = "Growing"
    HIBERNATED = "Hibernated"
    HIBERNATING = "Hibernating"
    MODIFYING = "Modifying"
    NO_LEADER = "NoLeader"
    NO_SPARE = "NoSpare"
    STANDALONE = "Standalone"
    NOT_REQUESTED = "NotRequested"
    OBJECT_REFUSED = "ObjectRefused"
    POD_STUCK = "PodStuck"
    QUORUM = "Quorum"
    QUORUM_LOST = "QuorumLost"
    READY = "Ready"
    RECOVERED = "Recovered"
    RECOVERING = "Recovering"
    REPLACING = "Replacing"
    REFUSED = "Refused"
    RESTORING = "Restoring"
    RETRYING = "Retrying"
    ROLLING = "Rolling"
    RUNNING = "Running"
    SOURCE_INVALID = "SourceInvalid"
    SNAPSHOT_DAMAGED = "SnapshotDamaged"
    SOURCE_RESTARTED = "SourceRestarted"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    STALLED = "Stalled"
    VOLUME_LOST = "VolumeLost"
    WAITING = "Waiting"
