"""Named places at which a test may end the process, right after a step took effect.

PARTITION_OPERATOR_FAILPOINT arms one name, or several separated by commas. The first one that is
reached ends the process. The crash tests must try every name in `REGISTERED`; otherwise their run
fails.
"""

import os
import sys

ENVIRONMENT = "PARTITION_OPERATOR_FAILPOINT"
EXIT_CODE = 86

REGISTERED = frozenset(
    {
        "authority.created",
        "RecordCluster",
        "IssueCertificate",
        "Apply.ServiceAccount",
        "Apply.Service",
        "Apply.StatefulSet",
        "Apply.PodDisruptionBudget",
        "AnnotateClaim",
        "Bootstrap",
        "EnableReplication",
        "RecordBootstrapped",
        "Join",
        "AddLearner",
        "PromoteLearner",
        "RemoveMember",
        "TransferLeadership",
        "Delete.PodDisruptionBudget",
        "status.written",
    }
)

SNAPSHOTS = frozenset(
    {
        "snapshot.Label",
        "snapshot.StartTake",
        "snapshot.StartVerify",
        "snapshot.CreateVerifyPod",
        "snapshot.DeletePod",
        "snapshot.status.written",
        "schedule.Create",
        "schedule.Removing",
        "schedule.StartDelete",
        "schedule.Delete",
        "schedule.status.written",
        "Create.PersistentVolumeClaim",
        "Create.Pod",
        "RecordRestored",
        "Delete.Pod",
    }
)
"""Failpoints of snapshots and restores. Separate tests try them."""

ROLLOUT = frozenset({"EvictPod"})
"""The failpoint of a rollout. A separate test tries it."""

RECOVERY = frozenset({"RecordRecovery", "RecoverQuorum"})
"""The failpoints of the recovery of a lost quorum. A separate test tries them."""

VOLUMES = frozenset({"GrowClaim"})
"""The failpoint of a volume that grows. A separate test tries it."""

ATTRIBUTES = frozenset({"ModifyClaim"})
"""The failpoint of another VolumeAttributesClass. A separate test tries it."""

DELETION = frozenset({"OwnClaim", "SetFinalizer", "Create.PartitionSnapshot"})
"""Failpoints of a deletion policy. A separate test tries them."""

FENCE = frozenset({"SetFenced"})
"""The failpoint of a fence. A separate test tries it (tests/apiserver/test_fence.py)."""

REBUILD = frozenset({"GiveUpVolume.kept", "GiveUpVolume.marked", "GiveUpVolume", "OrphanPods"})
"""Failpoints of members that get new volumes. A separate test tries them."""

CERTIFICATES = frozenset({"TrustAuthority", "authority.renewed", "authority.forgotten"})
"""The failpoints of a change of the authority. Separate tests try them."""

CLIENTS = frozenset({"WriteClients", "Delete.Secret"})
"""The failpoints of a change of spec.clients. A separate test tries them."""


def parse_armed(text: str) -> frozenset[str]:
    """Parses names separated by commas. Raises ValueError for an unknown name."""
    armed = frozenset(filter(None, map(str.strip, text.split(","))))
    known = REGISTERED | SNAPSHOTS | ROLLOUT | VOLUMES | REBUILD | DELETION | FENCE | CERTIFICATES
    known |= RECOVERY | CLIENTS | ATTRIBUTES
    if unknown := armed - known:
        wrong, allowed = (", ".join(sorted(names)) for names in (unknown, known))
        raise ValueError(f"{ENVIRONMENT}: unknown failpoint {wrong}; allowed: {allowed}")
    return armed


_armed = parse_armed(os.environ.get(ENVIRONMENT, ""))


def reach(name: str) -> None:
    """Ends the process without any clean-up if `name` is armed, and prints the name."""
    if name in _armed:
        print(f"failpoint {name} reached: ending", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)
