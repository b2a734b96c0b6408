"""Snapshots on a real Kubernetes: scheduled ones under load, a restore beside, and one from the
object store alone after everything else was deleted."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from partition_client import AsyncClient, PayloadSource
from partition_client.client import create_directory

from dev.load import Writers
from dev.object_store import ObjectStoreServer
from tests.support.cluster import BUCKET, Namespace, content
from tests.support.local_group import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

RUNS = 3


def object_store(server: ObjectStoreServer) -> dict[str, Any]:
    return {
        "endpoint": server.endpoint,
        "bucket": BUCKET,
        "allowHTTP": True,
        "credentialsSecretRef": {"name": "s3"},
    }


def make_secret(namespace: Namespace, server: ObjectStoreServer) -> None:
    namespace.kubectl(
        "create",
        "secret",
        "generic",
        "s3",
        f"--from-literal=accessKeyId={server.access_key_id}",
        f"--from-literal=secretAccessKey={server.secret_access_key}",
    )


def make_partition(namespace: Namespace, name: str, **spec: Any) -> None:
    body = {
        "apiVersion": "logstore.dev/v1alpha1",
        "kind": "Partition",
        "metadata": {"name": name},
        "spec": {"replicas": 3, "storage": {"size": "512Mi"}} | spec,
    }
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(body))


async def test_scheduled_under_load_and_restored_beside_and_from_the_store_alone(
    namespace: Namespace, store: ObjectStoreServer, tmp_path: Path
) -> None:
    make_secret(namespace, store)
    make_partition(namespace, "part")
    await asyncio.to_thread(namespace.ready, "part")
    async with namespace.access("part") as access, access.client() as client:
        await client.append([create_directory(b"d")])
        for number in range(20):
            size = 1000 if number % 3 else 200_000
            await client.put_file(b"d/%d" % number, PayloadSource.of_bytes(os.urandom(size)))
        await three_runs_with_retention_2(namespace, store, client, tmp_path)
        # At rest, so that what is restored can be compared with what is there.
        namespace.kubectl(
            "patch", "partition", "part", "--type=merge", "-p",
            json.dumps({"spec": {"snapshots": {"suspend": True}}}),
        )  # fmt: skip
        wanted = await content(client)
        last = await take(namespace, "last", verify="Restore")
        assert last["state"] == "Verified", last
    make_partition(namespace, "beside", bootstrap={"snapshotRef": {"name": "last"}})
    found = await asyncio.to_thread(namespace.ready, "beside", 300)
    assert found["status"]["restored"]["lsn"] == last["lsn"]
    assert found["status"]["restored"]["digest"] == last["digest"]
    assert found["status"]["clusterID"] != last["clusterID"]
    async with namespace.access("beside") as access, access.client() as client:
        assert await content(client) == wanted
    await everything_else_gone(namespace, store, last, wanted)


async def three_runs_with_retention_2(
    namespace: Namespace, store: ObjectStoreServer, client: AsyncClient, tmp_path: Path
) -> None:
    writers = Writers(client, 4, tmp_path / "journal", "w/")
    writers.start()
    policy = {
        "schedule": "* * * * *",
        "retention": {"count": 2},
        "destination": {"objectStore": object_store(store)},
    }
    patch = json.dumps({"spec": {"snapshots": policy}})
    namespace.kubectl("patch", "partition", "part", "--type=merge", "-p", patch)
    seen: set[str] = set()
    verified: set[str] = set()
    """With the third one the first is on its way out."""

    async def all_run() -> bool:
        items = (await asyncio.to_thread(namespace.json, "get", "psnap"))["items"]
        for item in items:
            name, state = item["metadata"]["name"], item.get("status", {}).get("state", "")
            seen.add(name)
            if state == "Verified":
                verified.add(name)
        return len(verified) >= RUNS

    await eventually(all_run, f"{RUNS} scheduled snapshots are verified", 60 * (RUNS + 3))
    await writers.stop()
    assert writers.failures == []
    assert await writers.lost(client) == []

    async def pruned() -> bool:
        items = (await asyncio.to_thread(namespace.json, "get", "psnap"))["items"]
        good = [i for i in items if i.get("status", {}).get("state") == "Verified"]
        return len(good) <= 2 and len(seen) > len(items)

    await eventually(pruned, "retention keeps two", 60)
    status = namespace.json("get", "partition", "part")["status"]
    assert status["snapshots"].get("missed", 0) == 0
    fresh = next(c for c in status["conditions"] if c["type"] == "SnapshotFresh")
    assert fresh["status"] == "True", fresh
    assert status["snapshots"]["lastSnapshot"].startswith("part-")
    assert "SnapshotDeleted" in namespace.events("part")


async def take(namespace: Namespace, name: str, **spec: Any) -> dict[str, Any]:
    body = {
        "apiVersion": "logstore.dev/v1alpha1",
        "kind": "PartitionSnapshot",
        "metadata": {"name": name, "annotations": {"logstore.dev/pinned": "true"}},
        "spec": {"partitionRef": {"name": "part"}} | spec,
    }
    namespace.kubectl("apply", "-f", "-", stdin=json.dumps(body))

    async def over() -> dict[str, Any]:
        status = (await asyncio.to_thread(namespace.json, "get", "psnap", name)).get("status", {})
        return status if status.get("state") in ("Verified", "VerifyFailed", "Failed") else {}

    return await eventually(over, f"{name} has ended", 300)


async def everything_else_gone(
    namespace: Namespace,
    store: ObjectStoreServer,
    last: dict[str, Any],
    wanted: tuple[dict[bytes, bytes], str],
) -> None:
    namespace.kubectl("delete", "partition,psnap", "--all", "--wait=true")
    namespace.kubectl("delete", "pvc", "--all", "--wait=true", "--timeout=120s")
    begun = time.monotonic()
    source = object_store(store) | {
        "path": last["destination"]["objectStore"]["prefix"],
        "snapshot": "last",
    }
    make_partition(namespace, "part", bootstrap={"objectStore": source})
    found = await asyncio.to_thread(namespace.ready, "part", 300)
    assert found["status"]["restored"]["digest"] == last["digest"]
    async with namespace.access("part") as access, access.client() as client:
        assert await content(client) == wanted
        await client.set_key(b"goes on", b"yes")
    assert "RestoreCompleted" in namespace.events("part")
    print(f"\nfrom the object store alone to Ready: {time.monotonic() - begun:.1f} s")
