"""The project's own Kubernetes, with the operator installed from the chart."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.access import Kubectl
from dev.cluster import host
from dev.cluster.layout import STATE, Layout
from dev.install import install
from dev.object_store import ObjectStoreServer
from tests.support.cluster import BUCKET, Cluster, Namespace


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("a local Kubernetes needs root: namespaces, mounts, bridges")
    before = Layout.load()
    was_running = before is not None and host.running(before)
    layout = host.up()
    kubectl = Kubectl(kubeconfig=layout.kubeconfig)
    image = host.image()
    install(kubectl, image)
    yield Cluster(layout, kubectl, image)
    if not was_running:
        host.down()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[Namespace]:
    name = f"test-{uuid.uuid4().hex[:8]}"
    text = (
        f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels:\n"
        "    pod-security.kubernetes.io/enforce: restricted\n"
    )
    cluster.kubectl("apply", "-f", "-", stdin=text)
    yield Namespace(cluster, name)
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def store(cluster: Cluster, tmp_path: Path) -> Iterator[ObjectStoreServer]:
    """On the nodes' network: pods do not reach the host."""
    inner = (STATE / "inner.pid").read_text().strip()
    server = ObjectStoreServer(
        tmp_path / "s3",
        address=cluster.layout.bridge,
        network=Path(f"/proc/{inner}/ns/net"),
    )
    server.make_bucket(BUCKET)
    with server:
        yield server
