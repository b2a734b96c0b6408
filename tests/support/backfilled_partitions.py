"""Partitions on a cluster that hold data before Raft is switched on, and what holds afterwards.

BACKFILL_ENTRIES and BACKFILL_BYTES say how much data, as tests/e2e/test_backfill.py explains."""

import asyncio
import base64
import io
import json
import math
import os
import tarfile
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import yaml
from partition_client import AsyncClient, PayloadSource
from partition_client.channels import open_channel
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc

from dev.access import Access
from dev.cluster.layout import ROOT
from tests.support.cluster import Cluster, Namespace, assert_equal, condition
from tests.support.local_group import eventually

ENTRIES = int(os.environ.get("BACKFILL_ENTRIES", "5000"))
BYTES = int(os.environ.get("BACKFILL_BYTES", str(64 * 2**20)))
FILE_BYTES = 16 * 2**20
WRITERS = 8
CONCURRENT = 512
STEP_ENTRIES = 16_384
"""The replica's backfill_rows."""

NONE = "  replication: {mode: None}"
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
        await client.put_file(b"file-%04d" % number, PayloadSource.of_bytes(content))
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


SEED = """\
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: seed}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 64Mi}}
"""


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
