"""Work on threads that is not left half done."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from partition_replica.errors import StorageFailed
from partition_replica.threads import ahead, both, finish, run_to_end


async def cancel_again_and_again(task: "asyncio.Task[None]") -> None:
    """It does not end by that."""
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()


async def test_whoever_is_cancelled_again_and_again_waits_for_the_end() -> None:
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def body() -> None:
        reached.set()
        assert go_on.wait(30)
        ended.set()

    task = asyncio.create_task(run_to_end(body))
    assert await asyncio.to_thread(reached.wait, 30)
    await cancel_again_and_again(task)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def numbers(count: int, error: Exception | None = None) -> AsyncIterator[int]:
    for number in range(count):
        yield number
    if error is not None:
        raise error


async def test_items_are_worked_on_in_order_while_the_next_one_comes() -> None:
    done: list[int] = []
    seen: list[int] = []

    async def items() -> AsyncIterator[int]:
        for number in range(5):
            seen.append(len(done))
            yield number

    first = threading.Event()

    def work(number: int) -> None:
        if not number:
            assert first.wait(30)  # until the next one was asked for
        done.append(number)

    async def release() -> None:
        while len(seen) < 2:
            await asyncio.sleep(0)
        first.set()

    await asyncio.gather(ahead(items(), work), release())
    assert done == [0, 1, 2, 3, 4]
    assert seen[1] == 0
    await ahead(numbers(0), work)


async def test_an_error_of_the_items_is_raised_when_no_thread_works_any_more() -> None:
    working, go_on = threading.Event(), threading.Event()

    def work(number: int) -> None:
        working.set()
        assert go_on.wait(30)

    task = asyncio.create_task(ahead(numbers(1, ConnectionResetError()), work))
    assert await asyncio.to_thread(working.wait, 30)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(ConnectionResetError):
        await task


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_an_error_of_the_work_ends_it(count: int) -> None:
    done: list[int] = []

    def work(number: int) -> None:
        done.append(number)
        raise StorageFailed("no")

    with pytest.raises(StorageFailed):
        await ahead(numbers(count), work)
    assert done == [0]


async def test_one_that_ends_cancelled_ends_the_other() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    other = asyncio.create_task(asyncio.Event().wait())
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(both(cancelled(), other), 30)
    assert other.cancelled()


async def test_who_is_cancelled_while_items_come_waits_for_the_thread() -> None:
    reached, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    async def items() -> AsyncIterator[int]:
        yield 0
        await asyncio.Event().wait()

    def work(_: int) -> None:
        reached.set()
        assert go_on.wait(30)
        ended.set()

    task = asyncio.create_task(ahead(items(), work))
    assert await asyncio.to_thread(reached.wait, 30)
    await cancel_again_and_again(task)
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


class Steps:
    """Notes who ended, however."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.ended: list[str] = []

    async def step(
        self, name: str, error: Exception | None = None, at_the_end: Exception | None = None
    ) -> str:
        try:
            if error is not None:
                await asyncio.sleep(0)
                raise error
            await self.go.wait()
        finally:
            await asyncio.sleep(0)
            self.ended.append(name)
            if at_the_end is not None:
                raise at_the_end
        return name


async def test_both_results() -> None:
    steps = Steps()
    steps.go.set()
    assert await both(steps.step("a"), steps.step("b")) == ("a", "b")


@pytest.mark.parametrize("first", [True, False])
async def test_an_error_of_one_ends_the_other(first: bool) -> None:
    steps = Steps()
    bad, good = steps.step("bad", ValueError("x")), steps.step("good")
    with pytest.raises(ValueError, match="x"):
        await (both(bad, good) if first else both(good, bad))
    assert sorted(steps.ended) == ["bad", "good"]


async def test_a_cancellation_ends_both_first() -> None:
    steps = Steps()
    task = asyncio.create_task(both(steps.step("a"), steps.step("b")))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # again, while it waits for them
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(steps.ended) == ["a", "b"]


async def test_a_failed_fsync_comes_first() -> None:
    """Though it came second: it must end the process."""
    steps = Steps()
    with pytest.raises(StorageFailed):
        await both(
            steps.step("bad", ValueError("x")), steps.step("disk", at_the_end=StorageFailed("y"))
        )
    task = asyncio.create_task(
        both(steps.step("a"), steps.step("disk", at_the_end=StorageFailed("y")))
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(StorageFailed):
        await task
