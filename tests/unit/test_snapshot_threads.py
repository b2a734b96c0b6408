"""Work on threads goes on when its waiter is cancelled: nothing that it uses is taken away."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import aclosing

import pytest
from partition_snapshots.parallel import on_thread, run_to_end


async def test_a_cancelled_wait_ends_with_the_thread() -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def body() -> None:
        begun.set()
        assert go_on.wait(30)
        ended.set()

    task = asyncio.ensure_future(run_to_end(body))
    assert await asyncio.to_thread(begun.wait, 30)
    for _ in range(3):
        task.cancel()
        await asyncio.wait([task], timeout=0.02)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_what_it_returns_and_raises() -> None:
    assert await run_to_end(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_to_end(divmod, 7, 0)


async def test_an_iterator_that_waits_for_the_loop_survives_repeated_cancels() -> None:
    """As one that reads segments of a store does: the loop must not wait for its thread blocked."""
    loop = asyncio.get_running_loop()
    asked, answer = asyncio.Event(), loop.create_future()
    closed: list[bool] = []

    async def segment() -> int:
        asked.set()
        return await asyncio.shield(answer)

    def items() -> Iterator[int]:
        try:
            yield asyncio.run_coroutine_threadsafe(segment(), loop).result(30)
        finally:
            closed.append(True)

    async def take() -> None:
        async with aclosing(on_thread(items)) as found:
            async for _ in found:
                pass

    task = asyncio.ensure_future(take())
    await asked.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.wait([task], timeout=0.02)
        assert not task.done()
    answer.set_result(1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert closed == [True]
