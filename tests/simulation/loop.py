"""An asyncio event loop under virtual time: it never waits, it has no threads and no sockets.

Where nothing is left to run now, the clock jumps to the next timer. What would run on a thread
(`run_in_executor`, and so `asyncio.to_thread`) runs inline, at a moment drawn from the seed, and
its result arrives at a later one: commits take time, in order within a thread, and a crash may fall
before the effect, or between the effect and the news of it.

Everything that runs belongs to a `Process`: a replica's, or a client's. A process that crashed runs
nothing more but the clean-up of its cancelled tasks, which reaches neither network nor disk.
"""

import asyncio
import random
from asyncio import events
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")

START_S = 1_000_000.0
"""Where the virtual clock begins: far from 0, which some code takes for "never"."""

DRIFT = 0.05
"""Timers of a process are late by up to this part of their delay: nobody's clock is exact, and
members with equal election time-outs must not vote in step for ever."""


class SimulatedCrash(BaseException):
    """Raised out of a disk operation at which the process ends. No `except Exception` sees it."""


class Deadlock(Exception):
    """Nothing is left to run, and nothing is awaited that could."""


class Process:
    """What crashes together. `worked` is called after each piece of work on a thread."""

    def __init__(self, loop: "VirtualLoop", name: str, rng: random.Random) -> None:
        self.loop = loop
        self.name = name
        self.rng = rng
        self.alive = True
        self.disk_delay_s = (0.0002, 0.004)
        self.worked: Callable[[], None] = lambda: None
        self.jobs = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._works: dict[asyncio.Future[Any], None] = {}  # on threads
        self._lane_free: dict[Any, float] = {}
        self._context = copy_context()
        self._context.run(PROCESS.set, self)

    def run(self, body: Callable[..., T], *arguments: Any) -> T:
        """Runs `body` now, as this process."""
        return self._context.copy().run(body, *arguments)

    def spawn(self, body: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        return self.loop.create_task(body, context=self._context.copy())

    def kill(self) -> None:
        """Cancels everything, in the order in which it was begun: what waits for a thread, too,
        which will never say a word."""
        self.alive = False
        for task in list(self._tasks):
            task.cancel()
        for work in list(self._works):
            work.cancel()

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def delay(self) -> float:
        """How long the disk takes; now and then much longer."""
        low, high = self.disk_delay_s
        return self.rng.uniform(low, high * (10 if self.rng.random() < 0.02 else 1))

    def submit(self, lane: Any, body: Callable[[], Any], future: "asyncio.Future[Any]") -> None:
        """Runs `body` as a thread would. `lane`: a thread that does one thing after another; None
        for a pool, where nothing waits."""
        if not self.alive:
            future.cancel()  # a clean-up of the dead would wait for it for ever
            return
        begin = self.loop.time() + self.delay()
        if lane is not None:
            begin = max(begin, self._lane_free.get(lane, 0.0))
        end = begin + self.delay()
        if lane is not None:
            self._lane_free[lane] = end
        self.jobs += 1
        self._works[future] = None
        future.add_done_callback(lambda done: self._works.pop(done, None))
        effect = begin if self.rng.random() < 0.7 else end
        self.loop.call_exactly_at(effect, self._run, body, future, end)

    def _run(self, body: Callable[[], Any], future: "asyncio.Future[Any]", end: float) -> None:
        if not self.alive:
            return
        result, error = None, None
        if not future.cancelled():  # what did not begin can still be called off
            try:
                result = body()
            except SimulatedCrash:
                return
            except BaseException as raised:
                error = raised
            self.worked()
        self.loop.call_exactly_at(end, self._finish, future, result, error)

    def _finish(
        self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None
    ) -> None:
        self.jobs -= 1
        if not self.alive or future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _Clock:
    """Stands where a loop has its selector: instead of waiting it moves the clock."""

    def __init__(self, loop: "VirtualLoop") -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        if timeout is None:
            raise Deadlock("nothing is left to run")
        if timeout > 0:
            self._loop.advance()
        return []


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module. What nobody awaits and fails goes to the exception handler."""

    _scheduled: list[asyncio.TimerHandle]

    def __init__(self) -> None:
        super().__init__()
        self._now = START_S
        self._selector = _Clock(self)
        self.set_task_factory(self._make_task)  # type: ignore[arg-type]

    def time(self) -> float:
        return self._now

    def advance(self) -> None:
        """To the next timer."""
        self._now = max(self._now, self._scheduled[0].when())

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None and when > self._now:
            when += (when - self._now) * process.rng.uniform(0, DRIFT)
        return super().call_at(when, callback, *args, context=context)

    def call_exactly_at(
        self, when: float, callback: Callable[..., Any], *args: Any
    ) -> asyncio.TimerHandle:
        return super().call_at(when, callback, *args)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> "asyncio.Future[Any]":
        process = PROCESS.get()
        assert process is not None, "only processes have threads"
        future = self.create_future()
        process.submit(executor, partial(func, *args), future)
        return future

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any],
        context: Context | None = None,
    ) -> "asyncio.Task[Any]":
        task = asyncio.Task(coro, loop=loop, context=context)
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.adopt(task)
        return task

    # What BaseEventLoop leaves to those that have sockets.

    def _process_events(self, event_list: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


def run(loop: VirtualLoop, main: Coroutine[Any, Any, T]) -> T:
    """Runs `main` to its end, then closes the loop with whatever is still under way on it."""
    try:
        return loop.run_until_complete(main)
    finally:
        events.set_event_loop(None)
        loop.close()
