"""The turn of a Partition's snapshots as a whole, against an API server and replicas of paper."""

import datetime as dt
import time
from typing import Any, cast

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.clients.kube import ApiError
from partition_operator.config import Config
from partition_operator.errors import Conflict
from partition_operator.reconcile.schedule.policy import PolicyView
from partition_operator.reconcile.seen.snapshot import Job, JobSeen
from partition_operator.turns.queue import SCHEDULE, SNAPSHOT, Entry, Key
from partition_operator.turns.schedule import ScheduleReconciler

from tests.support.snapshot_objects import VOLUME, group, partition, stored

KEY = Key(SCHEDULE, "ns", "part")
HOUR = dt.timedelta(hours=1)
NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)
"""Pauses are counted from the clock."""
ON_VOLUME = {"volume": {"claim": "data-part-1", "claimUID": "u1"}}


class World:
    """What the turn talks to. log: what it did, in order."""

    def __init__(self, spec: dict[str, Any] | None, *snapshots: Snapshot) -> None:
        self.body = partition(spec).body if spec is not None else None
        self.found = {s.name: s for s in snapshots}
        self.claims = {"data-part-1": "u1"}
        self.log: list[str] = []
        self.looks = 0
        self.jobs: dict[str, Job] = {}
        self.ends = Job("Succeeded")
        self.refuses: ApiError | None = None
        self.keeps: ApiError | None = None
        """Raised where something is to be deleted."""
        self.changed = ""
        """The name of a snapshot that somebody changes before it is written."""
        self.now = NOW

    def reconciler(self) -> ScheduleReconciler:
        config = Config("system", "id", "image")
        any_self = cast("Any", self)
        return ScheduleReconciler(config, any_self, any_self, any_self, any_self, self.enqueue)

    def enqueue(self, kind: str, namespace: str, name: str) -> None:
        self.log.append(f"enqueue {kind} {name}")

    # --- observer

    async def policy(self, namespace: str, name: str) -> PolicyView | None:
        if self.body is None:
            return None
        return PolicyView(group(parse(self.body), self.now), tuple(self.found.values()))

    async def snapshots(self, namespace: str, name: str) -> tuple[Snapshot, ...]:
        return tuple(self.found.values())

    async def volumes(self, namespace: str, name: str, wanted: set[str]) -> dict[str, str]:
        return self.claims

    async def restored_from(self, namespace: str) -> frozenset[str]:
        return frozenset()

    async def secret(self, namespace: str, destination: object) -> None:
        return None

    async def job(self, seen: object, ordinal: int, job_id: str) -> JobSeen:
        self.looks += 1
        return self.jobs[job_id]

    # --- replicas

    async def prune(self, seen: object, pod: object, job_id: str, **more: Any) -> None:
        self.log.append("prune " + " ".join(more["snapshot_ids"]))
        self.jobs[job_id] = self.ends

    # --- the API server

    async def create(self, body: dict[str, Any]) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.log.append(f"create {body['metadata']['name']}")

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        if self.keeps is not None:
            raise self.keeps
        self.log.append(f"delete {name} {uid}")
        del self.found[name]

    async def apply_status(
        self, body: dict[str, Any], status: dict[str, Any], *, manager: str = ""
    ) -> None:
        name = body["metadata"]["name"]
        if body["kind"] == names.SNAPSHOT_KIND:
            if name == self.changed:
                raise Conflict(name)
            self.log.append(f"{status['state']} {name}")
            self.found[name] = parse_snapshot(body | {"status": status})
            return
        assert self.body is not None
        self.body = self.body | {"status": self.body["status"] | status}

    async def post(self, thing: object, event: object, now: dt.datetime) -> None:
        pass

    def condition(self, kind: str) -> dict[str, Any]:
        assert self.body is not None
        found = self.body["status"]["conditions"]
        return cast("dict[str, Any]", next(c for c in found if c["type"] == kind))


def keeping_one(*more: Snapshot) -> World:
    spec = {"destination": VOLUME, "retention": {"count": 1}}
    old = stored("old", NOW - HOUR * 2, destination=ON_VOLUME)
    return World(spec, old, stored("new", NOW - HOUR, destination=ON_VOLUME), *more)


