"""The PodDisruptionBudget: a drain never takes the quorum."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.resources.common import metadata


def quorum(voters: int) -> int:
    """The smallest majority: voters // 2 + 1."""
    return voters // 2 + 1


def build(partition: Partition, voters: int) -> dict[str, Any] | None:
    """None for a single voter: a budget would make its node impossible to drain."""
    if voters <= 1:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(partition, partition.name),
        "spec": {
            "minAvailable": quorum(voters),
            # AlwaysAllow would let a drain evict, node after node, replicas that recover while the
            # quorum is away: each starts over, and the quorum never comes back. With a quorum, a
            # replica that is not ready can be evicted under this policy, too.
            "unhealthyPodEvictionPolicy": "IfHealthyBudget",
            "selector": {"matchLabels": names.selector(partition.name)},
        },
    }
