"""Group commit: what arrives while a leader's disk writes is proposed and written together."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogBatch
from partition_replica.errors import SequenceReused

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


@pytest.mark.parametrize("standalone", [False, True])
async def test_what_arrives_during_a_write_is_the_next_write(
    tmp_path: Path, standalone: bool
) -> None:
    async with group(tmp_path, standalone=standalone) as here:
        first = await here.first_on_disk()
        others = [here.new() for _ in range(20)]
        await here.queued(20)
        assert not any(task.done() for task in (first, *others)), "nothing is on the disk yet"
        here.log.gate.set()
        async with asyncio.timeout(WITHIN_S):
            answers = await asyncio.gather(first, *others)
        assert here.log.batches == [1, 20]
        lsns = [answer.index for answer in answers]
        assert lsns == list(range(lsns[0], lsns[0] + 21)), "in the order of their arrival"


async def test_a_write_has_at_most_its_limit(tmp_path: Path) -> None:
    async with group(tmp_path, proposal_batch_max=8) as here:
        first = await here.first_on_disk()
        others = [here.new() for _ in range(20)]
        await here.queued(20)
        here.log.gate.set()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(first, *others)
        assert here.log.batches == [1, 8, 8, 4]


async def test_a_batch_of_which_nothing_is_proposed_holds_nothing_up(tmp_path: Path) -> None:
    """No write follows it, whose end would let the next ones go."""
    async with group(tmp_path, proposal_batch_max=4) as here:
        used = here.one.proposal(set_key(b"used", b"v"))
        here.log.gate.set()
        await here.append(used)
        await here.one.set(b"applied")
        here.log.gate.clear()
        here.log.begun = 0
        first = await here.first_on_disk()
        other = types.Proposal()
        other.CopyFrom(used)
        other.operations[0].set_key.value = b"other"
        refused = [here.append(other) for _ in range(6)]
        await here.queued(6)
        new = here.new()
        await here.queued(7)
        here.log.gate.set()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(first, new)
            for task in refused:
                with pytest.raises(SequenceReused):
                    await task


async def test_who_has_gone_is_not_proposed(tmp_path: Path) -> None:
    async with group(tmp_path) as here:
        first = await here.first_on_disk()
        gone, stays = here.new(), here.new()
        await here.queued(2)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        here.log.gate.set()
        async with asyncio.timeout(WITHIN_S):
            await asyncio.gather(first, stays)
        assert here.log.batches == [1, 1]
