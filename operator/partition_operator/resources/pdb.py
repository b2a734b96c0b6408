"""The PodDisruptionBudget. It ensures that drains never lose the quorum."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.resources.common import metadata


def quorum(voters: int) -> int:
    """Returns the smallest majority: voters // 2 + 1."""
    return voters // 2 + 1


def build(partition: Partition, voters: int) -> dict[str, Any] | None:
    """Returns the budget; None for a single voter, because its node could never be drained."""
    if voters <= 1:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(partition, partition.name),
        "spec": {
            "minAvailable": quorum(voters),
            # With AlwaysAllow, a drain of several nodes could evict recovering replicas while there
            # is no quorum. Each would start its recovery again, and the quorum would never return.
            # With a quorum, this policy also allows the eviction of a replica that is not ready.
            "unhealthyPodEvictionPolicy": "IfHealthyBudget",
            "selector": {"matchLabels": names.selector(partition.name)},
        },
    }
