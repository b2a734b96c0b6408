"""When the applier applies: at once for everyone who waits, later for others; and nobody is told
before it is done."""

import asyncio

import pytest
from partition_replica.ids import LSN, Term

from tests.support.appliers import group, pending, within


async def test_entries_wait_for_more_until_somebody_waits_for_one() -> None:
    async with group() as found:
        for _ in range(3):
            found.commit(2)
            await found.rest()
        assert found.state.batches == []
        assert found.applier.lag == 6
        await within(found.waits.reach(LSN(1)))
        assert found.state.batches == [[1, 2, 3, 4, 5, 6]]
        found.commit(1)
        await found.rest()
        assert found.applier.told == 6


async def test_entries_that_nobody_waits_for_are_applied_after_the_delay() -> None:
    async with group(apply_delay_s=0.01) as found:
        for last in (3, 6, 9):
            found.commit(3)
            while found.applier.told < last:
                await asyncio.sleep(0.001)
        assert found.state.batches == [[1, 2, 3], [4, 5, 6], [7, 8, 9]]


async def test_without_a_delay_they_are_applied_at_once() -> None:
    async with group(apply_delay_s=0.0) as found:
        found.commit(1)
        await found.rest()
        assert found.state.batches == [[1]]


async def test_a_whole_batch_does_not_wait() -> None:
    async with group(apply_batch_max=4) as found:
        found.commit(3)
        await found.rest()
        assert found.state.batches == []
        found.commit(3)
        await found.rest()
        assert found.state.batches == [[1, 2, 3, 4]]
        await within(found.applier.caught_up())
        assert found.state.batches == [[1, 2, 3, 4], [5, 6]]


async def test_neither_do_the_bytes_of_one() -> None:
    async with group(apply_batch_bytes_max=100) as found:
        found.commit(3, size=30)
        await found.rest()
        assert found.state.batches == []
        found.commit(1, size=30)
        await found.rest()
        assert found.state.batches == [[1, 2, 3]]


async def test_the_rest_of_a_whole_batch_is_applied_after_the_delay() -> None:
    async with group(apply_batch_max=4, apply_delay_s=0.01) as found:
        found.commit(6)
        while found.applier.told < 6:
            await asyncio.sleep(0.001)
        assert found.state.batches == [[1, 2, 3, 4], [5, 6]]


async def test_entries_that_left_the_queue_are_applied_after_the_delay_too() -> None:
    async with group(apply_queue_bytes_max=50, apply_delay_s=0.01) as found:
        found.commit(5, size=30)
        while found.applier.told < 5:
            await asyncio.sleep(0.001)
        assert [lsn for batch in found.state.batches for lsn in batch] == [1, 2, 3, 4, 5]


async def test_who_waits_for_an_entry_that_is_not_committed_yet_waits_no_longer_than_that() -> None:
    async with group() as found:
        waiting = asyncio.create_task(found.waits.reach(LSN(2)))
        await found.rest()
        for _ in range(3):
            found.commit(1)
            await found.rest()
        assert found.state.batches == [[1], [2]]
        await within(waiting)


async def test_a_change_of_the_configuration_is_applied_at_once() -> None:
    async with group() as found:
        found.commit(2)
        found.commit(1, kind=1)
        found.commit(1)
        await found.rest()
        assert found.changes == [3]
        assert found.state.batches == [[1, 2], [3]]


async def test_who_waits_for_any_advance_gets_the_next_entry() -> None:
    async with group() as found:
        found.commit(2)
        await within(found.waits.change())
        following = asyncio.create_task(found.waits.change())
        await found.rest()
        found.commit(1)
        await within(following)
        assert found.state.batches == [[1, 2], [3]]


async def test_proposals_that_wait_for_the_apply_do_not_wait_for_the_delay() -> None:
    async with group() as found:
        first, second = pending(1, wait_applied=False), pending(2, wait_applied=True)
        found.proposals.proposed(LSN(1), Term(1), [first])
        found.commit(1)
        found.proposals.committed(found.entries[0])
        assert (await within(first.future)).kind == "committed"
        await found.rest()
        assert found.state.batches == []

        found.proposals.proposed(LSN(2), Term(1), [second])
        found.commit(1)
        assert (await within(second.future)).kind == "empty"


async def test_a_second_try_of_a_committed_proposal_does_not_wait_for_the_delay() -> None:
    async with group() as found:
        found.proposals.proposed(LSN(1), Term(1), [pending(1, wait_applied=False)])
        found.commit(1)
        await found.rest()
        assert found.state.batches == []
        again = pending(1, wait_applied=True)
        assert found.proposals.follow(again)
        await within(again.future)


async def test_nobody_is_told_before_it_is_applied() -> None:
    async with group() as found:
        found.state.go.clear()
        proposed = pending(1, wait_applied=True)
        found.proposals.proposed(LSN(1), Term(1), [proposed])
        found.commit(1)
        waiting = [
            asyncio.create_task(found.waits.reach(LSN(1))),
            asyncio.create_task(found.waits.change()),
            asyncio.create_task(found.applier.caught_up()),
        ]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        assert not proposed.future.done()
        assert found.applier.told == 0
        found.state.go.set()
        await within(asyncio.gather(proposed.future, *waiting))
        assert found.state.batches == [[1]]


async def test_nobody_waits_for_an_applier_that_pauses_or_has_ended() -> None:
    async with group() as found:
        found.state.go.clear()
        found.commit(1)
        waiting = asyncio.create_task(found.applier.caught_up())
        await asyncio.sleep(0)
        found.applier.pause()
        await within(waiting)
        found.state.go.set()
    with pytest.raises(RuntimeError):
        await found.applier.call(lambda: None)
    found.commit(1)
    await within(found.applier.caught_up())
