"""A Kubernetes cluster, and a namespace of one test on it."""

from dataclasses import dataclass
from typing import Any

from partition_client import AsyncClient
from partition_client.tree import digest_tree

from dev.access import Access, Kubectl
from dev.cluster.layout import Layout
from dev.demo import wait_ready
from tests.support.local_group import eventually

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


def condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(c for c in found["status"]["conditions"] if c["type"] == kind)


async def assert_equal(endpoints: list[str], client: Any) -> None:
    """Every replica has applied the same, and streams the same bytes."""

    async def settled() -> bool:
        # To the end of the log: what was acknowledged is in it, and may be applied nowhere yet.
        found = list((await client.statuses()).values())
        ends = {end for s in found if s for end in (s.applied, s.committed, s.last_index)}
        return None not in found and len(ends) == 1

    await eventually(settled, "all replicas have applied the same")
    contents = []
    for endpoint in endpoints:
        keys = [item async for item in client.list_keys(stale_from=endpoint)]
        contents.append((keys, await digest_tree(client, b"", stale_from=endpoint)))
    assert contents[0] == contents[1] == contents[2]


async def content(client: AsyncClient) -> tuple[dict[bytes, bytes], str]:
    keys = {key: value async for key, value in client.list_keys()}
    return keys, await digest_tree(client, b"")
