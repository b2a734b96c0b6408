"""The turn of one PartitionSnapshot, and what it looks at, against an API server of paper."""

import datetime as dt
from typing import Any, cast

import pytest
from partition_operator.api import names
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import Snapshot
from partition_operator.clients.kube import ApiError
from partition_operator.clients.snapshot_observer import SnapshotObserver
from partition_operator.config import OperatorConfig
from partition_operator.reconcile.snapshot import plan as snapshots
from partition_operator.turns.queue import SCHEDULE, Key, QueueItem
from partition_operator.turns.schedule import ScheduleReconciler
from partition_operator.turns.snapshot import SnapshotReconciler

from tests.support.snapshot_objects import NOW, partition, snapshot
from tests.support.snapshot_plans import succeeded
from tests.support.snapshot_turns import KEY, World


async def test_a_stalled_job_is_cancelled_before_another_attempt() -> None:
    world = World(snapshot())
    await world.turn()
    world.log.clear()
    world.now += snapshots.JOB_STALLED
    await world.turn()
    assert world.log == ["Queued", "cancel uid-snap/1"]
    world.now += snapshots.PROGRESS_EVERY
    await world.turn()
    assert world.log[2:4] == ["Running", "take uid-snap/2"]


async def test_a_pod_that_the_api_server_refuses_is_said_and_tried_again_with_pauses() -> None:
    world = World(succeeded("Restore"))
    world.refuses = ApiError(403, "POST …: 403 exceeded quota: q", "exceeded quota: q")
    tries = 0
    for _ in range(20):
        world.log.clear()
        pause = await world.turn()
        tries += world.log.count("refused")
        assert pause is not None
        world.now += dt.timedelta(seconds=2)
    assert 3 <= tries <= 5, "after 2, 5 and 15 seconds"
    proof = next(c for c in world.found.status["conditions"] if c["type"] == "Verified")
    assert (proof["status"], proof["reason"]) == ("Unknown", "PodRefused")
    assert proof["message"].startswith("the API server refuses pod snap-verify: exceeded quota: q")
    assert "(the operator retries at least once a minute)" in proof["message"]
    world.refuses = None
    world.now += dt.timedelta(seconds=60)
    world.log.clear()
    await world.turn()
    assert "create snap-verify" in world.log


async def test_a_name_that_is_taken_is_no_refusal_and_a_quotas_conflict_is() -> None:
    for reason, taken in (("AlreadyExists", True), ("Conflict", False)):
        world = World(succeeded("Restore"))
        world.refuses = ApiError(409, f"POST …: 409 {reason}", reason, reason)
        await world.turn()
        proof = next(c for c in world.found.status["conditions"] if c["type"] == "Verified")
        assert (proof["reason"] != "PodRefused") == taken


async def test_a_label_that_the_api_server_refuses_is_told() -> None:
    world = World(snapshot(labelled=False))
    world.refuses = ApiError(403, "PATCH …: 403 labels are fixed", "labels are fixed")
    with pytest.raises(ApiError):
        await world.turn()
    assert ("ObjectRefused", "labels are fixed") in world.events


async def test_other_errors_are_the_queues() -> None:
    world = World(succeeded("Restore"))
    world.refuses = ApiError(503, "overloaded")
    with pytest.raises(ApiError):
        await world.turn()


async def test_only_our_own_label_is_written_on_what_users_apply() -> None:
    world = World(snapshot(labelled=False))
    await world.turn()
    assert world.merged == [{"metadata": {"labels": {names.LABEL_PARTITION: "part"}}}]


class Kube:
    """A namespace with an older snapshot that nobody has labelled yet."""

    def __init__(self, mine: Snapshot) -> None:
        self.mine = mine
        self.older = snapshot("older", created=NOW - snapshots.PARTITION_GRACE, labelled=False)

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        return self.mine.body if kind == names.SNAPSHOT_KIND else None

    async def list_labelled(
        self, kind: str, namespace: str, selector: dict[str, str]
    ) -> list[dict[str, Any]]:
        found = [self.mine.body, self.older.body] if kind == names.SNAPSHOT_KIND else []
        return [body for body in found if selector.items() <= body["metadata"]["labels"].items()]

    async def partition(self, namespace: str, name: str) -> None:
        return None

    async def volumes(self, namespace: str, name: str, wanted: set[str]) -> dict[str, str]:
        return {}


async def test_an_older_one_that_nobody_has_labelled_yet_comes_first() -> None:
    mine = snapshot(status={"state": "Queued"})
    kube = cast("Any", Kube(mine))
    found, _ = await SnapshotObserver(kube, kube, kube).view(mine, None, None)
    assert [other.name for other in found.others] == ["older"]


class Foreign:
    """A namespace whose Partition another operator manages; nothing else may be asked for."""

    def __init__(self, mine: Snapshot) -> None:
        self.mine = mine

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, Any]:
        assert kind == names.SNAPSHOT_KIND
        return self.mine.body

    async def partition(self, namespace: str, name: str) -> Partition:
        return partition(status={"operator": "other"}, snapshots={"schedule": "0 * * * *"})


@pytest.mark.parametrize("state", ["Queued", "Succeeded"])
async def test_of_another_operators_partition_nothing_else_is_looked_at(state: str) -> None:
    kube = cast("Any", Foreign(snapshot(status={"state": state})))
    observer = SnapshotObserver(kube, kube, kube)
    config = OperatorConfig("system", "id", "image")
    reconciler = SnapshotReconciler(config, kube, observer, kube, kube)
    assert await reconciler.turn(KEY, QueueItem()) == config.resync_s
    schedules = ScheduleReconciler(config, kube, observer, kube, kube, kube)
    assert await schedules.turn(Key(SCHEDULE, "ns", "part"), QueueItem()) == config.resync_s
