"""An API server and a replica in memory, for the turn of one PartitionSnapshot."""

from typing import Any, cast

from partition_operator.api.destination import Destination
from partition_operator.api.events import Event
from partition_operator.api.partition import Partition
from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.clients.kube import ApiError
from partition_operator.config import OperatorConfig
from partition_operator.reconcile.observed.snapshot import (
    NoJob,
    ObservedJob,
    ObservedJobOrNone,
    ObservedSnapshot,
)
from partition_operator.turns.queue import SNAPSHOT, Key, QueueItem
from partition_operator.turns.snapshot import SnapshotReconciler

from tests.support.snapshot_objects import NOW, OBJECT_STORE, group, partition

KEY = Key(SNAPSHOT, "ns", "snap")


class World:
    def __init__(self, found: Snapshot) -> None:
        self.found = found
        self.now = NOW
        self.job: ObservedJobOrNone = NoJob.NONE
        self.log: list[str] = []
        self.merged: list[dict[str, Any]] = []
        self.refuses: ApiError | None = None
        self.events: list[tuple[str, str]] = []
        any_self = cast("Any", self)
        config = OperatorConfig("system", "id", "image")
        self._reconciler = SnapshotReconciler(config, any_self, any_self, any_self, any_self)

    async def turn(self) -> float | None:
        return await self._reconciler.turn(KEY, QueueItem())

    async def create(self, body: dict[str, Any]) -> None:
        if self.refuses is not None:
            self.log.append("refused")
            raise self.refuses
        self.log.append(f"create {body['metadata']['name']}")

    async def snapshot(self, namespace: str, name: str) -> Snapshot:
        return self.found

    async def partition(self, namespace: str, name: str) -> Partition:
        return partition({"destination": OBJECT_STORE})

    async def view(
        self, found: Snapshot, of: Partition, destination: Destination | None
    ) -> tuple[ObservedSnapshot, None]:
        assert destination is not None
        return ObservedSnapshot(found, self.now, group(of, self.now), job=self.job), None

    async def stored(self, found: Snapshot) -> ObservedSnapshot:
        return ObservedSnapshot(found, self.now, None)

    async def apply_status(self, body: dict[str, Any], status: dict[str, Any]) -> None:
        self.found = parse_snapshot(body | {"status": status})
        self.log.append(status["state"])

    async def merge(self, kind: str, live: dict[str, Any], body: dict[str, Any]) -> None:
        assert live["metadata"]["uid"] == self.found.uid
        if self.refuses is not None:
            raise self.refuses
        self.merged.append(body)
        meta = self.found.body["metadata"]
        labels = meta["labels"] | body["metadata"]["labels"]
        self.found = parse_snapshot(self.found.body | {"metadata": meta | {"labels": labels}})

    async def take(self, seen: object, pod: object, job_id: str, **more: Any) -> None:
        self.log.append(f"take {job_id}")
        self.job = ObservedJob("Running", "Writing", 50)

    async def cancel(self, seen: object, pod: object, job_id: str) -> None:
        self.log.append(f"cancel {job_id}")

    async def post(self, thing: object, event: Event) -> None:
        self.events.append((event.reason, event.message))
