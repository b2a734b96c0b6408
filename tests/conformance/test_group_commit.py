"""Group commit: what arrives while a leader's disk writes is proposed and written together."""

import asyncio
from pathlib import Path

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.errors import SequenceReused

from tests.support.group_commits import group
from tests.support.proposals import set_key

WITHIN_S = 30.0


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
