"""A replica whose disk writes when the test lets it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogBatch

from tests.support.local_group import eventually
from tests.support.one_replica import OneReplica, serving
from tests.support.proposals import set_key

WITHIN_S = 30.0


class GatedLog:
    """A log whose disk writes when the test lets it. `batches`: entries per write."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.gate = threading.Event()
        self.batches: list[int] = []
        self.begun = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def commit(self, batch: LogBatch) -> Any:
        if batch.entries:
            self.begun += 1
            assert self.gate.wait(WITHIN_S)
            self.batches.append(len(batch.entries))
        return self._log.commit(batch)


class Group:
    def __init__(self, one: OneReplica) -> None:
        self.one = one
        assert one.replica.member is not None
        writer = one.replica.member.loop._writer
        self.log = GatedLog(writer._log)
        writer._log = self.log  # type: ignore[assignment]
        self._proposals = one.replica.member.proposals

    def append(self, proposal: types.Proposal) -> "asyncio.Task[Applied]":
        return asyncio.ensure_future(
            self.one.replica.applications.append(proposal, retry=False, wait_applied=False)
        )

    def new(self) -> "asyncio.Task[Applied]":
        return self.append(self.one.proposal(set_key(b"k", b"v")))

    async def first_on_disk(self) -> "asyncio.Task[Applied]":
        first = self.new()

        async def begun() -> bool:
            return self.log.begun == 1

        await eventually(begun, "the disk writes the first one")
        return first

    async def queued(self, count: int) -> None:
        async def all_wait() -> bool:
            return self._proposals.queued == count

        await eventually(all_wait, f"{count} proposals wait")


@asynccontextmanager
async def group(tmp_path: Path, *, standalone: bool = False, **limits: Any) -> AsyncIterator[Group]:
    changed = replace(Limits(), **limits)
    async with serving(tmp_path / "data", limits=changed, standalone=standalone) as one:
        found = Group(one)
        try:
            yield found
        finally:
            found.log.gate.set()
