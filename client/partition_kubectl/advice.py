"""What to do about a STATUS word or a condition, and the page that says more. Pure.

`tests/unit/test_kubectl_why.py` compares the words with docs/operations/troubleshooting.md.
"""

from dataclasses import dataclass

OPERATIONS = "docs/operations"
TROUBLE = f"{OPERATIONS}/troubleshooting.md"
UPGRADE = f"{OPERATIONS}/upgrade.md#change-the-version-of-a-group"
PAUSE = f"{OPERATIONS}/upgrade.md#stop-the-operator-for-one-partition"
WRONG = f"{OPERATIONS}/upgrade.md#when-a-rollout-goes-wrong"
CERTIFICATES = f"{OPERATIONS}/certificates.md"
NODES = f"{OPERATIONS}/nodes.md"
VOLUMES = f"{OPERATIONS}/volumes.md"
REFUSED = f"{TROUBLE}#objects-that-the-api-server-refuses"
SNAPSHOTS = "docs/runbooks/snapshot-failing.md"
RESTORE = "docs/runbooks/restore.md"
BACKFILL = "docs/runbooks/enable-replication.md"


@dataclass(frozen=True, slots=True)
class Advice:
    """then: the next thing to do, with NAME for the Partition. always: worth saying although the
    condition is as it shall be."""

    then: str
    page: str
    always: bool = False


CONTROL = f"{OPERATIONS}/control.md"
LOST_QUORUM = f"{OPERATIONS}/lost_quorum.md"
FENCE = f"{CONTROL}#fence-a-replica"
DELETION = f"{CONTROL}#deletion-policy"

STATES = {
    "Bootstrapping": Advice("Wait. If it lasts, look at the pods below.", TROUBLE),
    "Conflict": Advice("Rename the Partition, or remove the objects that are named.", TROUBLE),
    "Degraded": Advice("Wait until the pods below run. The group serves meanwhile.", TROUBLE),
    "DiskFull": Advice("Free space, or raise spec.storage.size.", f"{OPERATIONS}/full_disk.md"),
    "Hibernating": Advice("Wait until no pod runs.", f"{CONTROL}#hibernate-and-wake"),
    "Hibernated": Advice("kubectl partition wake NAME", f"{CONTROL}#hibernate-and-wake"),
    "InvalidSpec": Advice("Correct the spec: kubectl edit partition NAME", TROUBLE),
    "NoLeader": Advice("Bring the pods below back: a majority must run.", f"{TROUBLE}#no-leader"),
    "Deleting": Advice("Wait for the last snapshot: kubectl get partitionsnapshots", DELETION),
    "DeletionBlocked": Advice("Mend the last snapshot, or go without it.", DELETION),
    "NotSeen": Advice("Look at the certificates. The group may serve.", CERTIFICATES),
    "ObjectRefused": Advice("Raise the quota or correct the spec, as the message says.", REFUSED),
    "QuorumLost": Advice("Read first. Then: kubectl partition recover NAME", LOST_QUORUM),
    "RestoreFailed": Advice("Mend the fault, then delete the pod NAME-restore.", RESTORE),
    "Restoring": Advice("Wait: kubectl partition status NAME", RESTORE),
    "VolumeLost": Advice("Read before you delete anything.", f"{VOLUMES}#most-volumes-are-lost"),
    "VolumesFound": Advice(
        "Adopt the volumes, or delete the claims of the earlier group.",
        f"{VOLUMES}#a-partition-deleted-and-applied-again-volumesfound",
    ),
}
"""By the word of the column STATUS."""

ANY = ""
"""Stands for every reason without a row of its own."""

CONDITIONS = {
    ("QuorumRecovered", "Refused"): Advice("kubectl partition recover NAME", LOST_QUORUM),
    ("QuorumRecovered", "VolumesLeft"): Advice(
        "Delete the volumes that are named.", f"{LOST_QUORUM}#volumes-of-the-former-group"
    ),
    ("QuorumRecovered", ANY): Advice("Wait.", f"{LOST_QUORUM}#recover"),
    ("Hibernated", ANY): Advice("kubectl partition wake NAME", f"{CONTROL}#hibernate-and-wake"),
    ("Fenced", "Fencing"): Advice("Wait until the replica answers.", FENCE),
    ("Fenced", "UnknownPod"): Advice("kubectl partition unfence NAME POD", FENCE),
    ("Fenced", ANY): Advice("kubectl partition unfence NAME POD", FENCE),
    ("Paused", ANY): Advice("kubectl partition resume NAME", PAUSE),
    ("PodsPlaced", ANY): Advice("Look at the nodes that are named.", NODES),
    ("QuorumAvailable", "NoSpare"): Advice(
        "Lose no other pod until all are back: do not drain nodes.", NODES, always=True
    ),
    ("QuorumAvailable", ANY): Advice("Bring the pods back.", f"{TROUBLE}#no-leader"),
    ("StorageReady", "VolumeLost"): Advice("Bring the other members back first.", VOLUMES),
    ("StorageReady", ANY): Advice("Free space, or grow the volumes.", f"{OPERATIONS}/full_disk.md"),
    ("CertificatesReady", "AuthorityEnding"): Advice(
        "Put a new authority into its Secret in time.", CERTIFICATES, always=True
    ),
    ("CertificatesReady", "AuthorityChanging"): Advice("Wait: it ends by itself.", CERTIFICATES),
    ("CertificatesReady", ANY): Advice("Look at the certificates.", CERTIFICATES),
    ("RolledOut", "WaitingForApproval"): Advice("kubectl partition approve NAME", UPGRADE),
    ("RolledOut", "Stalled"): Advice("Look at the named pod; change the spec, or back.", WRONG),
    ("RolledOut", "OutsideWindow"): Advice("Wait for the maintenance window.", UPGRADE),
    ("RolledOut", "InvalidWindow"): Advice("Correct spec.updateStrategy.", UPGRADE),
    ("RolledOut", "OnDelete"): Advice("Delete the named pods, one after the other.", UPGRADE),
    ("RolledOut", "Paused"): Advice("kubectl partition resume NAME", UPGRADE),
    ("RolledOut", ANY): Advice("Wait: the operator works on it.", UPGRADE),
    ("ObjectsApplied", ANY): Advice("Do what the message says.", REFUSED),
    ("BackfillComplete", "Stalled"): Advice("Read the page.", f"{BACKFILL}#backfillstalled"),
    ("SnapshotFresh", ANY): Advice("Look at the newest snapshots.", SNAPSHOTS),
    ("SnapshotScheduleValid", ANY): Advice("Correct spec.snapshots.", SNAPSHOTS),
    ("RetentionEnforced", ANY): Advice("Look at the snapshots that stay.", SNAPSHOTS),
    ("Restored", ANY): Advice("Look at the restoring pod.", RESTORE),
    ("Accepted", ANY): Advice("Correct the spec: kubectl edit partition NAME", TROUBLE),
    ("Progressing", "ObjectsLeaving"): Advice("Look at the finalizers of the objects.", TROUBLE),
}
"""By type and reason of a condition."""


def for_state(word: str) -> Advice:
    return STATES.get(word, Advice("Read what the page says about this word.", TROUBLE))


def for_condition(kind: str, reason: str) -> Advice | None:
    return CONDITIONS.get((kind, reason)) or CONDITIONS.get((kind, ANY))
