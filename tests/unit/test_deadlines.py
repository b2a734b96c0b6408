"""Many deadlines with one timer."""

import asyncio

import pytest
from partition_client.deadlines import IDLE_TIMERS_MAX, Deadlines

WITHIN_S = 20.0


async def test_items_expire_in_their_order_and_removed_ones_never() -> None:
    expired: list[str] = []
    over = asyncio.Event()

    def note(item: str) -> None:
        expired.append(item)
        if item == "last":
            over.set()

    deadlines: Deadlines[str] = Deadlines(note)
    loop = asyncio.get_running_loop()
    began = loop.time()
    deadlines.add("long", 0.15)
    for item in ("first", "removed", "second"):
        deadlines.add(item, 0.05)
    deadlines.add("last", 0.2)
    deadlines.remove("removed", 0.05)
    deadlines.remove("never added", 0.05)
    async with asyncio.timeout(WITHIN_S):
        await over.wait()
    assert expired == ["first", "second", "long", "last"]
    assert loop.time() >= began + 0.2


async def test_an_item_that_is_added_again_has_its_whole_time() -> None:
    """As an append whose upload moved its deadline."""
    expired = asyncio.Event()
    deadlines: Deadlines[str] = Deadlines(lambda _: expired.set())
    loop = asyncio.get_running_loop()
    deadlines.add("item", 0.1)
    half = loop.time() + 0.05
    while loop.time() < half:
        await asyncio.sleep(0.001)
    deadlines.remove("item", 0.1)
    deadlines.add("item", 0.1)
    again = loop.time()
    async with asyncio.timeout(WITHIN_S):
        await expired.wait()
    assert loop.time() >= again + 0.1


async def test_a_closed_one_expires_nothing() -> None:
    expired: list[str] = []
    deadlines: Deadlines[str] = Deadlines(expired.append)
    deadlines.add("item", 0.001)
    deadlines.close()
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, later.set)
    await later.wait()
    assert not expired


@pytest.mark.parametrize("allowed_s", [1.0, 2.0])
async def test_nothing_is_kept_of_what_has_ended(allowed_s: float) -> None:
    deadlines: Deadlines[int] = Deadlines(lambda _: None)
    for item in range(1000):
        deadlines.add(item, allowed_s)
        deadlines.remove(item, allowed_s)
    assert not deadlines._waiting[allowed_s]
    assert len(deadlines._timers) == 1
    deadlines.close()


async def test_allowed_times_that_nobody_shares_leave_nothing() -> None:
    """As a caller that passes the time that it has left."""
    deadlines: Deadlines[int] = Deadlines(lambda _: None)
    for item in range(1000):
        deadlines.add(item, 60 + item / 1000)
        deadlines.remove(item, 60 + item / 1000)
    assert len(deadlines._timers) <= IDLE_TIMERS_MAX
    assert len(deadlines._waiting) <= IDLE_TIMERS_MAX
    deadlines.close()