async def turns(reconciler: ScheduleReconciler) -> float:
    """One that starts, one that sees how it ended; returns when to look again."""
    await reconciler.turn(KEY, Entry())
    pause = await reconciler.turn(KEY, Entry())
    assert pause is not None
    return pause


async def test_a_removal_is_written_down_before_anything_goes() -> None:
    world = keeping_one()
    await turns(world.reconciler())
    assert world.log == ["Removing old", "prune old", "delete old uid-old"]


async def test_a_snapshot_that_was_changed_meanwhile_is_not_touched() -> None:
    world = keeping_one()
    world.changed = "old"
    with pytest.raises(Conflict):
        await world.reconciler().turn(KEY, Entry())
    assert world.log == []


async def test_a_removal_that_failed_is_finished_whatever_the_spec_says_then() -> None:
    world = keeping_one()
    world.ends = Job("Failed", reason="StoreBusy", message="someone collects")
    reconciler = world.reconciler()
    began = time.monotonic()
    pause = await turns(reconciler)
    assert world.log == ["Removing old", "prune old"]
    assert 5 < pause + (time.monotonic() - began), "as long as it waits"
    assert pause <= 10
    said = world.condition("SnapshotsPruned")
    assert (said["status"], said["reason"]) == ("False", "StoreBusy")
    looks, log = world.looks, list(world.log)
    await reconciler.turn(KEY, Entry())
    assert (world.looks, world.log) == (looks, log), "a job that ended is not asked for"
    assert world.condition("SnapshotsPruned") == said, "it does not flap"
    # Raised, and the operator starts again.
    assert world.body is not None
    world.body["spec"]["snapshots"]["retention"]["count"] = 9
    world.ends = Job("Succeeded")
    await turns(world.reconciler())
    assert world.log[-2:] == ["prune old", "delete old uid-old"]
    assert world.condition("SnapshotsPruned")["status"] == "True"


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
        await reconciler.turn(KEY, Entry())


async def test_a_run_that_meets_a_quotas_conflict_is_not_taken_for_one_that_exists() -> None:
    for reason, said in (("Conflict", "RunRefused"), ("AlreadyExists", "Valid")):
        world = keeping_one()
        assert world.body is not None
        world.body["spec"]["snapshots"]["schedule"] = "0 * * * *"
        reconciler = world.reconciler()
        await turns(reconciler)
        world.now += HOUR
        world.refuses = ApiError(409, "quota q was changed meanwhile", "", reason)
        await reconciler.turn(KEY, Entry())
        assert world.condition("SnapshotScheduleValid")["reason"] == said


async def test_a_removal_that_the_api_server_refuses_is_said() -> None:
    world = keeping_one()
    world.keeps = ApiError(403, "DELETE …: 403 kept by a policy", "kept by a policy")
    reconciler = world.reconciler()
    pause = await turns(reconciler)
    assert pause >= 10
    said = world.condition("SnapshotsPruned")
    assert (said["status"], said["reason"]) == ("False", "DeleteRefused")
    assert "old: kept by a policy" in said["message"]
    world.keeps = None
    await reconciler.turn(KEY, Entry())
    assert world.log[-1] == "delete old uid-old"
    await reconciler.turn(KEY, Entry())
    assert world.condition("SnapshotsPruned")["status"] == "True"
    world.found["old"] = stored("old", NOW - HOUR * 2, destination=ON_VOLUME)
    world.keeps = ApiError(503, "overloaded")
    with pytest.raises(ApiError):
        await turns(reconciler)


async def test_without_its_partition_a_lost_volume_is_noticed() -> None:
    world = World(None, stored("a", NOW, destination=ON_VOLUME))
    reconciler = world.reconciler()
    assert await reconciler.turn(KEY, Entry()) is None
    assert world.log == []
    world.claims = {}
    assert await reconciler.turn(KEY, Entry()) is None
    assert world.log == [f"enqueue {SNAPSHOT} a"]
