"""Words that status and events use, as closed sets: a misspelt one is found by the type checker.

Reasons of conditions are open: replicas, jobs and pods have words of their own for what failed.
Those that another module compares are in `Reason`.
"""

from enum import StrEnum
from typing import Literal

EventKind = Literal["Normal", "Warning"]
"""Kubernetes has these two."""

PartitionCondition = Literal[
    "Accepted",
    "BackfillComplete",
    "Bootstrapped",
    "CertificatesReady",
    "ObjectsApplied",
    "PodsPlaced",
    "Progressing",
    "QuorumAvailable",
    "Ready",
    "Replicated",
    "Restored",
    "RetentionEnforced",
    "SnapshotFresh",
    "SnapshotScheduleValid",
    "SnapshotsPruned",
    "StorageReady",
]
SnapshotCondition = Literal["Queued", "Running", "Succeeded", "Failed", "Verified", "Available"]


class ReplicaRole(StrEnum):
    """What a replica says that it is, as far as the operator decides by it."""

    LEADER = "leader"
    FOLLOWER = "follower"


class MemberRole(StrEnum):
    """What a member is in its group's configuration."""

    VOTER = "voter"
    LEARNER = "learner"


class JobState(StrEnum):
    """How far a job of a replica is."""

    QUEUED = "Queued"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class Reason(StrEnum):
    """Reasons of conditions that are written in one place and compared in another."""

    COMPLETED = "Completed"
    DEGRADED = "Degraded"
    NO_LEADER = "NoLeader"
    NO_SPARE = "NoSpare"
    STANDALONE = "Standalone"
    NOT_REQUESTED = "NotRequested"
    OBJECT_REFUSED = "ObjectRefused"
    POD_STUCK = "PodStuck"
    QUORUM = "Quorum"
    READY = "Ready"
    REFUSED = "Refused"
    RESTORING = "Restoring"
    RETRYING = "Retrying"
    RUNNING = "Running"
    SNAPSHOT_DAMAGED = "SnapshotDamaged"
    SOURCE_RESTARTED = "SourceRestarted"
    SOURCE_UNREACHABLE = "SourceUnreachable"
    STALLED = "Stalled"
    VOLUME_LOST = "VolumeLost"
    WAITING = "Waiting"
