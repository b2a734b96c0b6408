"""Which operator leads, and by which token. Replicas refuse a token below one that they have seen,
so each holder's token must lie above that of the holder before it."""

import asyncio
import datetime as dt

from partition_operator.clients.kube import Body

from tests.support.leases import DURATION_S, Clock, Kube, acquiring, holder, looked
from tests.support.leases import clock as clock  # a fixture


async def test_the_successor_of_a_dead_holder_has_a_higher_token(clock: Clock) -> None:
    kube = Kube()
    first, second = holder(kube, "first"), holder(kube, "second")
    await first.acquire()
    async with acquiring(second) as task:
        await looked(kube)
        clock.now += DURATION_S * 0.9
        await looked(kube)
        assert not task.done()
        clock.now += DURATION_S * 0.2
        await asyncio.wait_for(task, 30)
    assert second.transitions > first.transitions

    third = holder(kube, "third")
    await second.release()
    await asyncio.wait_for(third.acquire(), 30)  # a released lease is taken at once
    assert third.transitions > second.transitions
    assert kube.tokens[-1] == ("third", third.transitions)


async def test_a_holder_that_renews_keeps_lease_and_token(clock: Clock) -> None:
    """Whatever the wall clocks say: the holder's is an hour behind."""
    kube = Kube()
    first, second = holder(kube, "first"), holder(kube, "second")
    body = first._body

    def behind(transitions: int) -> Body:
        found = body(transitions)
        stamp = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
        found["spec"]["renewTime"] = stamp.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return found

    first._body = behind  # type: ignore[method-assign]
    await first.acquire()
    token = first.transitions
    async with acquiring(second) as task:
        for _ in range(5):
            await looked(kube)
            clock.now += DURATION_S * 0.9
            await first.acquire()  # the holder's own lease: this renews it
        await looked(kube)
        assert not task.done()
    assert set(kube.tokens) == {("first", token)}


async def test_a_holder_that_lost_the_lease_ends_and_takes_nothing_back(clock: Clock) -> None:
    kube = Kube()
    ends: list[str] = []
    first, second = holder(kube, "first", ends.append), holder(kube, "second")
    await first.acquire()
    async with acquiring(second) as task:
        await looked(kube)
        clock.now += DURATION_S * 1.1
        await asyncio.wait_for(task, 30)
    await asyncio.wait_for(first.renew(), 30)
    assert "another process holds the Lease" in ends[0]
    assert kube.tokens[-1] == ("second", second.transitions)
    assert second.transitions > first.transitions


async def test_a_lease_that_was_made_anew_gets_a_token_above_what_replicas_saw(
    clock: Clock,
) -> None:
    kube = Kube()
    first = holder(kube, "first")
    await first.acquire()
    await first.raise_above(41)
    assert first.transitions == 42
    await first.acquire()  # a renewal, which keeps the token
    assert kube.tokens[-1] == ("first", 42)
    second = holder(kube, "second")
    await first.release()
    await second.acquire()
    assert second.transitions > 42


async def test_of_two_that_take_a_lease_at_once_one_has_it(clock: Clock) -> None:
    """Both have seen the same version of it; the API server takes one write."""
    kube = Kube()
    dead = holder(kube, "dead")
    await dead.acquire()
    await dead.release()
    candidates = [holder(kube, f"candidate-{n}") for n in range(5)]
    tasks = [asyncio.create_task(one.acquire()) for one in candidates]
    await asyncio.wait(tasks, timeout=30, return_when=asyncio.FIRST_COMPLETED)
    await looked(kube)
    winners = [one for one, task in zip(candidates, tasks, strict=True) if task.done()]
    for task in tasks:
        task.cancel()
    (winner,) = winners
    assert kube.tokens[2:] == [(winner._config.identity, winner.transitions)]
    assert winner.transitions > dead.transitions
