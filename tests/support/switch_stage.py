"""A namespace in which an operator and stand-in nodes switch replication on, for tests against an
API server alone."""

import asyncio
import base64
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partition_client import AsyncClient, Tls
from partition_client.tree import digest_tree

from dev.load import Writers
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_process import Operator
from tests.support.stand_in_nodes import StandInNodes

SWITCHING = (
    "status.written",
    "EnableReplication",
    "Apply.StatefulSet",
    "AnnotateClaim",
    "Join",
    "AddLearner",
    "PromoteLearner",
    "Apply.PodDisruptionBudget",
)
"""In the order in which they are reached."""

BEGINNING = ("Bootstrap", "RecordBootstrapped")
IN_THE_REPLICA = (
    "backfill.begun",
    "backfill.step.before:2",
    "backfill.step.after:2",
    "backfill.drained",
    "backfill.state_term_set",
    "backfill.finish.before",
    "backfill.finish.after",
)

SMALL_STEPS = ("--limit", "backfill_rows=50")
ENTRIES = 300
WRITERS = 2

PARTITION = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec:
  replicas: 3
  storage: {size: 1Gi}
  replication: {mode: None}
"""

THREE_VOTERS = """\
apiVersion: logstore.dev/v1alpha1
kind: Partition
metadata: {name: part}
spec: {replicas: 3, storage: {size: 1Gi}}
"""

CLAIM = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: data-part-0
  labels: {logstore.dev/partition: part, app.kubernetes.io/component: replica}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Gi}}
"""


@dataclass
class Stage:
    """A namespace with an operator and nodes of its own."""

    server: ApiServer
    namespace: str
    folder: Path
    operator: Operator
    nodes: StandInNodes

    def kubectl(self, *words: str, stdin: str = "") -> str:
        return self.server.kubectl("-n", self.namespace, *words, stdin=stdin)

    async def partition(self) -> dict[str, Any]:
        return await asyncio.to_thread(
            self.server.kubectl.json, "-n", self.namespace, "get", "partition", "part"
        )

    async def three_voters(self) -> None:
        """Makes a Partition with Raft, starts the operator, and waits until it is Ready."""
        self.kubectl("apply", "-f", "-", stdin=THREE_VOTERS)
        self.operator.start()
        await self.ready("Raft", 3)

    async def status(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.partition()).get("status", {})
        return found

    async def ready(self, mode: str, size: int) -> None:
        """kubectl's watch costs less than asking again and again."""
        for field, value in (("mode", mode), ("ready", f"{size}/{size}"), ("state", "Ready")):
            await eventually(
                lambda f=field, v=value: self._waited(f, v), f"status.{field} is {value}", 120
            )

    async def _waited(self, field: str, value: str) -> bool:
        self.operator.revive()
        condition = f"--for=jsonpath={{.status.{field}}}={value}"
        words = ("-n", self.namespace, "wait", "partition/part", condition, "--timeout=10s")
        return bool(await asyncio.to_thread(self.server.kubectl, *words, check=False))

    async def died_at(self, failpoint: str) -> None:
        assert await self.operator.ended_at(failpoint) == failpoint

    def switch_on(self) -> None:
        patch = json.dumps({"spec": {"replication": {"mode": "Raft"}}})
        self.kubectl("patch", "partition", "part", "--type=merge", "-p", patch)

    def events(self) -> list[str]:
        found = self.server.kubectl.json("-n", self.namespace, "get", "events")["items"]
        return [e["reason"] for e in found for _ in range(e.get("count", 1))]

    def client(self) -> AsyncClient:
        secret = self.server.kubectl.json("-n", self.namespace, "get", "secret", "part-client-tls")
        files = self.folder / "client"
        files.mkdir(exist_ok=True)
        for name, data in secret["data"].items():
            (files / name).write_bytes(base64.b64decode(data))
        tls = Tls.in_directory(files, f"part-0.part-replicas.{self.namespace}.svc")
        endpoints = [self.nodes.endpoint(n) for n in range(3)]
        return AsyncClient(endpoints, tls, follow_hints=False)


@asynccontextmanager
async def stage(
    server: ApiServer,
    folder: Path,
    *,
    arguments: tuple[str, ...] = SMALL_STEPS,
    refresh: bool = False,
    **settings: str,
) -> AsyncIterator[Stage]:
    """arguments, refresh: of StandInNodes. settings: of the operator's environment."""
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    operator = Operator(server, namespace, folder / "operator.log", **settings)
    nodes = StandInNodes(
        server.kubectl, namespace, folder / "nodes", arguments=arguments, refresh=refresh
    )
    try:
        async with nodes:
            yield Stage(server, namespace, folder, operator, nodes)
    except BaseException:
        print((folder / "operator.log").read_text()[-6000:], file=sys.stderr)
        raise
    finally:
        operator.stop()


async def fill(client: AsyncClient) -> None:
    await asyncio.gather(*(client.set_key(b"before/%04d" % n, b"v") for n in range(ENTRIES)))


async def check_group(found: Stage, client: AsyncClient, writers: Writers) -> None:
    """Three equal voters with everything that was acknowledged; the status and events say so."""
    assert await writers.lost(client) == []
    assert writers.failures == []
    status = await found.status()
    assert sorted(m["role"] for m in status["members"]) == ["voter"] * 3
    backfill = status["backfill"]
    assert (backfill["doneLSN"], backfill["percent"]) == (backfill["targetLSN"], 100)
    complete = next(c for c in status["conditions"] if c["type"] == "BackfillComplete")
    assert (complete["status"], complete["reason"]) == ("True", "Completed")
    for reason in ("BackfillStarted", "BackfillCompleted"):
        assert found.events().count(reason) <= 1, reason

    async def settled() -> bool:
        seen = list((await client.statuses()).values())
        return None not in seen and len({s.applied for s in seen if s is not None}) == 1

    await eventually(settled, "all replicas have applied the same")
    contents = []
    for ordinal in range(3):
        endpoint = found.nodes.endpoint(ordinal)
        keys = [item async for item in client.list_keys(stale_from=endpoint)]
        contents.append((keys, await digest_tree(client, b"", stale_from=endpoint)))
    assert contents[0] == contents[1] == contents[2]
    assert sum(key.startswith(b"before/") for key, _ in contents[0][0]) == ENTRIES
