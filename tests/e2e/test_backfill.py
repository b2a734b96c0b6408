"""Raft switched on for a Partition that holds data, on a real Kubernetes, while 8 writers go on.

BACKFILL_ENTRIES and BACKFILL_BYTES say how much: little by default, 200,000 and 1 GiB in
`make e2e`.
"""

import asyncio
import base64
import io
import json
import math
import os
import tarfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from partition_client import AsyncClient
from partition_client.channels import open_channel
from partition_client.client import Source
from partition_client.tree import digest_tree
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc

from dev.access import Access
from dev.cluster.layout import ROOT
from dev.demo import kill_container
from dev.load import Writers
from tests.e2e.conftest import Cluster, Namespace
from tests.e2e.test_partition import assert_equal, condition
from tests.support.local_group import eventually
from tests.support.seed_logs import seed_log

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

ENTRIES = int(os.environ.get("BACKFILL_ENTRIES", "5000"))
BYTES = int(os.environ.get("BACKFILL_BYTES", str(64 * 2**20)))
FILE_BYTES = 16 * 2**20
WRITERS = 8
CONCURRENT = 512
STEP_ENTRIES = 16_384
"""The replica's backfill_rows."""

NONE = "  replication: {mode: None}"
OPERATOR = "partition-system"
READY_S = 600.0


async def of(call: Callable[..., Any], *words: Any) -> Any:
    return await asyncio.to_thread(call, *words)


async def ready(namespace: Namespace, within_s: float = READY_S) -> dict[str, Any]:
    found: dict[str, Any] = await asyncio.to_thread(namespace.ready, "part", within_s)
    return found


async def mode(namespace: Namespace) -> str:
    found = await of(namespace.json, "get", "partition", "part")
    return str(found.get("status", {}).get("mode", ""))


async def without_raft(namespace: Namespace) -> None:
    """A Partition of mode None that serves."""
    size = f"{math.ceil(3 * BYTES / 2**20) + 1024}Mi"
    namespace.apply("part", size=size, more=NONE)

    async def serves() -> bool:
        status = (await of(namespace.json, "get", "partition", "part")).get("status", {})
        return (status.get("state"), status.get("mode"), status.get("ready")) == (
            "Ready",
            "None",
            "1/1",
        )

    await eventually(serves, "it serves without Raft", 180)


def switch_on(namespace: Namespace) -> None:
    patch = json.dumps({"spec": {"replication": {"mode": "Raft"}}})
    namespace.kubectl("patch", "partition", "part", "--type=merge", "-p", patch)


@asynccontextmanager
async def whole_log(access: Access) -> AsyncIterator[None]:
    """A consumer at replica 0 that has read nothing: the log keeps every entry."""
    channel = open_channel(access.endpoints[0], access.tls)
    stub = log_store_pb2_grpc.LogStoreStub(channel)
    request = api.RegisterConsumerRequest(name="keeps")
    await stub.RegisterConsumer(request, timeout=60, wait_for_ready=True)
    try:
        yield
    finally:
        with suppress(grpc.aio.AioRpcError):
            await stub.RemoveConsumer(api.RemoveConsumerRequest(name="keeps"), timeout=30)
        await channel.close()


