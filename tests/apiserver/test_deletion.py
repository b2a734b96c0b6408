"""A Partition is deleted as its policy says, although the operator ends at each step. A stand-in
takes the snapshot; no controllers run."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.clients.kube import ApiError, Body
from partition_operator.failpoints import DELETION
from partition_operator.reconcile.observed.partition import ObservedReplica
from partition_operator.turns import executor

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_turns import Turns
from tests.support.partition_views import member, replica
from tests.support.snapshot_objects import OBJECT_STORE

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

CLUSTER = "11111111-1111-4111-8111-111111111111"


class Ended(Exception):
    """In place of the end of the process."""


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    async with Turns(server) as found:
        yield found


async def made(turns: Turns, policy: str, **spec: Any) -> None:
    """A Partition whose group exists, with a claim."""
    await turns.make(deletionPolicy=policy, snapshots={"destination": OBJECT_STORE}, **spec)
    status = {"clusterID": CLUSTER, "bootstrapped": True}
    await turns.kube.merge_status(turns.namespace, "part", {"status": status})
    labels = {"logstore.dev/partition": "part", "app.kubernetes.io/component": "replica"}
    marks = {"logstore.dev/cluster-id": CLUSTER}
    await turns.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-part-0", "labels": labels, "annotations": marks},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "256Mi"}},
            },
        }
    )


def lead(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica leads, with entries up to LSN 10."""
    one = member(0, address=names.address("part", turns.namespace, 0))

    async def replicas(*_: object) -> tuple[ObservedReplica, ...]:
        return (replica(0, "leader", members=(one,)),)

    monkeypatch.setattr(turns.observer, "replicas", replicas)


async def leave(turns: Turns) -> str:
    """A user deletes it. Returns the name of its last snapshot."""
    uid = str((await turns.get("Partition", "part"))["metadata"]["uid"])
    await turns.kube.delete("Partition", turns.namespace, "part", uid)
    return names.last_snapshot("part", uid)


async def owners(turns: Turns) -> list[str]:
    claim = await turns.get("PersistentVolumeClaim", "data-part-0")
    return [owner["kind"] for owner in claim["metadata"].get("ownerReferences", [])]


async def test_a_last_snapshot_is_taken_before_the_claims_go(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: set[str] = set()

    def reach(name: str) -> None:
        """Ends the first time that each step is taken."""
        if name in DELETION and name not in reached:
            reached.add(name)
            raise Ended

    monkeypatch.setattr(executor.failpoints, "reach", reach)

    async def turn() -> None:
        for _ in range(4):
            try:
                await turns.turn()
                return
            except Ended:
                continue

    await made(turns, "Delete")
    await turn()
    assert await owners(turns) == ["Partition"]
    await turns.edit("Partition", "part", {"spec": {"deletionPolicy": "SnapshotThenDelete"}})
    await turn()
    assert await owners(turns) == []
    partition = await turns.get("Partition", "part")
    assert partition["metadata"]["finalizers"] == [names.FINALIZER]

    lead(turns, monkeypatch)
    last = await leave(turns)
    await turn()
    assert reached == DELETION
    assert await turns.get("PartitionSnapshot", last)
    assert await turns.state() == "Deleting"
    assert "deletionTimestamp" not in (await claim(turns) or {})["metadata"]

    await say(turns, last, "Failed")
    await turn()
    assert await turns.state() == "DeletionBlocked"
    assert "DeletionBlocked" in [reason for reason, _ in await turns.events()]
    assert "deletionTimestamp" not in (await claim(turns) or {})["metadata"]
    snapshot = await turns.get("PartitionSnapshot", last)
    await turns.kube.delete("PartitionSnapshot", turns.namespace, last, snapshot["metadata"]["uid"])
    await turn()
    await say(turns, last, "Succeeded", lsn="9")
    await turn()
    assert "deletionTimestamp" not in (await claim(turns) or {})["metadata"]
    further = f"{last}-2"
    await say(turns, further, "Succeeded", verification={"method": "Checksum", "attempts": 0})
    await turn()
    assert "deletionTimestamp" not in (await claim(turns) or {})["metadata"]
    await say(turns, further, "Verified", verification=None)
    await turn()
    found = await claim(turns)
    assert found is None or "deletionTimestamp" in found["metadata"]
    assert await turns.kube.get("Partition", turns.namespace, "part") is None
    assert await turns.get("PartitionSnapshot", further), "it outlives its Partition"


async def test_a_hibernated_partition_wakes_for_its_last_snapshot(turns: Turns) -> None:
    await made(turns, "SnapshotThenDelete", hibernated=True)
    await turns.turn()
    assert (await turns.get("StatefulSet", "part"))["spec"]["replicas"] == 0
    assert await turns.state() == "Hibernated"
    last = await leave(turns)
    assert await turns.turn() is not None
    assert await turns.get("PartitionSnapshot", last)
    assert (await turns.get("StatefulSet", "part"))["spec"]["replicas"] == 1
    assert await turns.state() == "Deleting"
    assert "meanwhile: waiting for pods part-0" in (await turns.conditions())["Ready"]["message"]


async def test_a_refused_last_snapshot_is_told_once(
    turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(turns, "SnapshotThenDelete")
    await turns.turn()
    last = await leave(turns)
    create = turns.theirs.create

    async def refuse(body: Body) -> Body:
        if body["kind"] != names.SNAPSHOT_KIND:
            return await create(body)
        raise ApiError(403, "Forbidden", "a quota allows no more")

    monkeypatch.setattr(turns.theirs, "create", refuse)
    for _ in range(3):
        pause = await turns.turn()
    assert pause is not None
    assert await turns.state() == "DeletionBlocked"
    assert "a quota allows no more" in (await turns.conditions())["Ready"]["message"]
    told = [reason for reason, _ in await turns.events()]
    assert told.count("DeletionBlocked") == 1
    assert "LastSnapshotStarted" not in told
    monkeypatch.setattr(turns.theirs, "create", create)
    turns.executor.writes.forget((turns.namespace, "part"))
    await turns.turn()
    assert await turns.get("PartitionSnapshot", last)
    assert "LastSnapshotStarted" in [reason for reason, _ in await turns.events()]


async def test_the_way_out_keeps_the_claims(turns: Turns) -> None:
    await made(turns, "SnapshotThenDelete")
    await turns.turn()
    await leave(turns)
    await turns.turn()
    await turns.edit("Partition", "part", {"spec": {"deletionPolicy": "Retain"}})

    async def gone() -> bool:
        await turns.turn()
        return await turns.kube.get("Partition", turns.namespace, "part") is None

    await eventually(gone, "the Partition is gone", 20)
    found = await claim(turns)
    assert found is not None
    assert "deletionTimestamp" not in found["metadata"]


async def claim(turns: Turns) -> dict[str, Any] | None:
    return await turns.kube.get("PersistentVolumeClaim", turns.namespace, "data-part-0")


async def say(turns: Turns, name: str, state: str, **more: Any) -> None:
    """As the snapshot's own turn would."""
    status = {"state": state, "clusterID": CLUSTER, "destination": OBJECT_STORE, "lsn": "10"} | more
    await turns.put_status("partitionsnapshots", name, status, group=names.API_VERSION)
