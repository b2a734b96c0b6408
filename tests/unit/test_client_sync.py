"""The client for code without an event loop: calls and `close` from several threads, and from the
handler of a signal, which comes between any two lines of its own thread."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import pytest
from partition_client import Client, ClientError
from partition_client import sync as sync_module

from tests.support.slow_closing import Interrupted, Slow, Wanted
from tests.support.stand_in_replica import StandInReplica

WITHIN_S = 60.0
"""For what a hang would make endless, on a machine under load."""

T = TypeVar("T")


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async with StandInReplica().serving() as found:
        yield found


def started(body: Callable[[], T]) -> "asyncio.Future[T]":
    """Runs it on a thread that keeps no process from its end, whether it hangs or not."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(body())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(result)


async def ended(*results: "asyncio.Future[Any]") -> list[Any]:
    async with asyncio.timeout(WITHIN_S):
        return await asyncio.gather(*results)


async def test_close_returns_to_every_thread_once_the_client_is_closed() -> None:
    replica = Slow()
    async with replica.serving() as address:
        client = Client([address], deadline_s=WITHIN_S)
        await ended(started(lambda: client.set_key(b"k", b"v")))

        def close() -> bool:
            client.close()
            return client._thread.is_alive() or not client._loop.is_closed()

        closing = [started(close)]
        async with asyncio.timeout(WITHIN_S):
            await replica.asked.wait()
        closing += [started(close) for _ in range(3)]
        async with asyncio.timeout(WITHIN_S):
            while len(client._closers) < 4:
                await asyncio.sleep(0.001)
        replica.go_on.set()
        assert await ended(*closing) == [False] * 4
    assert replica.calls["CloseSession"] == 1


async def test_a_call_that_begins_while_the_client_closes_is_refused() -> None:
    replica = Slow()
    async with replica.serving() as address:
        client = Client([address], deadline_s=WITHIN_S)
        await ended(started(lambda: client.set_key(b"k", b"v")))
        closing = started(client.close)
        async with asyncio.timeout(WITHIN_S):
            await replica.asked.wait()
        with pytest.raises(ClientError, match="the client is closed"):
            await ended(started(lambda: client.get_key(b"k")))
        replica.go_on.set()
        await ended(closing)


async def test_close_waits_until_a_call_is_submitted_or_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the loop could stop between a call's check and its submission."""
    client = Client([address], deadline_s=WITHIN_S)
    submit, checked, lock = client._submit, threading.Event(), Wanted()
    closers: list[int] = []

    def slowly(*arguments: Any) -> None:
        if not checked.is_set():
            checked.set()
            lock.twice.wait(WITHIN_S)
            closers.append(len(client._closers))
        submit(*arguments)

    monkeypatch.setattr(client, "_submit", slowly)
    monkeypatch.setattr(client, "_lock", lock)
    call = started(lambda: client.get_key(b"k"))
    assert await asyncio.to_thread(checked.wait, WITHIN_S)
    await ended(started(client.close))
    (result,) = await asyncio.gather(call, return_exceptions=True)
    assert closers == [0]
    assert result is None or isinstance(result, ClientError)


# --- the handler of a signal ------------------------------------------------------------------


def get(client: Client) -> bytes | None:
    return client.get_key(b"k")


def interrupted(body: Callable[[], object], at: int, handler: Callable[[], object]) -> bool:
    """Runs `body`, and `handler` at its line number `at`, as a signal's handler would run. Lines of
    what it calls count, too. Whether it got so far."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
            if lines == at:
                handler()
        return trace

    sys.settrace(trace)
    try:
        body()
    except ClientError:
        pass
    finally:
        sys.settrace(None)
    return lines >= at


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("use", [Client.close, get], ids=["close", "call"])
async def test_a_handler_may_close_the_client_at_any_line(
    address: str, use: Callable[[Client], object]
) -> None:
    def at_each() -> int:
        at, more = 0, True
        while more:
            at += 1
            client = Client([address], deadline_s=WITHIN_S)
            more = interrupted(partial(use, client), at, client.close)
            client.close()
            assert client._loop.is_closed(), f"line {at}"
            with pytest.raises(ClientError, match="is closed"):
                get(client)
        return at

    (lines,) = await ended(started(at_each))
    assert lines > 20


async def test_a_handler_may_use_the_client_at_any_line_of_a_call(address: str) -> None:
    def at_each() -> int:
        at, more = 0, True
        with Client([address], deadline_s=WITHIN_S) as client:
            while more:
                at += 1
                more = interrupted(partial(get, client), at, partial(client.set_key, b"k", b"v"))
        return at

    (lines,) = await ended(started(at_each))
    assert lines > 20


async def test_a_handler_does_not_wait_for_the_close_that_it_interrupts(address: str) -> None:
    """It runs on the thread that closes, so nobody would go on."""

    def use() -> None:
        client = Client([address], deadline_s=WITHIN_S)
        stop = client._stop

        def interrupted_stop() -> None:
            client.close()
            stop()

        client._stop = interrupted_stop  # type: ignore[method-assign]
        client.close()
        assert client._loop.is_closed()

    await ended(started(use))


async def test_a_close_that_fails_lets_the_other_threads_go(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client([address], deadline_s=WITHIN_S)
    real, failing, go_on = sync_module._cancel_others, threading.Event(), threading.Event()

    async def fail() -> None:
        failing.set()
        await asyncio.to_thread(go_on.wait, WITHIN_S)
        raise Interrupted

    monkeypatch.setattr(sync_module, "_cancel_others", fail)
    first = started(client.close)
    assert await asyncio.to_thread(failing.wait, WITHIN_S)
    second = started(client.close)
    go_on.set()
    await ended(second)
    with pytest.raises(Interrupted):
        await ended(first)
    monkeypatch.setattr(sync_module, "_cancel_others", real)
    await ended(started(client._stop))
