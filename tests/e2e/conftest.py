"""The project's own Kubernetes, with the operator installed from the chart."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dev.access import Access, Kubectl
from dev.cluster import host
from dev.cluster.layout import STATE, Layout
from dev.demo import wait_ready
from dev.install import install
from dev.object_store import ObjectStoreServer

BUCKET = "backups"

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata:
  name: {name}
spec:
  replicas: {replicas}
  storage:
    size: {size}
{more}
"""


@dataclass
class Cluster:
    """A running cluster: kubectl against it, and the image that it holds."""

    layout: Layout
    kubectl: Kubectl
    image: str


@dataclass
class Namespace:
    """A namespace of one test; Pod Security enforces `restricted`."""

    cluster: Cluster
    name: str

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        return self.cluster.kubectl("-n", self.name, *words, stdin=stdin, check=check)

    def json(self, *words: str) -> dict:  # type: ignore[type-arg]
        found: dict = self.cluster.kubectl.json("-n", self.name, *words)  # type: ignore[type-arg]
        return found

    def apply(self, name: str, *, replicas: int = 3, size: str = "512Mi", more: str = "") -> None:
        text = PARTITION.format(name=name, replicas=replicas, size=size, more=more)
        self.kubectl("apply", "-f", "-", stdin=text)

    def ready(self, name: str, within_s: float = 120) -> dict:  # type: ignore[type-arg]
        wait_ready(self.cluster.kubectl, self.name, name, within_s)
        return self.json("get", "partition", name)

    def access(self, name: str, replicas: int = 3) -> Access:
        return Access(self.cluster.kubectl, self.name, name, replicas, direct=True)

    def events(self, name: str) -> list[str]:
        found = self.json("get", "events", "--field-selector", f"involvedObject.name={name}")
        return [event["reason"] for event in found["items"]]


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
