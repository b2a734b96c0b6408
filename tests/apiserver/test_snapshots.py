"""Snapshots, verification, retention and restore by the operator, ended at each of its steps. Real
API server and etcd, real replicas, a real S3 server; what would be pods are processes."""

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
from partition_client import AsyncClient, Tls
from partition_client.client import Source, create_directory
from partition_client.tree import digest_tree
from partition_operator.assembly import EXIT_DEPOSED
from partition_operator.failpoints import EXIT_CODE, SNAPSHOTS
from partition_snapshots.destination import open_store
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.read import list_snapshots

from dev.cluster.layout import ROOT
from dev.object_store import ObjectStoreServer
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.object_store import BUCKET, listed_objects, named_objects, s3_destination
from tests.support.operator_process import Operator
from tests.support.stand_in_nodes import StandInNodes

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

TAKING = (
    "snapshot.status.written",
    "snapshot.Label",
    "snapshot.StartTake",
    "snapshot.StartVerify",
)
"""These, and those below, in the order in which they are reached."""
PROVING = ("snapshot.CreatePod", "snapshot.DeletePod")
SCHEDULING = ("schedule.status.written", "schedule.Create")
PRUNING = ("schedule.Removing", "schedule.StartPrune", "schedule.Delete")
RESTORING = ("Create.PersistentVolumeClaim", "Create.Pod", "RecordRestored", "Delete.Pod")


def test_every_failpoint_is_tried() -> None:
    assert {*TAKING, *PROVING, *SCHEDULING, *PRUNING, *RESTORING} == SNAPSHOTS


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
            await self.died_at(failpoint)
        self.operator.start()

    async def died_at(self, failpoint: str) -> None:
        async def died() -> bool:
            process = self.operator.process
            assert process is not None
            if process.poll() == EXIT_DEPOSED:
                self.operator.start(failpoint)
                return False
            return process.poll() is not None

        await eventually(died, f"the operator reaches {failpoint}", 120)
        assert self.operator.process is not None
        assert self.operator.process.returncode == EXIT_CODE

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
            await client.put_file(b"d/small-" + text.encode(), Source.of_bytes(text.encode()))
            large = text.encode() * 100_000
            await client.put_file(b"d/large-" + text.encode(), Source.of_bytes(large))

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


@asynccontextmanager
async def restored(stage: Stage, name: str, **bootstrap: Any) -> AsyncIterator[dict[str, Any]]:
    stage.partition(name, bootstrap=bootstrap)
    yield await stage.until("partition", name, "state", "Ready")


async def taken(stage: Stage, name: str = "snap", **spec: Any) -> dict[str, Any]:
    body = {"partitionRef": {"name": "part"}, "destination": stage.destination()} | spec
    stage.apply("PartitionSnapshot", name, body)
    return await stage.until("partitionsnapshot", name, "state", "Verified")


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


async def listed(stage: Stage, status: dict[str, Any]) -> list[str]:
    """Snapshots in the store; nothing else is left in it."""
    opened = stage.store_of(status)
    try:
        found = [m.snapshot_id for m in await list_snapshots(opened)]
        assert await named_objects(opened) == await listed_objects(opened), "something is left"
        return found
    finally:
        await opened.close()


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
        c for c in stage.status("partition", "part")["conditions"] if c["type"] == "SnapshotsPruned"
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


@pytest.mark.parametrize("sample", ["snapshot", "scheduled", "restore", "mesh"])
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
