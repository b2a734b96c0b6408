"""The common part of our pods: Pod Security profile `restricted`, no token, a grace period."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition

GRACE_S = 30
"""Seconds in which a replica transfers leadership and ends its snapshot job, or a restore waits for
its threads."""

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
    """Returns a pod's spec without containers and volumes. Its fsGroup owns the volumes."""
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
