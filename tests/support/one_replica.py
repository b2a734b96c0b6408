"""A whole replica, the sole voter of a group, in the test's own process and without a network."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from partition_proto.v1 import types_pb2 as types
from partition_replica.config import ReplicaConfig
from partition_replica.core.compaction import LogRetention
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied
from partition_replica.engine.factory import make_engine
from partition_replica.ids import LSN
from partition_replica.runtime.assembly import build_replica
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.volume import Volume

from tests.support.local_group import eventually
from tests.support.proposals import proposal, set_key

CLUSTER = "00000000-0000-4000-8000-000000000007"


class OneReplica:
    """`failures`: what would have ended the process. `session` is opened by `serve`."""

    def __init__(self, data: Path, limits: Limits | None = None) -> None:
        data.mkdir(exist_ok=True)
        lock = VolumeLock(data)
        assert lock.try_acquire()
        self.failures: list[BaseException] = []
        self.metrics = Metrics()
        self.config = ReplicaConfig(
            data, "", "", "here:1", "tests/one", None, tick_s=0.01, limits=limits or Limits()
        )
        lag_max = self.config.limits.consumer_lag_entries_max
        retention = LogRetention(consumer_lag_entries_max=lag_max)
        self.volume = Volume(data, lock, pins_max=10, retention=retention)
        self.replica = build_replica(
            self.config,
            self.volume,
            # Whom it sends to never answers.
            cast("Any", SimpleNamespace(set_addresses=lambda _: None, send=lambda *_: None)),
            self.metrics,
            make_engine=make_engine,
            wall_ms=lambda: 1_000,
            failed=self.failures.append,
        )
        self.session = 0
        self._sequence = 0

    async def lead(self, *, standalone: bool = False) -> None:
        """Begins its group, if it has none, and serves."""
        await self.replica.administration.bootstrap(CLUSTER, standalone=standalone)
        await self.serve()

    async def serve(self) -> None:
        """Waits until it leads, and opens a session."""

        async def serving() -> bool:
            return self.replica.status().serving

        await eventually(serving, "it leads")
        self.session, _ = await self.replica.applications.open_session(0)
        self._sequence = 0

    def proposal(self, *operations: types.Operation) -> types.Proposal:
        self._sequence += 1
        return proposal(self.session, self._sequence, list(operations))

    async def append(self, *operations: types.Operation) -> Applied:
        """Returns when it is applied."""
        found = self.proposal(*operations)
        return await self.replica.applications.append(found, retry=False, wait_applied=True)

    async def set(self, key: bytes, value: bytes = b"v") -> Applied:
        return await self.append(set_key(key, value))

    def keys(self) -> list[bytes]:
        return [key for key, _ in self.volume.state.list_values(b"", b"", 1000, 1 << 30)[0]]

    def lsns(self) -> list[int]:
        """Of what the log stores."""
        log = self.volume.log
        return [int(e.index) for e in log.read(log.first_stored, LSN(log.last.index + 1), None)]

    async def stop(self) -> None:
        await self.replica.stop()
        self.volume.close()


@asynccontextmanager
async def serving(
    data: Path, *, standalone: bool = False, limits: Limits | None = None
) -> AsyncIterator[OneReplica]:
    one = OneReplica(data, limits)
    try:
        await one.lead(standalone=standalone)
        yield one
        assert one.failures == []
    finally:
        await one.stop()
