"""Work on threads that is not left half done."""

import asyncio
import threading

import pytest
from partition_replica.errors import StorageFailed
from partition_replica.storage.threads import finish, run_to_end


async def test_whoever_is_cancelled_again_and_again_waits_for_the_end() -> None:
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def body() -> None:
        reached.set()
        assert go_on.wait(30)
        ended.set()

    task = asyncio.create_task(run_to_end(body))
    assert await asyncio.to_thread(reached.wait, 30)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_a_failed_fsync_is_told_to_the_cancelled_too() -> None:
    reached, go_on = threading.Event(), threading.Event()

    def body() -> None:
        reached.set()
        assert go_on.wait(30)
        raise StorageFailed("fsync of a blob failed")

    task = asyncio.create_task(run_to_end(body))
    assert await asyncio.to_thread(reached.wait, 30)
    task.cancel()
    go_on.set()
    with pytest.raises(StorageFailed):
        await task


async def test_what_nobody_gets_any_more_is_undone_once() -> None:
    undone: list[str] = []
    work: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(finish(work, undone.append))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    work.set_result("a thing")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert undone == ["a thing"]


async def test_what_is_got_is_not_undone() -> None:
    undone: list[str] = []
    assert await run_to_end(lambda: "a thing", undone.append) == "a thing"
    assert undone == []
