"""A Partition is deleted as its policy says, although the operator ends at each step. A stand-in
takes the snapshot; no controllers run."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.failpoints import DELETION
from partition_operator.turns import executor

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_turns import Turns
from tests.support.snapshot_objects import OBJECT_STORE

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]

CLUSTER = "11111111-1111-4111-8111-111111111111"


class Ended(Exception):
    """In place of the end of the process."""


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    async with Turns(server) as found:
        yield found


async def made(turns: Turns, policy: str) -> None:
    """A Partition whose group exists, with a claim."""
    await turns.make(deletionPolicy=policy, snapshots={"destination": OBJECT_STORE})
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

    uid = partition["metadata"]["uid"]
    await turns.kube.delete("Partition", turns.namespace, "part", uid)
    await turn()
    assert reached == DELETION
    last = names.last_snapshot("part", uid)
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
    await say(turns, last, "Succeeded")
    await turn()
    found = await claim(turns)
    assert found is None or "deletionTimestamp" in found["metadata"]
    assert await turns.kube.get("Partition", turns.namespace, "part") is None
    assert await turns.get("PartitionSnapshot", last), "it outlives its Partition"


async def test_the_way_out_keeps_the_claims(turns: Turns) -> None:
    await made(turns, "SnapshotThenDelete")
    await turns.turn()
    uid = (await turns.get("Partition", "part"))["metadata"]["uid"]
    await turns.kube.delete("Partition", turns.namespace, "part", uid)
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


async def say(turns: Turns, name: str, state: str) -> None:
    """As the snapshot's own turn would."""
    status = {"state": state}
    await turns.put_status("partitionsnapshots", name, status, group=names.API_VERSION)