async def fill(client: AsyncClient) -> None:
    """ENTRIES entries and BYTES in files."""
    slots = asyncio.Semaphore(CONCURRENT)

    async def put(number: int) -> None:
        async with slots:
            await client.set_key(b"before/%07d" % number, b"%d" % number)

    files = max(1, BYTES // FILE_BYTES)
    for number in range(files):
        content = os.urandom(min(BYTES, FILE_BYTES))
        await client.put_file(b"file-%04d" % number, Source.of_bytes(content))
    for first in range(0, ENTRIES, 20_000):
        await asyncio.gather(*(put(n) for n in range(first, min(first + 20_000, ENTRIES))))
        print(f"{min(first + 20_000, ENTRIES)} of {ENTRIES} entries written", flush=True)


async def only(client: AsyncClient) -> api.GetStatusResponse:
    """Replica 0's status."""

    async def answers() -> api.GetStatusResponse | None:
        return next(iter((await client.statuses()).values()))

    return await eventually(answers, "replica 0 answers", 180)


async def check(
    namespace: Namespace, access: Access, client: AsyncClient, lost: list[bytes]
) -> None:
    """Nothing acknowledged is lost, three replicas are equal, and the status says it all."""
    assert lost == []
    await assert_equal(access.endpoints, client)
    count = 0
    async for _ in client.list_keys(b"before/", b"before0"):
        count += 1
    assert count == ENTRIES
    found = await of(namespace.json, "get", "partition", "part")
    backfill = found["status"]["backfill"]
    assert int(backfill["targetLSN"]) - int(backfill["fromLSN"]) + 1 >= ENTRIES
    assert (backfill["doneLSN"], backfill["percent"]) == (backfill["targetLSN"], 100)
    complete = condition(found, "BackfillComplete")
    assert (complete["status"], complete["reason"]) == ("True", "Completed")
    assert sorted(m["role"] for m in found["status"]["members"]) == ["voter"] * 3
    assert (await of(namespace.json, "get", "pdb", "part"))["spec"]["minAvailable"] == 2


def held_seconds(namespace: Namespace) -> float:
    """How long replica 0 held writes, by its own metric."""
    pod = namespace.json("get", "pod", "part-0")
    with urllib.request.urlopen(f"http://{pod['status']['podIP']}:7080/metrics") as response:
        for line in response.read().decode().splitlines():
            if line.startswith("logstore_backfill_held_seconds "):
                return float(line.split()[1])
    raise AssertionError("no logstore_backfill_held_seconds")


async def test_the_switch_under_writers_and_how_long_writes_were_refused(
    namespace: Namespace, tmp_path: Path
) -> None:
    await without_raft(namespace)
    found = await of(namespace.json, "get", "partition", "part")
    assert condition(found, "Replicated")["reason"] == "NotReplicated"
    assert "not replicated" in condition(found, "Ready")["message"]
    assert namespace.kubectl("get", "pdb", "-o", "name") == ""
    assert "None" in namespace.kubectl("get", "partitions")
    async with namespace.access("part") as access, access.client() as client:
        async with whole_log(access):
            await fill(client)
            before = await only(client)
            assert before.last_index - before.stored_from + 1 >= ENTRIES
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            began = time.monotonic()
            await writers.next_acknowledged(began)
            await asyncio.sleep(5)  # a measure of the same without a switch
            usual, writers.longest_s = writers.longest_s, 0.0
            began = time.monotonic()
            await of(switch_on, namespace)

            async def is_raft() -> bool:
                return await mode(namespace) == "Raft"

            await eventually(is_raft, "the mode is Raft", READY_S)
            switched_s = time.monotonic() - began
            await writers.next_acknowledged(time.monotonic())
            switch, writers.longest_s = writers.longest_s, 0.0
            await ready(namespace)
            ready_s = time.monotonic() - began
            await writers.next_acknowledged(time.monotonic())
            growth = writers.longest_s
            await writers.stop()
            assert writers.failures == []
        await check(namespace, access, client, await writers.lost(client))
    held = await of(held_seconds, namespace)
    print(
        f"\n{ENTRIES} entries and {BYTES / 2**20:.0f} MiB, {WRITERS} writers, "
        f"{len(writers.acknowledged)} writes: longest time without an acknowledgement "
        f"{usual:.2f} s before, {switch:.2f} s in the switch (held by the replica {held:.3f} s), "
        f"{growth:.2f} s while it grew; mode Raft after {switched_s:.1f} s, three voters after "
        f"{ready_s:.1f} s"
    )
    assert held < 2.0
    events = namespace.events("part")
    for reason in ("BackfillStarted", "BackfillCompleted"):
        assert events.count(reason) == 1, events
    assert "QuorumLost" not in events
    with pytest.raises(RuntimeError, match="can't go from Raft to None"):
        namespace.kubectl(
            "patch", "partition", "part", "--type=merge",
            "-p", json.dumps({"spec": {"replication": {"mode": "None"}}}),
        )  # fmt: skip


async def kill_operator(cluster: Cluster) -> None:
    """SIGKILL to the operator's process that leads, as soon as one does: it may just be dead."""

    async def killed() -> bool:
        lease = await of(cluster.kubectl.json, "-n", OPERATOR, "get", "lease", "partition-operator")
        holder = lease["spec"]["holderIdentity"]
        with suppress(AssertionError, KeyError):
            await of(kill_container, cluster.layout, cluster.kubectl, OPERATOR, holder)
            return True
        return False

    await eventually(killed, "an operator leads, and is killed", 120)


async def kill_both(cluster: Cluster, namespace: Namespace, pod: str) -> None:
    """The operator that leads and a replica's container, at once."""
    await asyncio.gather(
        kill_operator(cluster),
        of(kill_container, cluster.layout, cluster.kubectl, namespace.name, pod),
    )


async def test_operator_and_replica_killed_at_each_step(
    cluster: Cluster, namespace: Namespace, tmp_path: Path
) -> None:
    await without_raft(namespace)
    async with namespace.access("part") as access, access.client(deadline_s=300) as client:
        async with whole_log(access):
            await fill(client)
            # Replica 0 ends in the middle of its backfill, once; the operator leaves that alone.
            steps = math.ceil(ENTRIES / STEP_ENTRIES)
            armed = f"PARTITION_FAILPOINT=backfill.step.after:{steps // 2 + 1}"
            namespace.kubectl("set", "env", "statefulset/part", armed)
            namespace.kubectl("delete", "pod", "part-0", "--wait=true")
            await only(client)
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            await writers.next_acknowledged(time.monotonic(), 180)

            await of(switch_on, namespace)
            await kill_operator(cluster)

            async def ended_in_the_middle() -> bool:
                pod = await of(namespace.json, "get", "pod", "part-0")
                states = pod["status"].get("containerStatuses", [])
                return any(
                    s.get("lastState", {}).get("terminated", {}).get("exitCode") == 86
                    for s in states
                )

            await eventually(ended_in_the_middle, "the replica ended in its backfill", 240)
            await kill_operator(cluster)

            async def is_raft() -> bool:
                found = await only(client)
                return bool(found.serving) and not found.unreplicated

            await eventually(is_raft, "Raft took over", 300)
            assert len((await only(client)).members) == 1, "before the first learner"
            await kill_both(cluster, namespace, "part-0")
            await writers.next_acknowledged(time.monotonic(), 300)

            async def roles() -> list[str]:
                seen = [s for s in (await client.statuses()).values() if s and s.serving]
                return [m.role for m in seen[0].members] if seen else []

            async def learning() -> bool:
                return "learner" in await roles()

            await eventually(learning, "the first learner is there", 300)
            await kill_both(cluster, namespace, "part-0")
            await writers.next_acknowledged(time.monotonic(), 300)

            async def promoted() -> bool:
                return (await roles()).count("voter") == 2

            await eventually(promoted, "the first learner is promoted", 300)
            await kill_both(cluster, namespace, "part-1")
            await writers.next_acknowledged(time.monotonic(), 300)
            await ready(namespace)
            await writers.next_acknowledged(time.monotonic())
            await writers.stop()
            assert writers.failures == []
        await check(namespace, access, client, await writers.lost(client))
    print(
        f"\n{ENTRIES} entries and {BYTES / 2**20:.0f} MiB, operator killed 5 times and replicas 4: "
        f"{len(writers.acknowledged)} writes, none lost; longest time without an acknowledgement "
        f"{writers.longest_s:.1f} s"
    )
    events = namespace.events("part")
    for reason in ("BackfillStarted", "BackfillCompleted"):
        assert events.count(reason) <= 1, events


SEED = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: seed}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
"""


async def test_an_imported_log_is_served_and_replicated(
    cluster: Cluster, namespace: Namespace, tmp_path: Path
) -> None:
    """manifests/samples/import.yaml, as docs/runbooks/enable-replication.md says."""
    seed_log(tmp_path / "log")
    namespace.kubectl("apply", "-f", "-", stdin=SEED)
    put_seed(cluster, namespace, tmp_path / "log")
    samples = ROOT / "manifests" / "samples"
    text = (samples / "import.yaml").read_text()
    wanted = next(
        d["spec"]["containers"][0]["image"] for d in yaml.safe_load_all(text) if d["kind"] == "Pod"
    )
    namespace.kubectl("apply", "-f", "-", stdin=text.replace(wanted, cluster.image))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    await of(namespace.kubectl, "wait", "pod/example-import", done, "--timeout=120s")
    report = json.loads(namespace.kubectl("logs", "example-import"))
    assert (report["first"], report["last"]) == (1, 9)
    namespace.kubectl("delete", "pod", "example-import", "--wait=true")
    namespace.kubectl("apply", "-f", str(samples / "import-partition.yaml"))
    found = await adopted(namespace)
    assert found["status"]["ready"] == "1/1"
    async with namespace.access("example") as access, access.client() as client:
        before = await digest_tree(client, b"")
        patch = json.dumps({"spec": {"replication": {"mode": "Raft"}}})
        namespace.kubectl("patch", "partition", "example", "--type=merge", "-p", patch)
        namespace.kubectl(
            "wait", "partition/example", "--for=condition=BackfillComplete", "--timeout=120s"
        )
        await asyncio.to_thread(namespace.ready, "example", 300)
        assert await digest_tree(client, b"") == before
        await assert_equal(access.endpoints, client)


async def adopted(namespace: Namespace) -> dict[str, Any]:
    async def serves() -> dict[str, Any] | None:
        found: dict[str, Any] = await of(namespace.json, "get", "partition", "example")
        status = found.get("status", {})
        return found if (status.get("state"), status.get("mode")) == ("Ready", "None") else None

    return await eventually(serves, "it serves the imported log", 180)


def put_seed(cluster: Cluster, namespace: Namespace, log: Path) -> None:
    """Copies a directory into the claim `seed`, as `log`, through a ConfigMap and a pod."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        out.add(log, "log")
    data = {"seed.tar": base64.b64encode(packed.getvalue()).decode()}
    source = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "seed"}}
    namespace.kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps(source | {"binaryData": data})
    )
    pod = next(
        d
        for d in yaml.safe_load_all((ROOT / "manifests/samples/import.yaml").read_text())
        if d["kind"] == "Pod"
    )
    pod["metadata"]["name"] = "seed"
    container = pod["spec"]["containers"][0] | {
        "image": cluster.image,
        "command": ["python3", "-c"],
        "args": ["import tarfile; tarfile.open('/from/seed.tar').extractall('/seed')"],
        "volumeMounts": [
            {"name": "seed", "mountPath": "/seed"},
            {"name": "from", "mountPath": "/from"},
        ],
    }
    pod["spec"]["containers"] = [container]
    pod["spec"]["volumes"] = [
        {"name": "seed", "persistentVolumeClaim": {"claimName": "seed"}},
        {"name": "from", "configMap": {"name": "seed"}},
    ]
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(pod))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    namespace.kubectl("wait", "pod/seed", done, "--timeout=120s")
    namespace.kubectl("delete", "pod", "seed", "--wait=true")
