"""A Partition on a real Kubernetes: real API server, kubelets, containers, volumes."""

import asyncio
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from partition_client import DiskFull, PayloadSource
from partition_client.client import create_directory

from dev.cluster.layout import STATE
from dev.demo import kill_container
from dev.install import install, uninstall
from dev.load import Writers
from tests.support.cluster import Cluster, Namespace, assert_equal, condition
from tests.support.local_group import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

LEADER_KILLS = int(os.environ.get("LEADER_KILLS", "5"))
IDLE_SECONDS = int(os.environ.get("IDLE_SECONDS", "60"))


def test_three_replicas_on_three_nodes(namespace: Namespace) -> None:
    namespace.apply("part")
    found = namespace.ready("part")
    status = found["status"]
    assert status["ready"] == "3/3"
    assert status["observedGeneration"] == found["metadata"]["generation"]
    assert sorted(m["role"] for m in status["members"]) == ["voter"] * 3
    for kind in ("Accepted", "Bootstrapped", "QuorumAvailable", "Replicated", "Ready"):
        assert condition(found, kind)["status"] == "True", kind
    pods = namespace.json("get", "pods")["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 3
    columns = namespace.kubectl("get", "partitions")
    assert "Raft" in columns
    assert "3/3" in columns
    assert "Ready" in columns
    assert "part" in namespace.kubectl("get", "logstore")
    assert condition(found, "PodsPlaced")["reason"] == "Spread"
    events = namespace.events("part")
    for reason in ("Bootstrapped", "MemberAdded", "LearnerPromoted", "Ready"):
        assert reason in events, (reason, events)
    budget = namespace.json("get", "pdb", "part")
    assert budget["spec"]["minAvailable"] == 2
    claims = namespace.json("get", "pvc")["items"]
    ids = {c["metadata"]["annotations"]["logstore.dev/cluster-id"] for c in claims}
    assert ids == {status["clusterID"]}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"replicas": 2}, "1, 3, 5 or 7 are allowed"),
        ({"size": "1Mi"}, "at least 64Mi is allowed"),
        ({"size": "many"}, "at least 64Mi is allowed"),
        ({"more": "  replication: {mode: Paxos}"}, "supported values"),
        ({"name": "x" * 41}, "at most 40 characters"),
        ({"name": "1part"}, "beginning with a letter"),
    ],
)
def test_invalid_partitions_are_refused_by_the_api_server(
    namespace: Namespace, change: dict[str, Any], why: str
) -> None:
    values = {"name": "part"} | change
    with pytest.raises(RuntimeError, match=why):
        namespace.apply(**values)


def test_invalid_changes_are_refused_by_the_api_server(namespace: Namespace) -> None:
    namespace.apply("part", replicas=1, size="256Mi", more="  replication: {mode: Raft}")
    namespace.ready("part")
    for patch, why in (
        ({"storage": {"size": "128Mi"}}, "smaller than the volumes, which have 256Mi"),
        ({"storage": {"className": "other"}}, "the volumes have class"),
        ({"replication": {"mode": "None"}}, "can't go from Raft to None"),
    ):
        with pytest.raises(RuntimeError, match=why):
            namespace.kubectl(
                "patch", "partition", "part", "--type=merge", "-p", json.dumps({"spec": patch})
            )


async def test_the_leader_killed_again_and_again(namespace: Namespace, tmp_path: Path) -> None:
    """SIGKILL under 8 writers: nothing acknowledged is lost, all replicas end byte-equal."""
    namespace.apply("part")
    await asyncio.to_thread(namespace.ready, "part")
    pauses: list[float] = []
    async with namespace.access("part") as access:
        async with access.client() as client, access.client() as reader:
            await client.append([create_directory(b"d")])
            for number in range(30):
                content = os.urandom(1000 if number % 3 else 100_000)
                await client.put_file(b"d/%d" % number, PayloadSource.of_bytes(content))
            for kill in range(LEADER_KILLS):
                writers = Writers(client, 8, tmp_path / f"journal-{kill}", f"k{kill}/")
                writers.start()
                await writers.next_acknowledged(time.monotonic())
                leader = (await asyncio.to_thread(namespace.json, "get", "partition", "part"))[
                    "status"
                ]["leader"]
                killed = await asyncio.to_thread(
                    kill_container,
                    namespace.cluster.layout,
                    namespace.cluster.kubectl,
                    namespace.name,
                    leader,
                )
                pauses.append(await writers.next_acknowledged(killed))
                await writers.stop()
                assert await writers.lost(reader) == [], f"kill {kill}"
                assert writers.failures == []
                await asyncio.to_thread(namespace.ready, "part")
                await assert_equal(access.endpoints, reader)
    print(
        f"\n{LEADER_KILLS} kills of the leader: next acknowledged write after "
        f"median {statistics.median(pauses):.2f} s, worst {max(pauses):.2f} s"
    )


