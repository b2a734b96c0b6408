"""Snapshots, verification, retention and restore by the operator, ended at each of its steps. Real
API server and etcd, real replicas, a real S3 server; what would be pods are processes."""

import asyncio
import json
import uuid
from typing import Any

import pytest
from partition_operator.failpoints import SNAPSHOTS
from partition_snapshots.read import list_snapshots

from dev.cluster.layout import ROOT
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.object_store import listed_objects, named_objects
from tests.support.snapshot_stage import Stage, begin, listed, taken
from tests.support.snapshot_stage import stage as stage  # a fixture
from tests.support.snapshot_stage import store as store  # a fixture

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

TAKING = (
    "snapshot.status.written",
    "snapshot.Label",
    "snapshot.StartTake",
    "snapshot.StartVerify",
)
"""These, and those below, in the order in which they are reached."""
PROVING = ("snapshot.CreateVerifyPod", "snapshot.DeletePod")
SCHEDULING = ("schedule.status.written", "schedule.Create")
PRUNING = ("schedule.Removing", "schedule.StartDelete", "schedule.Delete")
RESTORING = ("Create.PersistentVolumeClaim", "Create.Pod", "RecordRestored", "Delete.Pod")


def test_every_failpoint_is_tried() -> None:
    assert {*TAKING, *PROVING, *SCHEDULING, *PRUNING, *RESTORING} == SNAPSHOTS


async def test_a_snapshot_goes_on(stage: Stage) -> None:
    await begin(stage)
    stage.operator.stop()
    stage.apply(
        "PartitionSnapshot",
        "snap",
        {"partitionRef": {"name": "part"}, "destination": stage.destination()},
    )
    await stage.ended_at_each(TAKING)
    status = await stage.until("partitionsnapshot", "snap", "state", "Verified", "Failed")
    assert status["state"] == "Verified", status
    assert int(status["lsn"]) > 1
    assert (status["keys"], status["sourcePod"]) == (1, "part-0")
    assert status["transferredBytes"] > 300_000
    opened = stage.store_of(status)
    listed = await list_snapshots(opened)
    assert [(m.snapshot_id, m.uid) for m in listed] == [
        ("snap", stage.get("partitionsnapshot", "snap")["metadata"]["uid"])
    ]
    assert await named_objects(opened) == await listed_objects(opened), "nothing is left behind"
    await opened.close()
    reasons = [reason for reason, _ in stage.events("snap")]
    assert "SnapshotVerified" in reasons
    secrets = (stage.store.secret_access_key, stage.store.access_key_id)
    told = (stage.folder / "operator.log").read_text() + stage.kubectl(
        "get", "events", "-o", "json"
    )
    assert not any(secret in told for secret in secrets)


async def test_a_restore_goes_on(stage: Stage) -> None:
    await begin(stage)
    snapshot = await taken(stage)
    wanted = await stage.content()
    await stage.write("two")
    stage.operator.stop()
    stage.partition("copy", bootstrap={"snapshotRef": {"name": "snap"}})
    await stage.ended_at_each(RESTORING)
    status = await stage.until("partition", "copy", "state", "Ready")
    assert await stage.content("copy") == wanted
    assert status["restored"]["lsn"] == snapshot["lsn"]
    assert status["restored"]["digest"] == snapshot["digest"]
    assert status["clusterID"] != snapshot["clusterID"]
    condition = next(c for c in status["conditions"] if c["type"] == "Restored")
    assert condition["status"] == "True"
    assert not stage.get("pod", "copy-restore")
    reasons = [reason for reason, _ in stage.events("copy")]
    assert "RestoreCompleted" in reasons
    await stage.write("three", "copy")


async def test_a_restoring_verification_goes_on(stage: Stage) -> None:
    await begin(stage)
    stage.operator.stop()
    stage.apply(
        "PartitionSnapshot",
        "snap",
        {
            "partitionRef": {"name": "part"},
            "destination": stage.destination(),
            "verify": "Restore",
        },
    )
    await stage.ended_at_each(PROVING)
    status = await stage.until("partitionsnapshot", "snap", "state", "Verified", "VerifyFailed")
    assert status["state"] == "Verified", status
    verified = next(c for c in status["conditions"] if c["type"] == "Verified")
    assert verified["reason"] == "Restore"
    assert status["digest"] in verified["message"], "equal states"

    async def gone() -> bool:
        return not await asyncio.to_thread(stage.get, "pod", "snap-verify")

    await eventually(gone, "the pod that verified is removed")
    assert len(stage.nodes.pods.seen) == 1, "one was enough"


