"""The runbooks, by copying their commands: what is filled in is said here, nothing is left out."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from partition_client import AsyncClient, PayloadSource

from dev.cluster.layout import ROOT
from dev.object_store import ObjectStoreServer
from tests.support.backfilled_partitions import SEED, put_seed
from tests.support.cluster import BUCKET, Cluster, Namespace, content
from tests.support.local_group import eventually
from tests.support.pages import Page
from tests.support.runbook_desk import Desk
from tests.support.seed_logs import seed_log

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1800)]
RESTORING = "e2e/test_runbooks.py::test_restoring"
FAILING = "e2e/test_runbooks.py::test_a_snapshot_that_fails"
SWITCHING = "e2e/test_runbooks.py::test_switching_replication_on"
ENDED = ("Verified", "VerifyFailed", "Failed")


@pytest.fixture
def desk(namespace: Namespace, store: ObjectStoreServer, tmp_path: Path) -> Desk:
    return Desk(namespace, store, tmp_path)


async def put_something(client: AsyncClient) -> None:
    for number in range(50):
        await client.set_key(b"k/%d" % number, os.urandom(100))
    for number in range(5):
        await client.put_file(b"f%d" % number, PayloadSource.of_bytes(os.urandom(100_000)))


async def test_restoring(desk: Desk) -> None:
    kubectl, runbook = desk.namespace.kubectl, desk.runbook("restore.md", RESTORING)
    desk.make_secret()
    await desk.make_partition()
    async with desk.namespace.access("example") as access, access.client() as client:
        await put_something(client)
        wanted = await content(client)
    desk.take("good")
    status = await desk.until("psnap", "good", *ENDED)
    assert "Verified" in runbook.run("kubectl get partitionsnapshots")

    # A key that is wrong, so that the restore fails first.
    kubectl("delete", "secret", "backups")
    desk.make_secret("wrong" * 8)
    from_object = {"SNAPSHOT": "good", "--timeout=1h": "--timeout=5m"}
    restoring = asyncio.create_task(
        asyncio.to_thread(runbook.run, "kubectl apply -f - <<YAML", from_object)
    )
    await desk.until("partition", "example-restored", "RestoreFailed")
    assert "StoreRefused" in runbook.run("kubectl logs example-restored-restore")
    kubectl("delete", "secret", "backups")
    desk.make_secret()
    runbook.run("kubectl delete pod example-restored-restore")
    await restoring
    restored = (await desk.ready("example-restored"))["status"]["restored"]
    assert (restored["lsn"], restored["digest"]) == (status["lsn"], status["digest"])
    seen = runbook.run("kubectl get partition example-restored")
    assert status["digest"] in seen
    async with desk.namespace.access("example-restored") as access, access.client() as client:
        assert await content(client) == wanted

    # Anew, and in place.
    again = {"apiVersion": "logstore.dev/v1alpha1", "kind": "Partition"}
    spec = {"replicas": 1, "storage": {"size": "512Mi"}}
    spec["bootstrap"] = {"snapshotRef": {"name": "good"}}
    for name, beginning in (
        ("example-restored", "kubectl delete partition example-restored"),
        ("example", "kubectl delete partition example\n"),
    ):
        file = desk.directory / f"{name}.json"
        file.write_text(json.dumps(again | {"metadata": {"name": name}, "spec": spec}))
        runbook.run(beginning, {"…": file.name})
        await desk.ready(name)
        async with desk.namespace.access(name, 1) as access, access.client() as client:
            assert await content(client) == wanted

    await from_the_store_alone(desk, runbook, status, wanted)
    runbook.assert_all_tried()


async def from_the_store_alone(
    desk: Desk, runbook: Page, status: dict[str, Any], wanted: tuple[dict[bytes, bytes], str]
) -> None:
    kubectl = desk.namespace.kubectl
    kubectl("delete", "partition,psnap,secret", "--all", "--wait=true")
    kubectl("delete", "pvc", "--all", "--wait=true", "--timeout=120s")
    path = {
        "partitions/NAMESPACE/example/CLUSTER-ID": status["destination"]["objectStore"]["prefix"]
    }
    key, secret = desk.keys
    listed = runbook.run(
        "export AWS_ACCESS_KEY_ID",
        path
        | {
            "AWS_ACCESS_KEY_ID=…": f"AWS_ACCESS_KEY_ID={key}",
            "AWS_SECRET_ACCESS_KEY=…": f"AWS_SECRET_ACCESS_KEY={secret}",
            "https://s3.example.org": f"{desk.store.endpoint} --s3-allow-http",
        },
    )
    assert "good" in listed
    runbook.run(
        "kubectl create secret generic backups",
        path
        | {
            "endpoint: https://s3.example.org": (
                f"endpoint: {desk.store.endpoint}\n      allowHTTP: true"
            )
        },
    )
    assert (await desk.ready("example"))["status"]["restored"]["digest"] == status["digest"]
    async with desk.namespace.access("example") as access, access.client() as client:
        assert await content(client) == wanted


async def test_a_snapshot_that_fails(desk: Desk) -> None:
    kubectl, runbook = desk.namespace.kubectl, desk.runbook("snapshot-failing.md", FAILING)
    desk.make_secret("wrong" * 8)
    await desk.make_partition()
    desk.take("bad")
    assert (await desk.until("psnap", "bad", *ENDED))["state"] == "Failed"
    runbook.run("kubectl patch partition example --type=merge")

    async def scheduled() -> bool:
        snapshots = (await desk.status("partition", "example")).get("snapshots", {})
        return bool(snapshots.get("nextScheduleTime"))

    await eventually(scheduled, "the schedule is taken over")
    seen = runbook.run("kubectl get partition example -o wide", {"SNAPSHOT": "bad"})
    assert "SnapshotFresh" in seen
    assert "StoreRefused" in seen
    key, secret = desk.keys
    right = {
        "accessKeyId=…": f"accessKeyId={key}",
        "secretAccessKey=…": f"secretAccessKey={secret}",
    }
    runbook.run("kubectl create secret generic backups", right)
    runbook.run("kubectl create -f - <<YAML")
    status = await desk.until("psnap", "example-now", *ENDED)
    assert status["state"] == "Verified"
    scratch = desk.directory / "scratch"
    scratch.mkdir()
    desk.terminal.run(f"export AWS_ACCESS_KEY_ID={key} AWS_SECRET_ACCESS_KEY={secret}")
    prefix = status["destination"]["objectStore"]["prefix"]
    place = {
        "--s3-endpoint …": f"--s3-endpoint {desk.store.endpoint} --s3-allow-http",
        "--s3-bucket …": f"--s3-bucket {BUCKET}",
        "--s3-prefix …": f"--s3-prefix {prefix}",
        "--snapshot ID": "--snapshot example-now",
    }
    proof = runbook.run(
        "partition-replica snapshot verify", place | {"/large/enough": str(scratch)}
    )
    assert status["digest"] in proof
    kubectl("delete", "psnap", "example-now")
    assert "example-now" in runbook.run("partitionctl snapshot ls", place)
    runbook.assert_all_tried()


async def test_switching_replication_on(cluster: Cluster, desk: Desk, tmp_path: Path) -> None:
    """Of a log of directories, so that its part is tried, too."""
    kubectl, runbook = desk.namespace.kubectl, desk.runbook("enable-replication.md", SWITCHING)
    seed_log(tmp_path / "log")
    kubectl("apply", "-f", "-", stdin=SEED)
    put_seed(cluster, desk.namespace, tmp_path / "log")
    samples = desk.directory / "manifests" / "samples"
    shutil.copytree(ROOT / "manifests" / "samples", samples)
    text = (samples / "import.yaml").read_text()
    documents = list(yaml.safe_load_all(text))
    wanted = next(d for d in documents if d["kind"] == "Pod")["spec"]["containers"][0]["image"]
    (samples / "import.yaml").write_text(text.replace(wanted, cluster.image))
    report = runbook.run("kubectl apply -f manifests/samples/import.yaml")
    assert '"unverified"' in report
    runbook.run("kubectl delete pod example-import")
    assert "None" in runbook.run("kubectl get partition example -o wide")
    runbook.run("kubectl scale partition example")
    runbook.run("kubectl patch partition example")
    seen = runbook.run("kubectl wait partition/example --for=condition=BackfillComplete")
    assert '"percent":100' in seen
    assert "BackfillCompleted" in seen
    found = await desk.ready("example")
    assert found["status"]["ready"] == "3/3"
    runbook.run("kubectl logs example-0 --tail=20")
    await desk.ready("example")
    runbook.assert_all_tried()
