"""Raft switched on for a Partition that ran without, by the operator: ended at each of its steps,
the replica ended at some of its own, writers going on. Real API server, etcd and replicas."""

import asyncio
import base64
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from partition_client import AsyncClient, Tls
from partition_client.tree import digest_tree
from partition_operator.failpoints import EXIT_CODE

from dev.load import Writers
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_process import Operator
from tests.support.seed_logs import seed_log
from tests.support.stand_in_nodes import StandInNodes

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

SWITCHING = (
    "status.written",
    "EnableReplication",
    "Apply.StatefulSet",
    "MarkClaim",
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
        process = self.operator.process
        assert process is not None

        async def died() -> bool:
            return process.poll() is not None

        await eventually(died, f"the operator reaches {failpoint}", 120)
        assert process.returncode == EXIT_CODE

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
    server: ApiServer, folder: Path, *, arguments: tuple[str, ...] = SMALL_STEPS, **settings: str
) -> AsyncIterator[Stage]:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    operator = Operator(server, namespace, folder / "operator.log", **settings)
    nodes = StandInNodes(server.kubectl, namespace, folder / "nodes", arguments=arguments)
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


async def test_the_operator_ends_at_each_step_while_it_switches_replication_on(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await fill(client)
            found.operator.stop()
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            found.switch_on()
            for failpoint in SWITCHING:
                found.operator.start(failpoint)
                await found.died_at(failpoint)
                await writers.next_acknowledged(time.monotonic())
            found.operator.start()
            await found.ready("Raft", 3)
            await writers.next_acknowledged(time.monotonic())
            await writers.stop()
            await check_group(found, client, writers)


async def test_the_operator_ends_while_a_partition_without_raft_begins(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        for failpoint in BEGINNING:
            found.operator.start(failpoint)
            await found.died_at(failpoint)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await client.set_key(b"k", b"v")
            only = (await client.statuses())[found.nodes.endpoint(0)]
            assert only is not None
            assert only.unreplicated
        assert len(found.server.kubectl.json("-n", found.namespace, "get", "pods")["items"]) == 1
        assert found.kubectl("get", "pdb", "-o", "name") == ""
        assert "None" in found.kubectl("get", "partitions")


async def test_the_replica_ends_at_each_step_while_replication_is_switched_on(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await fill(client)
            found.nodes.arm("part-0", *IN_THE_REPLICA, "")
            found.nodes.kill("part-0")
            await eventually(lambda: restarted(found, 1), "it runs with the first failpoint")
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            await writers.next_acknowledged(time.monotonic())
            found.switch_on()
            count = 1 + len(IN_THE_REPLICA)
            await eventually(lambda: restarted(found, count), "the replica ended at each")
            await found.ready("Raft", 3)
            await writers.next_acknowledged(time.monotonic())
            await writers.stop()
            await check_group(found, client, writers)
        assert found.nodes.restarts["part-0"] == count
        assert found.events().count("BackfillStarted") == 1
        assert found.events().count("BackfillCompleted") == 1


async def restarted(found: Stage, count: int) -> bool:
    return found.nodes.restarts.get("part-0", 0) >= count


async def test_a_backfill_that_does_not_move_is_said_to_have_stalled_once(
    server: ApiServer, tmp_path: Path
) -> None:
    """The replica ends at its first step again and again, then no more."""
    settings = {"PARTITION_OPERATOR_BACKFILL_STALLED_SECONDS": "3"}
    async with stage(server, tmp_path, **settings) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await fill(client)
            found.nodes.arm("part-0", "backfill.step.before")
            found.nodes.kill("part-0")
            await eventually(lambda: restarted(found, 1), "it runs with the failpoint")
            await client.set_key(b"serves", b"again")
            found.switch_on()

            async def stalled() -> dict[str, Any] | None:
                found.operator.revive()
                conditions = (await found.status()).get("conditions", [])
                said = [c for c in conditions if c["reason"] == "Stalled"]
                return said[0] if said else None

            told = await eventually(stalled, "the condition says that it stalled")
            assert (told["type"], told["status"]) == ("BackfillComplete", "False")
            assert "kubectl" in told["message"]
            before = (await found.partition())["status"]["backfill"]
            assert before["doneLSN"] == "0"
            found.nodes.arm("part-0", "")
            await found.ready("Raft", 3)
            assert await client.get_key(b"before/0000") == b"v"
        events = found.events()
        for reason in ("BackfillStarted", "BackfillStalled", "BackfillCompleted"):
            assert events.count(reason) == 1, (reason, events)


async def test_a_log_that_nobody_wrote_is_switched_on(server: ApiServer, tmp_path: Path) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        found.switch_on()
        await found.ready("Raft", 3)
        async with found.client() as client:
            await client.set_key(b"k", b"v")
            assert await client.get_key(b"k") == b"v"


@pytest.mark.parametrize("early", [False, True], ids=["in order", "Partition first"])
async def test_an_imported_log_is_adopted_without_raft_and_replicated(
    server: ApiServer, tmp_path: Path, early: bool
) -> None:
    """As docs/runbooks/enable-replication.md says: claim, import, Partition, Raft. A Partition that
    is older than the claim takes the volume over, too."""
    partition = PARTITION + "  bootstrap: {adopt: true}\n"
    async with stage(server, tmp_path) as found:
        if early:
            found.kubectl("apply", "-f", "-", stdin=partition)
        found.kubectl("apply", "-f", "-", stdin=CLAIM)
        created = found.server.kubectl.json("-n", found.namespace, "get", "pvc", "data-part-0")
        source = seed_log(tmp_path / "seed" / "log")
        volume = found.nodes.volume("part-0")
        report = await asyncio.to_thread(imported, source, volume)
        shown = json.loads(
            subprocess.check_output(
                [*REPLICA, "inspect", "--data", str(volume), "--json"], text=True
            )
        )
        assert (shown["replication"], shown["last index"]) == ("None", report["last"])
        if not early:
            await eventually(lambda: a_later_second(created), "the claim is older")
            found.kubectl("apply", "-f", "-", stdin=partition)
        found.operator.start()
        await found.ready("None", 1)
        assert (await found.status())["clusterID"] == shown["cluster"]
        async with found.client() as client:
            before = await digest_tree(client, b"")
            found.switch_on()
            await found.ready("Raft", 3)
            for ordinal in range(3):
                endpoint = found.nodes.endpoint(ordinal)
                assert await digest_tree(client, b"", stale_from=endpoint) == before
        claims = found.server.kubectl.json("-n", found.namespace, "get", "pvc")["items"]
        ids = {c["metadata"]["annotations"]["logstore.dev/cluster-id"] for c in claims}
        assert ids == {shown["cluster"]}


REPLICA = (sys.executable, "-m", "partition_replica")


def imported(source: Path, volume: Path) -> dict[str, Any]:
    command = [*REPLICA, "log", "import", str(source), "--data", str(volume), "--json"]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return found


async def a_later_second(created: dict[str, Any]) -> bool:
    stamp = created["metadata"]["creationTimestamp"]
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > stamp
