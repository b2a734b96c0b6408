"""Where the pods run: finds pods that do not end because their node is lost, and nodes whose loss
would lose the quorum. Pure."""

import datetime as dt
from collections import defaultdict
from dataclasses import dataclass
from typing import Final

from partition_operator.api import names
from partition_operator.api.times import parse_stamp, stamp
from partition_operator.api.words import Reason
from partition_operator.reconcile.observed.partition import ObservedPartition, ObservedPod
from partition_operator.resources.pdb import quorum

PLACED: Final = "PodsPlaced"
"""The condition's type."""

STUCK = dt.timedelta(seconds=60)
"""A pod that still exists this long after its grace period is stuck: its kubelet does not answer.
"""


@dataclass(frozen=True, slots=True)
class Placement:
    """The content of the condition. status: None means Unknown."""

    status: bool | None
    reason: str
    message: str


def stuck(observed: ObservedPartition) -> list[ObservedPod]:
    """Returns the pods whose node does not confirm that they have ended."""
    return [pod for pod in observed.pods if _why(observed, pod)]


def look(observed: ObservedPartition, wanted: int) -> Placement:
    """Returns PodsPlaced for the first `wanted` replicas. It does not affect Ready."""
    if found := stuck(observed):
        return Placement(False, Reason.POD_STUCK, _why(observed, found[0]))
    if wanted <= 1:
        return Placement(True, "Single", "one replica")
    nodes: dict[str, list[int]] = defaultdict(list)
    for ordinal in range(wanted):
        pod = observed.pod(ordinal)
        if pod is None or not pod.node:
            name = names.pod(observed.partition.name, ordinal)
            message = f"{name} has no node yet: kubectl describe pod {name} shows the reason"
            return Placement(None, "NotScheduled", message)
        nodes[pod.node].append(ordinal)
    node, ordinals = max(sorted(nodes.items()), key=lambda item: len(item[1]))
    if len(ordinals) == wanted:
        message = (
            f"all {wanted} replicas are on node {node}: if the node stops, the Partition stops "
            "serving; if its disk is lost, the data is lost. "
            f"{_way_out(observed, node, ordinals)}"
        )
        return Placement(False, "AllOnOneNode", message)
    # The remaining voters would not be a majority. For the same reason the PodDisruptionBudget
    # refuses a second eviction until the first pod serves on another node.
    if wanted - len(ordinals) < quorum(wanted):
        shared = ", ".join(names.pod(observed.partition.name, n) for n in ordinals)
        message = (
            f"{shared} share node {node}: if the node is lost, the quorum is lost; a drain of the "
            "node waits after each eviction until the pod serves on another node. "
            f"{_way_out(observed, node, ordinals)}"
        )
        return Placement(False, "QuorumOnOneNode", message)
    message = f"{wanted} replicas on {len(nodes)} nodes: any single node can be lost or drained"
    return Placement(True, "Spread", message)


def why_stuck(name: str, node: str, ends: str, now: dt.datetime) -> str:
    """Returns what to do about a pod that should have ended at `ends` (RFC 3339) and still exists;
    "" if the pod is not stuck."""
    end = parse_stamp(ends)
    if end is None or now < end + STUCK:
        return ""
    return (
        f"{name} should have ended at {stamp(end)}, but node {node} does not confirm it. Only if "
        f"the node is off: kubectl taint nodes {node} "
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or kubectl delete pod "
        f"{name} --force --grace-period=0 (docs/operations/nodes.md, A node is lost)"
    )


def _why(observed: ObservedPartition, pod: ObservedPod) -> str:
    name = names.pod(observed.partition.name, pod.ordinal)
    return why_stuck(name, pod.node, pod.ends, observed.now) if pod.deleting else ""


def _way_out(observed: ObservedPartition, node: str, ordinals: list[int]) -> str:
    name = names.pod(observed.partition.name, ordinals[-1])
    return (
        f"To move one to another node with free resources: kubectl cordon {node}, kubectl delete "
        f"pod {name}, and uncordon when it is Ready (docs/operations/nodes.md, Draining nodes)"
    )