async def test_a_schedule_goes_on(stage: Stage) -> None:
    await begin(stage)
    stage.operator.stop()
    policy = {
        "schedule": "0 3 29 2 *",
        "immediate": True,
        "destination": stage.destination(),
    }
    patch = json.dumps({"spec": {"snapshots": policy}})
    stage.kubectl("patch", "partition", "part", "--type=merge", "-p", patch)
    await stage.ended_at_each(SCHEDULING)

    async def told() -> dict[str, Any]:
        stage.operator.revive()
        found = (await asyncio.to_thread(stage.status, "partition", "part")).get("snapshots", {})
        return found if "lastSuccessfulTime" in found else {}

    found = await eventually(told, "the first snapshot is a success", 120)
    objects = json.loads(stage.kubectl("get", "psnap", "-o", "json"))["items"]
    assert [o["metadata"]["name"] for o in objects] == [found["lastSnapshot"]], "made once"
    assert objects[0]["metadata"]["annotations"]["logstore.dev/scheduled-at"]
    assert "ownerReferences" not in objects[0]["metadata"], "it outlives its Partition"
    assert found["nextScheduleTime"].endswith("-02-29T03:00:00Z")
    assert "immediateAt" not in found
    assert found.get("missed", 0) == 0


async def test_a_removal_goes_on(stage: Stage) -> None:
    await begin(stage)
    await taken(stage, "first")
    pinned = {"logstore.dev/pinned": "true"}
    spec = {"partitionRef": {"name": "part"}, "destination": stage.destination()}
    stage.apply("PartitionSnapshot", "pinned", spec, **pinned)
    await stage.until("partitionsnapshot", "pinned", "state", "Verified")
    stage.operator.stop()
    await stage.write("two")
    policy = {"retention": {"count": 1}, "destination": stage.destination()}
    patch = json.dumps({"spec": {"snapshots": policy}})
    stage.kubectl("patch", "partition", "part", "--type=merge", "-p", patch)
    stage.apply("PartitionSnapshot", "last", {"partitionRef": {"name": "part"}})
    await stage.ended_at_each(PRUNING)

    async def gone() -> bool:
        stage.operator.revive()
        return not await asyncio.to_thread(stage.get, "psnap", "first")

    await eventually(gone, "the first one is removed", 120)
    status = await stage.until("partitionsnapshot", "last", "state", "Verified")
    assert sorted(await listed(stage, status)) == ["last", "pinned"]
    condition = next(
        c
        for c in stage.status("partition", "part")["conditions"]
        if c["type"] == "RetentionEnforced"
    )
    assert condition["status"] == "True", condition


async def test_a_volume_holds_snapshots_and_one_is_restored_from_it(stage: Stage) -> None:
    await begin(stage, snapshots={"destination": {"volume": {}}, "retention": {"count": 1}})
    await taken(stage, "first", destination={"volume": {}})
    status = await taken(stage, "snap", destination={"volume": {}})
    assert status["transferredBytes"] < 100_000, "files are linked"
    assert status["location"] == "volume of part-0"
    wanted = await stage.content()

    async def gone() -> bool:
        return not await asyncio.to_thread(stage.get, "psnap", "first")

    await eventually(gone, "the first one is removed", 60)
    assert not (stage.nodes.volume("part-0") / "snapshots/snapshots/first.json").exists()
    stage.partition("copy", bootstrap={"snapshotRef": {"name": "snap"}})
    found = await stage.until("partition", "copy", "state", "Ready")
    assert found["restored"]["lsn"] == status["lsn"]
    assert await stage.content("copy") == wanted
    (pod,) = stage.nodes.pods.seen
    source = next(v for v in pod["spec"]["volumes"] if v["name"] == "source")
    assert source["persistentVolumeClaim"]["claimName"] == "data-part-0"


async def test_everything_gone_but_the_object_store(stage: Stage) -> None:
    """The restoring process is killed and tried again; before its snapshot exists it is waited
    for."""
    await begin(stage)
    status = await taken(stage)
    wanted = await stage.content()
    store = stage.destination()["objectStore"] | {
        "path": status["destination"]["objectStore"]["prefix"]
    }
    store.pop("prefix")
    stage.kubectl("delete", "partition,psnap", "--all")
    stage.nodes.pods.arm("restore.rows_loaded", "", "")
    stage.kubectl("delete", "secret", "s3")
    stage.partition("copy", bootstrap={"objectStore": store})

    async def waits() -> bool:
        conditions = (await asyncio.to_thread(stage.status, "partition", "copy")).get("conditions")
        return any(c["reason"] == "SecretNotFound" for c in conditions or [])

    await eventually(waits, "the missing Secret is said", 60)
    stage.secret()
    found = await stage.until("partition", "copy", "state", "Ready")
    assert await stage.content("copy") == wanted
    assert found["restored"]["digest"] == status["digest"]
    assert ("RestoreWaiting" in [r for r, _ in stage.events("copy")]) is True


BAD: tuple[tuple[dict[str, Any], str, str], ...] = (
    ({"bucket": "no-such-bucket"}, "StoreRefused", "bucket"),
    ({"credentialsSecretRef": {"name": "nowhere"}}, "SecretNotFound", "create it"),
    ({"credentialsSecretRef": {"name": "half"}}, "SecretKeyMissing", "secretAccessKey"),
    ({"credentialsSecretRef": {"name": "wrong"}}, "StoreRefused", ""),
)


