"""What kubectl's collective names reach."""

import uuid

import pytest

from tests.support.api_server import ApiServer

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

OBJECTS = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {storage: {size: 1Gi}}
---
apiVersion: logstore.dev/v1alpha1
kind: PartitionSnapshot
metadata: {name: snap}
spec: {partitionRef: {name: part}}
"""
BOTH = ["partition.logstore.dev/part", "partitionsnapshot.logstore.dev/snap"]


def test_delete_all_spares_our_objects(server: ApiServer) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    server.kubectl("-n", namespace, "apply", "-f", "-", stdin=OBJECTS)

    def listed(*words: str) -> list[str]:
        return server.kubectl("-n", namespace, "get", *words, "-o", "name").split()

    server.kubectl("-n", namespace, "delete", "all", "--all")
    assert listed("logstore") == BOTH
    # A category with a plural's name would make these mean both kinds.
    assert listed("partitions") == BOTH[:1]
    assert listed("partitions", "part") == BOTH[:1]
    server.kubectl("-n", namespace, "delete", "partitions", "--all")
    assert listed("logstore") == BOTH[1:]
