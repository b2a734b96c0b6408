"""The two Services: one that gives each replica its name, one for clients."""

from typing import Any

from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.resources.common import metadata

GRPC = {"name": "grpc", "port": names.GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"}
HTTP = {"name": "http", "port": names.HTTP_PORT, "targetPort": "http", "protocol": "TCP"}


def build_headless(partition: Partition) -> dict[str, Any]:
    """Names of pods that are not ready, too: replicas find each other before they serve."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(partition, names.headless_service(partition.name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.selector(partition.name),
            "ports": [GRPC, HTTP],
        },
    }


def build_client(partition: Partition) -> dict[str, Any]:
    """Any ready replica: it tells a client who leads."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(partition, names.client_service(partition.name)),
        "spec": {
            "type": "ClusterIP",
            "selector": names.selector(partition.name),
            "ports": [GRPC],
        },
    }


def build_account(partition: Partition) -> dict[str, Any]:
    """The replicas' account: it may do nothing."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(partition, names.client_service(partition.name)),
        "automountServiceAccountToken": False,
    }
