"""A namespace in which an operator and stand-in nodes take, delete, verify and restore snapshots.

For tests against an API server and an S3 server."""

import asyncio
import base64
import json
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from partition_client import AsyncClient, PayloadSource, Tls
from partition_client.client import create_directory
from partition_client.tree import digest_tree
from partition_snapshots.destination import open_store
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.read import list_snapshots

from dev.object_store import ObjectStoreServer
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.object_store import BUCKET, listed_objects, named_objects, s3_destination
from tests.support.operator_process import Operator
from tests.support.stand_in_nodes import StandInNodes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStoreServer]:
    server = ObjectStoreServer(tmp_path_factory.mktemp("s3"))
    server.make_bucket(BUCKET)
    with server:
        yield server


@dataclass
class Stage:
    """A namespace with an operator, nodes and a Secret for the object store."""

    server: ApiServer
    store: ObjectStoreServer
    namespace: str
    folder: Path
    operator: Operator
    nodes: StandInNodes
    prefixes: list[str] = field(default_factory=list)

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        return self.server.kubectl("-n", self.namespace, *words, stdin=stdin, check=check)

    def apply(self, kind: str, name: str, spec: dict[str, Any], **annotations: str) -> None:
        body = {
            "apiVersion": "logstore.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": name, "annotations": annotations},
            "spec": spec,
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def get(self, kind: str, name: str) -> dict[str, Any]:
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        found: dict[str, Any] = json.loads(text) if text else {}
        return found

    def status(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.get(kind, name).get("status", {})
        return found

    def destination(self, **changes: Any) -> dict[str, Any]:
        return {
            "objectStore": {
                "endpoint": self.store.endpoint,
                "bucket": BUCKET,
                "prefix": "backups",
                "allowHTTP": True,
                "credentialsSecretRef": {"name": "s3"},
            }
            | changes
        }

    def secret(self, **data: str) -> None:
        values = {
            "accessKeyId": self.store.access_key_id,
            "secretAccessKey": self.store.secret_access_key,
        } | data
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": "s3"},
            "stringData": {key: value for key, value in values.items() if value},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    def partition(self, name: str = "part", *, replicas: int = 1, **spec: Any) -> None:
        body = {"replicas": replicas, "storage": {"size": "1Gi"}} | spec
        self.apply("Partition", name, body)

    async def until(self, kind: str, name: str, field: str, *values: str) -> dict[str, Any]:
        """status.<field> is one of values; returns status."""

        async def there() -> dict[str, Any]:
            self.operator.revive()
            found = await asyncio.to_thread(self.status, kind, name)
            return found if str(found.get(field)) in values else {}

        try:
            return await eventually(there, f"{kind} {name}: {field} is {values}", 120)
        except AssertionError:
            print(json.dumps(self.get(kind, name), indent=1), file=sys.stderr)
            raise

    async def ended_at_each(self, failpoints: tuple[str, ...]) -> None:
        """The operator ends at each in turn; then one goes on to the end."""
        for failpoint in failpoints:
            self.operator.start(failpoint)
            await self.operator.ended_at(failpoint)
        self.operator.start()

    def events(self, name: str) -> list[tuple[str, str]]:
        found = json.loads(self.kubectl("get", "events", "-o", "json"))["items"]
        return [(e["reason"], e["message"]) for e in found if e["involvedObject"]["name"] == name]

    def client(self, name: str = "part", replicas: int = 1) -> AsyncClient:
        secret = self.get("secret", f"{name}-client-tls")
        files = self.folder / f"client-{name}"
        files.mkdir(exist_ok=True)
        for key, data in secret["data"].items():
            (files / key).write_bytes(base64.b64decode(data))
        tls = Tls.in_directory(files, f"{name}-0.{name}-replicas.{self.namespace}.svc")
        return AsyncClient([self.nodes.endpoint(n, name) for n in range(replicas)], tls)

    async def write(self, text: str, name: str = "part") -> None:
        """A key, a small file and one that is a blob."""
        async with self.client(name) as client:
            if text == "one":
                await client.append([create_directory(b"d")])
            await client.set_key(b"key-" + text.encode(), text.encode())
            await client.put_file(
                b"d/small-" + text.encode(), PayloadSource.of_bytes(text.encode())
            )
            large = text.encode() * 100_000
            await client.put_file(b"d/large-" + text.encode(), PayloadSource.of_bytes(large))

    async def content(self, name: str = "part") -> tuple[dict[bytes, bytes], str]:
        """(keys, digest of the tree)."""
        async with self.client(name) as client:
            keys = dict([item async for item in client.list_keys()])
            return keys, await digest_tree(client, b"")

    def store_of(self, status: dict[str, Any]) -> Any:
        prefix = status["destination"]["objectStore"]["prefix"]
        return open_store(s3_destination(self.store, prefix), SnapshotLimits())


@pytest.fixture
async def stage(
    server: ApiServer, store: ObjectStoreServer, tmp_path: Path
) -> AsyncIterator[Stage]:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    settings = {"PARTITION_OPERATOR_LEASE_SECONDS": "4"}
    operator = Operator(server, namespace, tmp_path / "operator.log", **settings)
    try:
        async with StandInNodes(server.kubectl, namespace, tmp_path / "nodes") as nodes:
            made = Stage(server, store, namespace, tmp_path, operator, nodes)
            made.secret()
            yield made
    finally:
        operator.stop()
        print((tmp_path / "operator.log").read_text()[-6000:], file=sys.stderr)


async def begin(stage: Stage, **spec: Any) -> None:
    stage.partition(**spec)
    stage.operator.start()
    await stage.until("partition", "part", "state", "Ready")
    await stage.write("one")


@asynccontextmanager
async def restored(stage: Stage, name: str, **bootstrap: Any) -> AsyncIterator[dict[str, Any]]:
    stage.partition(name, bootstrap=bootstrap)
    yield await stage.until("partition", name, "state", "Ready")


async def taken(stage: Stage, name: str = "snap", **spec: Any) -> dict[str, Any]:
    body = {"partitionRef": {"name": "part"}, "destination": stage.destination()} | spec
    stage.apply("PartitionSnapshot", name, body)
    return await stage.until("partitionsnapshot", name, "state", "Verified")


async def listed(stage: Stage, status: dict[str, Any]) -> list[str]:
    """Snapshots in the store; nothing else is left in it."""
    opened = stage.store_of(status)
    try:
        found = [m.snapshot_id for m in await list_snapshots(opened)]
        assert await named_objects(opened) == await listed_objects(opened), "something is left"
        return found
    finally:
        await opened.close()