async def test_a_full_volume_refuses_writes_and_recovers(namespace: Namespace) -> None:
    namespace.apply("part", replicas=1, size="128Mi")
    await asyncio.to_thread(namespace.ready, "part")
    async with namespace.access("part", 1) as access, access.client() as client:
        await client.set_key(b"before", b"1")
        names = []
        with pytest.raises(DiskFull, match="below its reserve"):
            for number in range(200):
                name = b"f%d" % number
                await client.put_file(name, PayloadSource.of_bytes(os.urandom(2_000_000)))
                names.append(name)
        assert len(names) > 10
        assert await client.get_key(b"before") == b"1"
        got = bytearray()
        await client.read_file(names[0], got.extend)
        assert len(got) == 2_000_000
        with pytest.raises(DiskFull):
            await client.set_key(b"more", b"1")
        await client.remove_file(names[0])
        # A client that has no session yet, too: else nobody new could make room.
        async with access.client() as newcomer:
            await newcomer.remove_file(names[1])

        async def told() -> bool:
            found = await asyncio.to_thread(namespace.json, "get", "partition", "part")
            return condition(found, "StorageReady")["status"] == "False"

        await eventually(told, "the condition says so")
        assert "DiskFull" in namespace.events("part")
        pod = namespace.json("get", "pod", "part-0")
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0


