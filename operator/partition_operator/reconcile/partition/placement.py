"""Where the pods are: one that does not end because its node is gone, and replicas whose common
node would take the quorum with it. Pure."""

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
"""A pod that has not gone so long after its grace period is stuck: its kubelet does not answer."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What the condition says. status: None for unknown."""

    status: bool | None
    reason: str
    message: str


def stuck(observed: ObservedPartition) -> list[ObservedPod]:
    """The pods whose end nobody confirms."""
    return [pod for pod in observed.pods if _why(observed, pod)]


def look(observed: ObservedPartition, wanted: int) -> Placement:
    """PodsPlaced, of the `wanted` first replicas. It changes nothing about Ready."""
    if found := stuck(observed):
        return Placement(False, Reason.POD_STUCK, _why(observed, found[0]))
    if wanted <= 1:
        return Placement(True, "Single", "one replica")
    nodes: dict[str, list[int]] = defaultdict(list)
    for ordinal in range(wanted):
        pod = observed.pod(ordinal)
        if pod is None or not pod.node:
            name = names.pod(observed.partition.name, ordinal)
            message = f"{name} has no node yet: kubectl describe pod {name} says why"
            return Placement(None, "NotScheduled", message)
        nodes[pod.node].append(ordinal)
    node, ordinals = max(sorted(nodes.items()), key=lambda item: len(item[1]))
    if len(ordinals) == wanted:
        message = (
            f"all {wanted} replicas are on node {node}: with it they stop serving, and with its "
            f"disk the data is lost. {_way_out(observed, node, ordinals)}"
        )
        return Placement(False, "AllOnOneNode", message)
    # The rest would be no majority; for the same reason the PodDisruptionBudget refuses a second
    # eviction until the first pod serves elsewhere.
    if wanted - len(ordinals) < quorum(wanted):
        shared = ", ".join(names.pod(observed.partition.name, n) for n in ordinals)
        message = (
            f"{shared} share node {node}: with it the quorum is lost, and a drain of it waits "
            f"until each evicted pod serves elsewhere. {_way_out(observed, node, ordinals)}"
        )
        return Placement(False, "QuorumOnOneNode", message)
    message = f"{wanted} replicas on {len(nodes)} nodes: each of them can be lost or drained"
    return Placement(True, "Spread", message)


def why_stuck(name: str, node: str, ends: str, now: dt.datetime) -> str:
    """Of a pod that has to end at `ends`: the way out if nobody confirms its end; "" before."""
    end = parse_stamp(ends)
    if end is None or now < end + STUCK:
        return ""
    return (
        f"{name} should have ended at {stamp(end)}, and node {node} does not confirm it. If "
        f"the node is off, and only then: kubectl taint nodes {node} "
        "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, or kubectl delete pod "
        f"{name} --force --grace-period=0 (docs/operations/nodes.md, A node is lost)"
    )


def _why(observed: ObservedPartition, pod: ObservedPod) -> str:
    name = names.pod(observed.partition.name, pod.ordinal)
    return why_stuck(name, pod.node, pod.ends, observed.now) if pod.deleting else ""


def _way_out(observed: ObservedPartition, node: str, ordinals: list[int]) -> str:
    name = names.pod(observed.partition.name, ordinals[-1])
    return (
        f"To move one to another node that has room: kubectl cordon {node}, kubectl delete pod "
        f"{name}, and uncordon when it is Ready (docs/operations/nodes.md, Draining nodes)"
    )
