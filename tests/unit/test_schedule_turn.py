"""The turn of a Partition's snapshots as a whole, against an API server and replicas of paper."""

import pytest
from partition_operator.clients.kube import ApiError
from partition_operator.errors import Conflict
from partition_operator.reconcile.observed.snapshot import ObservedJob
from partition_operator.turns.queue import SNAPSHOT, QueueItem, Version
from partition_operator.turns.schedule import version_of

from tests.support.schedule_turns import HOUR, KEY, NOW, ON_VOLUME, World, keeping_one, turns
from tests.support.snapshot_objects import stored


async def test_a_removal_is_written_down_before_anything_goes() -> None:
    world = keeping_one()
    await turns(world.reconciler())
    assert world.log == ["Removing old", "delete stored old", "delete old uid-old"]


async def test_a_snapshot_that_was_changed_meanwhile_is_not_touched() -> None:
    world = keeping_one()
    world.changed = "old"
    with pytest.raises(Conflict):
        await world.reconciler().turn(KEY, QueueItem())
    assert world.log == []


async def test_a_removal_that_failed_is_finished_whatever_the_spec_says_then() -> None:
    world = keeping_one()
    world.ends = ObservedJob("Failed", reason="StoreBusy", message="someone collects")
    reconciler = world.reconciler()
    pause = await turns(reconciler)
    assert world.log == ["Removing old", "delete stored old"]
    assert 5 < pause <= 10, "as long as it waits"
    said = world.condition("RetentionEnforced")
    assert (said["status"], said["reason"]) == ("False", "StoreBusy")
    looks, log = world.looks, list(world.log)
    await reconciler.turn(KEY, QueueItem())
    assert (world.looks, world.log) == (looks, log), "a job that ended is not asked for"
    assert world.condition("RetentionEnforced") == said, "it does not flap"
    assert world.condition("SnapshotsPruned") == said | {"type": "SnapshotsPruned"}
    # The version before has written it, and the operator starts again.
    assert world.body is not None
    conditions = world.body["status"]["conditions"]
    conditions[:] = [c for c in conditions if c["type"] != "RetentionEnforced"]
    world.ends = ObservedJob("Running")
    await world.reconciler().turn(KEY, QueueItem())
    assert world.condition("RetentionEnforced")["reason"] == "StoreBusy"
    # Raised, and the operator starts again.
    assert world.body is not None
    world.body["spec"]["snapshots"]["retention"]["count"] = 9
    world.ends = ObservedJob("Succeeded")
    await turns(world.reconciler())
    assert world.log[-2:] == ["delete stored old", "delete old uid-old"]
    assert world.condition("RetentionEnforced")["status"] == "True"


async def test_a_run_that_the_api_server_refuses_keeps_nothing_else_from_being_done() -> None:
    world = keeping_one()
    assert world.body is not None
    world.body["spec"]["snapshots"]["schedule"] = "0 * * * *"
    reconciler = world.reconciler()
    await turns(reconciler)
    world.log.clear()
    world.now += HOUR
    world.found["older"] = stored("older", NOW - HOUR * 9, destination=ON_VOLUME)
    world.refuses = ApiError(403, "exceeded quota: psnap")
    pause = await turns(reconciler)
    assert pause >= 10
    said = world.condition("SnapshotScheduleValid")
    assert (said["status"], said["reason"]) == ("False", "RunRefused")
    assert "exceeded quota" in said["message"]
    assert "delete older uid-older" in world.log
    world.refuses = ApiError(500, "defect")
    with pytest.raises(ApiError):
        await reconciler.turn(KEY, QueueItem())


async def test_a_run_that_meets_a_quotas_conflict_is_not_taken_for_one_that_exists() -> None:
    for reason, said in (("Conflict", "RunRefused"), ("AlreadyExists", "Valid")):
        world = keeping_one()
        assert world.body is not None
        world.body["spec"]["snapshots"]["schedule"] = "0 * * * *"
        reconciler = world.reconciler()
        await turns(reconciler)
        world.now += HOUR
        world.refuses = ApiError(409, "quota q was changed meanwhile", "", reason)
        await reconciler.turn(KEY, QueueItem())
        assert world.condition("SnapshotScheduleValid")["reason"] == said


async def test_a_removal_that_the_api_server_refuses_is_said() -> None:
    world = keeping_one()
    world.keeps = ApiError(403, "DELETE …: 403 kept by a policy", "kept by a policy")
    reconciler = world.reconciler()
    pause = await turns(reconciler)
    assert pause >= 10
    said = world.condition("RetentionEnforced")
    assert (said["status"], said["reason"]) == ("False", "DeleteRefused")
    assert "old: kept by a policy" in said["message"]
    world.keeps = None
    await reconciler.turn(KEY, QueueItem())
    assert world.log[-1] == "delete old uid-old"
    await reconciler.turn(KEY, QueueItem())
    assert world.condition("RetentionEnforced")["status"] == "True"
    world.found["old"] = stored("old", NOW - HOUR * 2, destination=ON_VOLUME)
    world.keeps = ApiError(503, "overloaded")
    with pytest.raises(ApiError):
        await turns(reconciler)


async def test_without_its_partition_a_lost_volume_is_noticed() -> None:
    world = World(None, stored("a", NOW, destination=ON_VOLUME))
    reconciler = world.reconciler()
    assert await reconciler.turn(KEY, QueueItem()) is None
    assert world.log == []
    world.claims = {}
    assert await reconciler.turn(KEY, QueueItem()) is None
    assert world.log == [f"enqueue {SNAPSHOT} a"]


async def test_a_turn_without_a_policy_knows_the_generation_alone() -> None:
    world, item = World({}), QueueItem[None]()
    assert world.body is not None
    await world.reconciler().turn(KEY, item)
    metadata = world.body["metadata"]
    assert item.known == {version_of(world.body)}
    assert item.known == {Version(metadata["uid"], f"generation {metadata['generation']}")}