async def test_writes_go_on_when_there_is_room_again(namespace: Namespace) -> None:
    """A stranger's file fills the volume, and is removed."""
    namespace.apply("part", replicas=1, size="128Mi")
    await asyncio.to_thread(namespace.ready, "part")
    volume = namespace.json("get", "pvc", "data-part-0")["spec"]["volumeName"]
    ballast = f"{STATE}/volumes/{volume}/ballast"
    inside = ["nsenter", "-t", (STATE / "inner.pid").read_text(), "-m", "--"]
    async with namespace.access("part", 1) as access, access.client() as client:
        await client.set_key(b"k", b"1")
        subprocess.run([*inside, "dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], check=False)

        async def refused() -> bool:
            try:
                await client.set_key(b"k", b"2")
            except DiskFull:
                return True
            return False

        await eventually(refused, "writes are refused")
        assert await client.get_key(b"k") is not None
        subprocess.run([*inside, "rm", ballast], check=True)

        async def taken() -> bool:
            return not await refused()

        await eventually(taken, "writes are taken again")
        assert await client.get_key(b"k") == b"2"
    await asyncio.to_thread(namespace.ready, "part")


async def test_scaling_up_and_down_keeps_the_data(namespace: Namespace) -> None:
    namespace.apply("part", replicas=1)
    await asyncio.to_thread(namespace.ready, "part")
    async with namespace.access("part", 1) as access, access.client() as client:
        await client.put_file(b"file", PayloadSource.of_bytes(os.urandom(200_000)))
        await client.set_key(b"k", b"v")
        namespace.kubectl("scale", "partition", "part", "--replicas=3")
        await asyncio.to_thread(namespace.ready, "part")
    async with namespace.access("part", 3) as access, access.client() as client:
        await assert_equal(access.endpoints, client)
        namespace.kubectl("scale", "partition", "part", "--replicas=1")

        async def alone() -> bool:
            pods = await asyncio.to_thread(namespace.json, "get", "pods")
            return len(pods["items"]) == 1

        await eventually(alone, "one pod is left", within_s=120)
    await asyncio.to_thread(namespace.ready, "part")
    async with namespace.access("part", 1) as access, access.client() as client:
        assert await client.get_key(b"k") == b"v"
    assert namespace.kubectl("get", "pdb", "-o", "name") == ""
    assert "MemberRemoved" in namespace.events("part")


async def test_a_partition_applied_again_is_refused_and_adopts_when_told(
    namespace: Namespace,
) -> None:
    namespace.apply("part")
    before = await asyncio.to_thread(namespace.ready, "part")
    async with namespace.access("part") as access, access.client() as client:
        await client.set_key(b"kept", b"v")
    namespace.kubectl("delete", "partition", "part", "--wait=true")

    async def no_pods() -> bool:
        return not (await asyncio.to_thread(namespace.json, "get", "pods"))["items"]

    await eventually(no_pods, "the pods are gone", within_s=90)
    assert len(namespace.json("get", "pvc")["items"]) == 3
    namespace.apply("part")

    async def refused() -> dict[str, Any] | None:
        found = await asyncio.to_thread(namespace.json, "get", "partition", "part")
        accepted = [
            c for c in found.get("status", {}).get("conditions", []) if c["type"] == "Accepted"
        ]
        return accepted[0] if accepted and accepted[0]["status"] == "False" else None

    told = await eventually(refused, "it is refused")
    assert told["reason"] == "VolumesFound"
    assert "spec.bootstrap.adopt" in told["message"]
    assert not namespace.json("get", "pods")["items"]
    assert "VolumesFound" in namespace.events("part")
    namespace.apply("part", more="  bootstrap: {adopt: true}")
    after = await asyncio.to_thread(namespace.ready, "part")
    assert after["status"]["clusterID"] == before["status"]["clusterID"]
    async with namespace.access("part") as access, access.client() as client:
        assert await client.get_key(b"kept") == b"v"


async def test_uninstalling_leaves_everything_and_reinstalling_adopts(
    cluster: Cluster, namespace: Namespace
) -> None:
    namespace.apply("part")
    await asyncio.to_thread(namespace.ready, "part")
    pods = {p["metadata"]["uid"] for p in namespace.json("get", "pods")["items"]}
    async with namespace.access("part") as access, access.client() as client:
        await client.set_key(b"k", b"1")
        await asyncio.to_thread(uninstall, cluster.kubectl)
        await client.set_key(b"k", b"2")
        assert namespace.json("get", "partition", "part")["status"]["ready"] == "3/3"
        await asyncio.to_thread(install, cluster.kubectl, cluster.image)
        namespace.kubectl("scale", "partition", "part", "--replicas=5")
        await asyncio.to_thread(namespace.ready, "part")
        assert await client.get_key(b"k") == b"2"
    again = {p["metadata"]["uid"] for p in namespace.json("get", "pods")["items"]}
    assert pods < again, "no pod was restarted"


async def test_an_idle_partition_causes_no_writes(namespace: Namespace) -> None:
    """In the API server's audit log the operator writes nothing but Leases."""
    namespace.apply("part")
    await asyncio.to_thread(namespace.ready, "part")
    await asyncio.sleep(5)
    log = namespace.cluster.layout.logs / "audit.log"
    offset = log.stat().st_size
    await asyncio.sleep(IDLE_SECONDS)
    written = []
    with log.open() as file:
        file.seek(offset)
        for line in file:
            event = json.loads(line)
            user = event["user"]["username"]
            where = event["objectRef"].get("namespace")
            ours = where in (namespace.name, "partition-system")
            if ours and user.startswith("system:serviceaccount:partition-system:"):
                written.append((event["verb"], event["objectRef"].get("resource")))
    assert written, "the operator renews its Lease"
    assert {resource for _, resource in written} == {"leases"}, written


@pytest.mark.parametrize(
    "failpoint",
    [
        "Bootstrap",
        # With processes instead of pods tests/apiserver tries these each time.
        pytest.param("AddLearner", marks=pytest.mark.long),
        pytest.param("PromoteLearner", marks=pytest.mark.long),
    ],
)
async def test_an_operator_killed_in_the_middle_carries_on(
    cluster: Cluster, namespace: Namespace, failpoint: str
) -> None:
    deployment = ("-n", "partition-system", "set", "env", "deploy/partition-operator")
    cluster.kubectl(*deployment, f"PARTITION_OPERATOR_FAILPOINT={failpoint}")
    cluster.kubectl("-n", "partition-system", "rollout", "status", "deploy/partition-operator")
    try:
        namespace.apply("part")

        async def died() -> bool:
            pods = await asyncio.to_thread(
                cluster.kubectl.json, "-n", "partition-system", "get", "pods"
            )
            states = [
                s.get("lastState", {}).get("terminated", {}).get("exitCode")
                for pod in pods["items"]
                for s in pod["status"].get("containerStatuses", [])
            ]
            return 86 in states

        await eventually(died, "the operator died at the failpoint")
    finally:
        cluster.kubectl(*deployment, "PARTITION_OPERATOR_FAILPOINT-")
        cluster.kubectl("-n", "partition-system", "rollout", "status", "deploy/partition-operator")
    found = await asyncio.to_thread(namespace.ready, "part")
    assert len({m["memberID"] for m in found["status"]["members"]}) == 3
    async with namespace.access("part") as access, access.client() as client:
        await client.set_key(b"k", b"v")
        await assert_equal(access.endpoints, client)
