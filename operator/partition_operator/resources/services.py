"""The two Services, one for the DNS names of the replicas and one for clients, and the account."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.resources.common import metadata

GRPC = {"name": "grpc", "port": names.GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"}
RAFT = {"name": "raft", "port": names.RAFT_PORT, "targetPort": "raft", "protocol": "TCP"}
HTTP = {"name": "http", "port": names.HTTP_PORT, "targetPort": "http", "protocol": "TCP"}

BALANCING = ("loadBalancerClass", "loadBalancerSourceRanges", "externalTrafficPolicy")
FAMILIES = ("ipFamilyPolicy", "ipFamilies")
"""Fields of a Service that a Partition sets by the same names."""


def build_headless(partition: Partition) -> dict[str, Any]:
    """Returns the headless Service. It also publishes pods that are not ready, because replicas
    find each other before they serve. Raises InvalidSpec."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(partition, names.headless_service(partition.name)),
        "spec": _families(partition)
        | {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.selector(partition.name),
            "ports": [GRPC, RAFT, HTTP],
        },
    }


def build_client(partition: Partition) -> dict[str, Any]:
    """Returns the clients' Service. It selects any ready replica, which names the leader to a
    client. Raises InvalidSpec.
    """
    asked: dict[str, Any] = dict(partition.spec().service)
    described = metadata(partition, names.client_service(partition.name))
    if annotations := asked.get("annotations"):
        described["annotations"] = annotations
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": described,
        "spec": _families(partition)
        | {field: asked[field] for field in BALANCING if field in asked}
        | {
            "type": asked.get("type", "ClusterIP"),
            "selector": names.selector(partition.name),
            "ports": [GRPC],
        },
    }


def _families(partition: Partition) -> dict[str, Any]:
    asked: dict[str, Any] = dict(partition.spec().service)
    return {field: asked[field] for field in FAMILIES if field in asked}


def build_account(partition: Partition) -> dict[str, Any]:
    """Returns the replicas' ServiceAccount. It has no permissions. Raises InvalidSpec."""
    annotations = partition.spec().account_annotations
    described = metadata(partition, names.client_service(partition.name))
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": described | ({"annotations": annotations} if annotations else {}),
        "automountServiceAccountToken": False,
    }
