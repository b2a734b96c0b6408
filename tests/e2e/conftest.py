"""The project's own Kubernetes, with the operator installed from the chart."""

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dev.access import Access, Kubectl
from dev.cluster import host
from dev.cluster.layout import Layout
from dev.demo import wait_ready
from dev.install import install

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