async def test_bad_destinations_fail_and_the_partition_serves(stage: Stage) -> None:
    for name, key in (("half", ""), ("wrong", "not-the-key")):
        words = ["create", "secret", "generic", name]
        words += [f"--from-literal=accessKeyId={stage.store.access_key_id}"]
        if key:
            words += [f"--from-literal=secretAccessKey={key}"]
        stage.kubectl(*words)
    await begin(stage)
    for number, (changes, reason, what) in enumerate(BAD):
        name = f"snap-{number}"
        spec = {"partitionRef": {"name": "part"}, "destination": stage.destination(**changes)}
        stage.apply("PartitionSnapshot", name, spec)
        status = await stage.until("partitionsnapshot", name, "state", "Failed", "Verified")
        failed = next(c for c in status["conditions"] if c["type"] == "Failed")
        assert failed["reason"] == reason, failed
        assert what in failed["message"]
        assert [r for r, _ in stage.events(name)].count("SnapshotFailed") == 1
    assert "SnapshotFailed" in [r for r, _ in stage.events("part")]
    assert stage.status("partition", "part")["state"] == "Ready"
    await stage.write("two")


async def test_a_source_that_dies_and_a_store_that_is_away(stage: Stage) -> None:
    """Another replica takes it; while the store is away it is tried again."""
    stage.partition(replicas=3)
    stage.operator.start()
    await stage.until("partition", "part", "state", "Ready")
    stage.store.kill()
    try:
        spec = {"partitionRef": {"name": "part"}, "destination": stage.destination()}
        stage.apply("PartitionSnapshot", "snap", spec)
        # Before it has answered, the same job would be asked for again.
        status = await stage.until("partitionsnapshot", "snap", "phase", "Running")
        stage.nodes.kill(status["sourcePod"])

        async def elsewhere() -> bool:
            found = await asyncio.to_thread(stage.status, "partitionsnapshot", "snap")
            return int(found.get("attempts", 0)) > 1

        await eventually(elsewhere, "another attempt is made", 120)
    finally:
        stage.store.start()
    found = await stage.until("partitionsnapshot", "snap", "state", "Verified", "Failed")
    assert found["state"] == "Verified"
    assert "SnapshotRetrying" in [r for r, _ in stage.events("snap")]
    assert await listed(stage, found) == ["snap"]


@pytest.mark.parametrize(
    ("kind", "spec", "why"),
    [
        ("Partition", {"snapshots": {"schedule": "0 0 3 * * *"}}, "five fields"),
        ("Partition", {"snapshots": {"schedule": "0 3 * * *"}}, "a schedule needs one"),
        ("Partition", {"snapshots": {"retention": {"maxAge": "7 weeks"}}}, "maxAge"),
        ("Partition", {"snapshots": {"verify": "Maybe"}}, "supported values"),
        ("Partition", {"snapshots": {"retention": {"maxAge": "36500d1s"}}}, "at most 36500d"),
        (
            "Partition",
            {"bootstrap": {"adopt": True, "snapshotRef": {"name": "x"}}},
            "exclude each other",
        ),
        ("PartitionSnapshot", {"destination": {}}, "one of volume and objectStore"),
        (
            "PartitionSnapshot",
            {
                "destination": {
                    "objectStore": {
                        "bucket": "bucket",
                        "endpoint": "http://x",
                        "credentialsSecretRef": {"name": "s"},
                    }
                }
            },
            "allowHTTP",
        ),
    ],
)
def test_the_api_server_refuses_what_can_be_seen_at_once(
    server: ApiServer, kind: str, spec: dict[str, Any], why: str
) -> None:
    base = {"storage": {"size": "1Gi"}} if kind == "Partition" else {"partitionRef": {"name": "p"}}
    body = {
        "apiVersion": "logstore.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": "x"},
        "spec": base | spec,
    }
    with pytest.raises(RuntimeError, match=why):
        server.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(body))


@pytest.mark.parametrize(
    "sample", ["application", "external", "mesh", "restore", "scheduled", "snapshot"]
)
def test_the_samples_are_accepted(server: ApiServer, sample: str) -> None:
    file = ROOT / "manifests" / "samples" / f"{sample}.yaml"
    assert "created" in server.kubectl("apply", "--dry-run=server", "-f", str(file))


def test_what_was_asked_for_can_not_be_changed(server: ApiServer) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)

    def apply(kind: str, spec: dict[str, Any]) -> None:
        body = {
            "apiVersion": "logstore.dev/v1alpha1",
            "kind": kind,
            "metadata": {"name": "x"},
            "spec": spec,
        }
        server.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(body))

    apply("PartitionSnapshot", {"partitionRef": {"name": "p"}})
    with pytest.raises(RuntimeError, match="spec can't change"):
        apply("PartitionSnapshot", {"partitionRef": {"name": "q"}})
    size = {"storage": {"size": "1Gi"}}
    apply("Partition", size | {"bootstrap": {"snapshotRef": {"name": "a"}}})
    for changed in ({"snapshotRef": {"name": "b"}}, {}):
        with pytest.raises(RuntimeError, match="followed once"):
            apply("Partition", size | {"bootstrap": changed})
