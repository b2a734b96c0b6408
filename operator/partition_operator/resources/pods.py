"""What every pod of ours has: the Pod Security profile `restricted`, no token, time to end."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition

GRACE_S = 30
"""A replica hands over and ends its snapshot job, a restore waits for its threads."""

DEFAULT_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "256Mi"},
    "limits": {"memory": "1Gi"},
}

RESTRICTED_CONTAINER: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}


def restricted(partition: Partition) -> dict[str, Any]:
    """A pod's spec, but for what it runs and mounts. The group owns its volumes."""
    return {
        "serviceAccountName": names.client_service(partition.name),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": names.GROUP_ID,
            "runAsGroup": names.GROUP_ID,
            "fsGroup": names.GROUP_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
