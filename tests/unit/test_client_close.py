"""`close` ends the calls of other tasks with the client's error. CancelledError is for the tasks
that somebody cancels."""

import asyncio
import gc
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import pytest
from partition_client import AsyncClient, ClientError, calls
from partition_client.routing import Routing
from partition_client.waiting import Silent, being_cancelled, within

from tests.support.mute_replicas import USES, Mute, Speechless, Use
from tests.support.slow_closing import Slow
from tests.support.stand_in_replica import StandInReplica

WITHIN_S = 20.0
"""Far above what anything here takes, for a machine under load."""


@asynccontextmanager
async def waiting(
    replica: Mute, use: Use, folder: Path
) -> AsyncIterator[tuple[AsyncClient, "asyncio.Task[object]"]]:
    """A task that waits for an answer of the replica."""

    async def call() -> object:
        return await use(client, folder)

    async with replica.client(deadline_s=60.0) as client, asyncio.timeout(WITHIN_S):
        task = asyncio.create_task(call())
        await replica.asked.wait()
        yield client, task


STATUS: dict[str, Use] = {
    "statuses": lambda client, _: client.statuses(),
    "status": lambda client, _: client.status(),
    "history": lambda client, _: client.history(),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_call_that_waits_for_its_answer(use: Use, tmp_path: Path) -> None:
    async with waiting(Mute(), use, tmp_path) as (client, task):
        await client.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await task


@pytest.mark.parametrize("use", (USES | STATUS).values(), ids=(USES | STATUS).keys())
async def test_a_call_that_looks_for_the_leader(use: Use, tmp_path: Path) -> None:
    async with waiting(Speechless(), use, tmp_path) as (client, task):
        await client.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await task


@pytest.mark.parametrize("replica", [Mute, Speechless])
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_task_that_is_cancelled(use: Use, replica: type[Mute], tmp_path: Path) -> None:
    async with waiting(replica(), use, tmp_path) as (_, task):
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_a_task_that_is_cancelled_while_the_client_is_closed(tmp_path: Path) -> None:
    async with waiting(Mute(), USES["get_key"], tmp_path) as (client, task):
        closing = asyncio.create_task(client.close())
        task.cancel()
        await asyncio.wait({task, closing})
        assert task.cancelled()


def in_a_task_that_was_cancelled(use: Use) -> Use:
    """As in a `finally`: the task has caught a cancellation, and not called `uncancel`."""

    async def call(client: AsyncClient, folder: Path) -> object:
        await caught_cancellation()
        return await use(client, folder)

    return call


async def caught_cancellation() -> None:
    cancel_this_task()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    assert being_cancelled()


def cancel_this_task() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@pytest.mark.parametrize("replica", [Mute, Speechless])
@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_task_that_was_cancelled_before(
    use: Use, replica: type[Mute], tmp_path: Path
) -> None:
    async with waiting(replica(), in_a_task_that_was_cancelled(use), tmp_path) as (client, task):
        await client.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await task


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_task_that_is_cancelled_again(use: Use, tmp_path: Path) -> None:
    async with waiting(Mute(), in_a_task_that_was_cancelled(use), tmp_path) as (_, task):
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_a_stream_that_several_tasks_advance(tmp_path: Path) -> None:
    """The task that advances it counts, not the one that began it."""
    replica = Mute()
    async with replica.client(deadline_s=60.0) as client, asyncio.timeout(WITHIN_S):
        tail = aiter(client.tail(follow=True))
        first = asyncio.ensure_future(anext(tail))
        assert (await first).lsn == 2
        second = asyncio.ensure_future(anext(tail))
        await replica.asked.wait()
        await client.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await second


async def test_every_endpoint_is_asked_before_a_failure_is_raised() -> None:
    """asyncio reports a failure that nobody takes once the failed task is collected. What gRPC's
    poller reports of its own, when it finds nothing to read on a busy machine, is no such one."""
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda _, context: reported.append(context["message"])
    )
    one, two = Speechless(), Speechless()
    async with one.serving() as first, two.serving() as second, asyncio.timeout(WITHIN_S):
        routing = Routing([first, second], None, follow_hints=False)
        finding = asyncio.create_task(routing.find_leader(WITHIN_S))
        await one.asked.wait()
        await two.asked.wait()
        await routing.close()
        with pytest.raises(ClientError, match="the client is closed"):
            await finding
    del finding
    gc.collect()
    assert [message for message in reported if "never retrieved" in message] == []


async def test_a_close_that_is_cancelled_closes_the_client() -> None:
    replica = Slow()
    async with replica.client(deadline_s=WITHIN_S) as client, asyncio.timeout(WITHIN_S):
        await client.set_key(b"k", b"v")
        closing = asyncio.create_task(client.close())
        await replica.asked.wait()
        closing.cancel()
        await asyncio.wait({closing})
        with pytest.raises(ClientError, match="the client is closed"):
            await client.get_key(b"k")
        replica.go_on.set()


async def test_a_stream_whose_watch_fails_is_given_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It would wait for ever, because a tail has no deadline while its replica answers."""
    monkeypatch.setattr(calls, "STREAM_IDLE_S", 0.05)
    replica = StandInReplica()
    async with replica.client(deadline_s=WITHIN_S) as client, asyncio.timeout(WITHIN_S):
        tail = aiter(client.tail(follow=True))
        replica.advance()
        assert (await anext(tail)).lsn == 2
        real = client._routing.status

        async def fail(*_: object) -> None:
            monkeypatch.setattr(client._routing, "status", real)
            raise RuntimeError("planted")

        monkeypatch.setattr(client._routing, "status", fail)
        following = asyncio.ensure_future(anext(tail))
        while replica.calls["Read"] < 2:
            await asyncio.sleep(0.001)
        replica.advance()
        assert (await following).lsn == 3
    assert "planted" in caplog.text


# --- waiting ----------------------------------------------------------------------------------


async def test_a_wait_tells_a_call_that_was_ended_from_its_own_task() -> None:
    call: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(within(call, WITHIN_S))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(Silent, match="the client ended the call"):
        await task
    task = asyncio.create_task(within(asyncio.Event().wait(), WITHIN_S))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(Silent, match=r"no answer within 0\.0 s"):
        await within(asyncio.Event().wait(), 0.001)


async def test_a_task_hears_of_a_cancellation_that_came_while_it_ran() -> None:
    """As by Ctrl-C between two calls. Python would warn of a step that is never begun nor ended."""
    step = asyncio.sleep(0)

    async def call() -> None:
        await caught_cancellation()
        cancel_this_task()
        await within(step, WITHIN_S)

    task = asyncio.create_task(call())
    await asyncio.wait({task})
    assert task.cancelled()
    async with asyncio.timeout(WITHIN_S):
        while inspect.getcoroutinestate(step) != inspect.CORO_CLOSED:
            await asyncio.sleep(0)


async def test_an_answer_and_an_error_pass_through_a_wait() -> None:
    async def answer() -> int:
        return 7

    async def fail() -> int:
        raise grpc.aio.UsageError("no")

    assert await within(answer(), WITHIN_S) == 7
    with pytest.raises(grpc.aio.UsageError):
        await within(fail(), WITHIN_S)
    assert not being_cancelled()


async def test_a_timeout_around_a_call_is_a_cancellation() -> None:
    """`asyncio.timeout` of the caller cancels its task, and turns that into TimeoutError."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await within(asyncio.Event().wait(), WITHIN_S)
