"""What is found out about volumes: those that are out of reach for good, and classes that can't
grow theirs. It reads PersistentVolumes, Nodes and StorageClasses, and only when a pod or a claim
gives a reason to."""

from collections.abc import Iterable
from typing import Any

from partition_operator.api import names
from partition_operator.clients.kube import Body, Kube
from partition_operator.clients.nodes import facts
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPod

HOSTNAME = "kubernetes.io/hostname"
"""The label of a node that a local volume names."""


async def out_of_reach(
    kube: Kube, partition: str, pods: Iterable[ObservedPod], claims: Iterable[ObservedClaim]
) -> dict[int, str]:
    """Returns why a volume is out of reach for good, by ordinal. A node that only does not answer,
    or has no room, gives no such reason: it may come back. Raises ApiError."""
    unplaced = {pod.ordinal for pod in pods if not pod.node and not pod.deleting}
    found: dict[int, str] = {}
    for claim in claims:
        name = names.claim(partition, claim.ordinal)
        if claim.lost:
            found[claim.ordinal] = f"PersistentVolume {claim.volume} of claim {name} is gone"
        elif claim.bound and claim.ordinal in unplaced:
            volume = await kube.get("PersistentVolume", "", claim.volume)
            if volume is None:
                found[claim.ordinal] = f"PersistentVolume {claim.volume} of claim {name} is gone"
            elif why := await _nodes_gone(kube, volume):
                found[claim.ordinal] = f"PersistentVolume {claim.volume} of claim {name} {why}"
    return found


async def _nodes_gone(kube: Kube, volume: Body) -> str:
    """Returns why no node has a local volume any more; "" if one has, or if it is not local."""
    hosts = _hosts(volume)
    if not hosts:
        return ""
    off: list[str] = []
    for host in hosts:
        for node in await kube.list_labelled("Node", "", {HOSTNAME: host}):
            if not facts(node.get("spec") or {}).out_of_service:
                return ""
            off.append(node["metadata"]["name"])
    if off:
        return f"is local to node {', '.join(off)}, which is declared out of service"
    return f"is local to node {', '.join(hosts)}, which was deleted"


def _hosts(volume: Body) -> list[str]:
    """Returns the hostnames of the nodes that have a volume. Empty if any of its terms names
    something else: a zone without nodes may get nodes again."""
    affinity = ((volume.get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    hosts: list[str] = []
    for term in affinity.get("nodeSelectorTerms") or []:
        found = [e for e in term.get("matchExpressions") or [] if _names_hosts(e)]
        if not found:
            return []
        hosts += found[0]["values"]
    return hosts


def _names_hosts(expression: dict[str, Any]) -> bool:
    return expression.get("key") == HOSTNAME and expression.get("operator") == "In"


async def grows(kube: Kube, storage_class: str) -> bool:
    """Whether a class lets its volumes grow. Raises ApiError."""
    found = await kube.get("StorageClass", "", storage_class) if storage_class else None
    return bool((found or {}).get("allowVolumeExpansion"))


async def attributes_problem(kube: Kube, name: str, storage_classes: Iterable[str]) -> str:
    """Returns why no volume of these storage classes can have this VolumeAttributesClass; "" if
    they can. Raises ApiError."""
    found = await kube.get("VolumeAttributesClass", "", name)
    if found is None:
        return (
            f"there is no VolumeAttributesClass {name}, or the API server does not serve them "
            "(storage.k8s.io/v1, from Kubernetes 1.34 on)"
        )
    driver = found.get("driverName", "")
    for storage_class in sorted(storage_classes):
        known = await kube.get("StorageClass", "", storage_class) or {}
        provisioner = known.get("provisioner", driver)
        if provisioner != driver:
            return (
                f"VolumeAttributesClass {name} is of driver {driver}, and storage class "
                f"{storage_class} of {provisioner}: name one of the same driver"
            )
    return ""
