"""The installed chart on a cluster: where its pods run, and what `helm test` says of it."""

import pytest

from dev.install import NAMESPACE, RELEASE, helm
from tests.support.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

PODS = "app.kubernetes.io/name=partition-operator"


def test_two_operators_run_on_different_nodes(cluster: Cluster) -> None:
    pods = cluster.kubectl.json("-n", NAMESPACE, "get", "pods", "-l", PODS)["items"]
    running = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    assert len(running) == 2
    assert len({pod["spec"]["nodeName"] for pod in running}) == 2


def test_helm_test_succeeds_and_leaves_nothing(cluster: Cluster) -> None:
    found = helm(cluster.kubectl, "test", RELEASE, "-n", NAMESPACE, "--timeout", "150s")
    assert "Phase:          Succeeded" in found
    name = f"pod/{RELEASE}-test"
    assert not cluster.kubectl("-n", NAMESPACE, "get", name, "--ignore-not-found", "-o", "name")
