"""An API server and replicas in memory, for the turn of a Partition's snapshots."""

import datetime as dt
from typing import Any, cast

from partition_operator.api import names
from partition_operator.api.partition import Partition, parse
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.clients.kube import ApiError
from partition_operator.config import OperatorConfig
from partition_operator.errors import Conflict
from partition_operator.reconcile.observed.partition import ObservedPartition
from partition_operator.reconcile.observed.snapshot import ObservedJob, ObservedJobOrNone
from partition_operator.turns.queue import SCHEDULE, Key, QueueItem
from partition_operator.turns.schedule import ScheduleReconciler

from tests.support.snapshot_objects import VOLUME, group, partition, stored

KEY = Key(SCHEDULE, "ns", "part")
HOUR = dt.timedelta(hours=1)
NOW = dt.datetime(2026, 3, 1, 11, 30, tzinfo=dt.UTC)
"""Long ago: what a turn does must not depend on when the tests run."""
ON_VOLUME = {"volume": {"claim": "data-part-1", "claimUID": "u1"}}


class World:
    """What the turn talks to. log: what it did, in order."""

    def __init__(self, spec: dict[str, Any] | None, *snapshots: Snapshot) -> None:
        self.body = partition(spec).body if spec is not None else None
        self.found = {s.name: s for s in snapshots}
        self.claims = {"data-part-1": "u1"}
        self.log: list[str] = []
        self.looks = 0
        self.jobs: dict[str, ObservedJob] = {}
        self.ends = ObservedJob("Succeeded")
        self.refuses: ApiError | None = None
        self.keeps: ApiError | None = None
        """Raised where something is to be deleted."""
        self.changed = ""
        """The name of a snapshot that somebody changes before it is written."""
        self.now = NOW

    def reconciler(self) -> ScheduleReconciler:
        config = OperatorConfig("system", "id", "image")
        any_self = cast("Any", self)
        return ScheduleReconciler(config, any_self, any_self, any_self, any_self, self.enqueue)

    def enqueue(self, kind: str, namespace: str, name: str) -> None:
        self.log.append(f"enqueue {kind} {name}")

    # --- observer

    async def partition(self, namespace: str, name: str) -> Partition | None:
        return None if self.body is None else parse(self.body)

    async def group(self, found: Partition) -> ObservedPartition:
        return group(found, self.now)

    def alone(self, found: Partition) -> ObservedPartition:
        return group(found, self.now)

    async def snapshots(self, namespace: str, name: str) -> tuple[Snapshot, ...]:
        return tuple(self.found.values())

    async def volumes(self, namespace: str, name: str, wanted: set[str]) -> dict[str, str]:
        return self.claims

    async def restored_from(self, namespace: str) -> frozenset[str]:
        return frozenset()

    async def secret(self, namespace: str, destination: object) -> None:
        return None

    async def job(self, seen: object, ordinal: int, job_id: str) -> ObservedJobOrNone:
        self.looks += 1
        return self.jobs[job_id]

    # --- replicas

    async def delete_snapshots(self, seen: object, pod: object, job_id: str, **more: Any) -> None:
        self.log.append("delete stored " + " ".join(more["snapshot_ids"]))
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

    async def post(self, thing: object, event: object) -> None:
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
    await reconciler.turn(KEY, QueueItem())
    pause = await reconciler.turn(KEY, QueueItem())
    assert pause is not None
    return pause
