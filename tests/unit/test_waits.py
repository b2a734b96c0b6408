"""Who waits for the state to advance: told of it, once for many steps, and never left waiting."""

import asyncio
from contextlib import suppress

import pytest
from partition_replica.errors import NoLeader, Overloaded
from partition_replica.ids import LSN
from partition_replica.runtime.consensus.waits import AppliedWaits, ReadIndexes


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_follower_asks_its_leader_one_round_at_a_time() -> None:
    reads = ReadIndexes(16, token=b"token")
    assert not reads.wants_leader(0.0, 0.3)
    first = asyncio.ensure_future(reads.get(10))
    await settle()
    assert reads.wants_leader(0.0, 0.3)
    context = reads.start(leading=False)
    assert context.startswith(b"token")
    second = asyncio.ensure_future(reads.get(10))
    await settle()
    assert not reads.wants_leader(0.2, 0.3), "one is under way"
    reads.confirmed(7, context)
    assert await first == 7
    assert reads.wants_leader(0.2, 0.3)
    lost = reads.start(leading=False)
    assert not reads.wants_leader(0.4, 0.3)
    assert reads.wants_leader(0.5, 0.3), "it is lost"
    context = reads.start(leading=False)
    reads.confirmed(8, lost)
    await settle()
    assert not second.done(), "an answer that came too late is for nobody"
    reads.confirmed(9, context)
    assert await second == 9


async def test_nobody_is_asked_for_reads_that_are_over() -> None:
    reads = ReadIndexes(16)
    gone = asyncio.ensure_future(reads.get(10))
    await settle()
    gone.cancel()
    await settle()
    assert not reads.wants_leader(0.0, 0.3)


async def test_nobody_is_told_before_anything_happens() -> None:
    waits = AppliedWaits(16)
    waiting = asyncio.create_task(waits.change())
    await settle()
    assert not waiting.done()
    waiting.cancel()


async def test_each_step_is_told_to_who_waits_for_it() -> None:
    waits = AppliedWaits(16)
    for lsn in range(1, 11):
        waiting = asyncio.create_task(waits.change())
        await settle()
        assert not waiting.done()
        waits.advance(LSN(lsn))
        await asyncio.wait_for(waiting, 10)
        assert waits.applied == lsn


async def test_ten_steps_at_once_are_one_signal() -> None:
    waits = AppliedWaits(16)
    told = 0

    async def listen() -> None:
        nonlocal told
        while True:
            await waits.change()
            told += 1

    listening = asyncio.create_task(listen())
    await settle()
    for lsn in range(1, 11):
        waits.advance(LSN(lsn))
    await settle()
    assert (told, waits.applied) == (1, 10)
    listening.cancel()


async def test_who_waits_for_an_lsn_is_told_in_order_or_that_it_ends() -> None:
    waits = AppliedWaits(16)
    reached: list[int] = []

    async def reach(lsn: int) -> None:
        await waits.reach(LSN(lsn))
        reached.append(lsn)

    tasks = [asyncio.create_task(reach(lsn)) for lsn in (3, 1, 2, 9)]
    await settle()
    waits.advance(LSN(3))
    await settle()
    assert reached == [1, 2, 3]
    await waits.reach(LSN(2))  # it is there already
    waits.close()
    with pytest.raises(NoLeader, match="closing"):
        await tasks[-1]
    # A read that learns its index from a member that closes meanwhile comes this late.
    with pytest.raises(NoLeader, match="closing"):
        await asyncio.wait_for(waits.reach_for_caller(LSN(9)), 10)


async def test_callers_are_bounded_and_the_replicas_own_work_is_not() -> None:
    waits = AppliedWaits(2)
    callers = [asyncio.create_task(waits.reach_for_caller(LSN(5))) for _ in range(2)]
    await settle()
    with pytest.raises(Overloaded, match="2 calls wait"):
        await waits.reach_for_caller(LSN(5))
    own = asyncio.create_task(waits.reach(LSN(5)))  # a backfill that was refused would end it
    await settle()
    assert not own.done()
    waits.advance(LSN(5))
    await asyncio.gather(own, *callers)


async def test_who_gave_up_keeps_no_place() -> None:
    waits = AppliedWaits(2)
    for _ in range(10):
        waiting = asyncio.create_task(waits.reach_for_caller(LSN(5)))
        await settle()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
    last = asyncio.create_task(waits.reach_for_caller(LSN(5)))
    await settle()
    assert not last.done()
    waits.advance(LSN(5))
    await last
