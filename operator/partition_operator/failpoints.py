"""Named places at which a test may end the process, right after a step took effect.

Armed by PARTITION_OPERATOR_FAILPOINT=name, or by several names with commas between them: the first
that is reached ends the process. `REGISTERED` is what the crash tests must have tried; one that no
test tried fails the run.
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
"""Those of snapshots and restores: tried by tests of their own."""

CERTIFICATES = frozenset({"TrustAuthority"})
"""Of a change of the authority: tried by a test of its own."""


def parse_armed(text: str) -> frozenset[str]:
    """Names with commas between them. Raises ValueError for one that is never reached."""
    armed = frozenset(filter(None, map(str.strip, text.split(","))))
    known = REGISTERED | SNAPSHOTS | CERTIFICATES
    if unknown := armed - known:
        wrong, allowed = (", ".join(sorted(names)) for names in (unknown, known))
        raise ValueError(f"{ENVIRONMENT} names {wrong}, which is never reached; allowed: {allowed}")
    return armed


_armed = parse_armed(os.environ.get(ENVIRONMENT, ""))


def reach(name: str) -> None:
    """Ends the process without any clean-up if `name` is armed. Its last line says which it was."""
    if name in _armed:
        print(f"failpoint {name} reached: ending", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)
