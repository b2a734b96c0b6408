"""Applies committed entries in order, on its own thread. Its queue in memory is bounded: entries
that do not fit are read from the log again in their turn.

A transaction of the state costs far more than an entry in it, so the applier waits for more entries
as long as nobody waits for the state. It applies at once if one of these is true:

- `hurry` named an LSN that is committed and not applied. Everyone who waits for the state calls it:
  `AppliedWaits`, `Proposals`, a new leader, and `caught_up` for copies of the state and the end;
- a configuration change is among the entries, because the engine needs it;
- a whole batch is there: `apply_batch_max` entries or `apply_batch_bytes_max` bytes;
- `apply_delay_s` has passed since an entry was committed.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogEntry
from partition_replica.core.ports import EntryReader
from partition_replica.engine.entries import member_changes, until_change
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.failpoints import reach
from partition_replica.storage.garbage import GarbageCollector
from partition_replica.storage.generations import StateGenerations

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApplyHooks:
    """change: called with a configuration change before the state applies it; applies it to the
    engine and saves it. done: called with the result of each entry. Both on the event loop."""

    change: Callable[[LogEntry], Awaitable[None]]
    done: Callable[[list[Applied]], None]


class Applier:
    """Applies entries on its own thread. Its methods run on the event loop."""

    def __init__(
        self,
        log: EntryReader,
        states: StateGenerations,
        garbage: GarbageCollector,
        limits: Limits,
        metrics: Metrics,
    ) -> None:
        self._log = log
        self._states = states
        self._garbage = garbage
        self._limits = limits
        self._metrics = metrics
        self._hooks: ApplyHooks | None = None
        self._queue: deque[LogEntry] = deque()
        self._queued_bytes = 0
        self._target = self._told = states.current.applied.index
        self._switch: Callable[[], Awaitable[None]] | None = None
        self._paused = False
        self._wanted = LSN(0)
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._wake = asyncio.Event()
        self._stepped = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="applier")

    @property
    def target(self) -> LSN:
        """The last committed LSN that it received."""
        return self._target

    @property
    def told(self) -> LSN:
        """The last LSN that was reported as applied. The state itself may be one batch ahead."""
        return self._told

    @property
    def paused(self) -> bool:
        """Whether the log is installing a received state, which will replace the current one."""
        return self._paused

    @property
    def queued_bytes(self) -> int:
        return self._queued_bytes

    @property
    def lag(self) -> int:
        """The number of entries that are committed but not applied."""
        return self._target - self._states.current.applied.index

    def add(self, entries: list[LogEntry]) -> None:
        """Adds committed entries, which follow those added before."""
        for entry in entries:
            contiguous = not self._queue or self._queue[-1].index + 1 == entry.index
            full = self._queued_bytes + len(entry.data) > self._limits.apply_queue_bytes_max
            # Nothing after a gap is queued: the gap has to be read from the log first.
            if contiguous and not full and (self._queue or entry.index == self._target + 1):
                self._queue.append(entry)
                self._queued_bytes += len(entry.data)
            self._target = entry.index
            if entry.kind:
                self.hurry(entry.index)
        if self._due:
            self._wake.set()
        delay_s = self._limits.apply_delay_s
        if self._timer is None and delay_s:
            # It began with the oldest entry that is not applied, or with an earlier one.
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._delay_passed)

    def hurry(self, index: LSN) -> None:
        """Applies the entries up to `index` at once, those that are not committed yet once they
        are. For everyone who waits for the state, and before they wait."""
        self._wanted = max(self._wanted, index)
        if self._due:
            self._wake.set()

    async def caught_up(self) -> None:
        """Applies what is committed now; returns once it is applied. Also returns if nothing can be
        applied any more: `run` has ended, or a received state is being installed."""
        target = self._target
        self.hurry(target)
        while self._told < target and not self._paused and not self._ended:
            await self._stepped.wait()

    def pause(self) -> None:
        """Applies nothing until `switch`, because the log is installing a received state."""
        self._paused = True
        self._queue.clear()
        self._queued_bytes = 0
        self._tell_step()

    def switch(self, body: Callable[[], Awaitable[None]], index: LSN) -> None:
        """Runs `body` between batches. It replaces the state by one at `index`."""
        self._queue.clear()
        self._queued_bytes = 0
        self._target = index
        self._switch = body
        self._wake.set()

    async def call(self, body: Callable[[], T]) -> T:
        """Runs `body` on the applier's thread, between batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, body)

    def start(self, hooks: ApplyHooks) -> None:
        """Sets the hooks. Call it before `run`."""
        self._hooks = hooks

    async def run(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while await self._step():
                    self._tell_step()
        finally:
            self._ended = True
            self._tell_step()
            if self._timer is not None:
                self._timer.cancel()

    def close(self) -> None:
        """Waits until the current batch is applied, and ends the thread."""
        self._thread.shutdown(wait=True)

    @property
    def _due(self) -> bool:
        """Whether entries have to be applied now."""
        limits, waiting = self._limits, self._target - self._told
        return waiting > 0 and (
            self._told < self._wanted
            or waiting >= limits.apply_batch_max
            or self._queued_bytes >= limits.apply_batch_bytes_max
            or not limits.apply_delay_s
        )

    def _delay_passed(self) -> None:
        self._timer = None
        self.hurry(self._target)

    def _tell_step(self) -> None:
        self._stepped.set()
        self._stepped = asyncio.Event()

    async def _step(self) -> bool:
        if self._switch is not None:
            body, self._switch = self._switch, None
            await body()
            self._told = self._states.current.applied.index
            self._paused = False
            return True
        if self._paused or not self._due:
            return False
        assert self._hooks is not None, "start() is first"
        batch = self._next_batch()
        if not batch:
            return False
        if batch[0].kind:
            await self._hooks.change(batch[0])
        results, released = await self.call(lambda: self._apply(batch))
        if not self._paused:
            self._hooks.done(results)
            self._told = batch[-1].index
        if released:
            collected = await self.call(lambda: self._garbage.collect(released))
            self._metrics.blobs_collected.inc(collected)
        return True

    def _next_batch(self) -> list[LogEntry]:
        """Normal entries up to the limits, or one configuration change."""
        applied = self._states.current.applied.index
        if self._queue and self._queue[0].index != applied + 1:
            # The queue begins after a gap, because it was full.
            gap_end = self._queue[0].index
        else:
            gap_end = LSN(self._target + 1)
        if not self._queue or self._queue[0].index != applied + 1:
            if applied >= self._target:
                return []
            found = self._log.read(LSN(applied + 1), gap_end, self._limits.apply_batch_bytes_max)
            return until_change(found[: self._limits.apply_batch_max])
        batch: list[LogEntry] = []
        size = 0
        while self._queue and len(batch) < self._limits.apply_batch_max:
            entry = self._queue[0]
            size += len(entry.data)
            if batch and (entry.kind or size > self._limits.apply_batch_bytes_max):
                break
            self._queue.popleft()
            self._queued_bytes -= len(entry.data)
            batch.append(entry)
            if entry.kind:
                break
        return batch

    def _apply(self, batch: list[LogEntry]) -> tuple[list[Applied], list[Digest]]:
        reach("state.apply.before")
        with self._metrics.applies.time():
            outcome = self._states.current.apply(batch, member_changes(batch[0]))
        reach("state.apply.after")
        self._metrics.applied_entries.inc(len(batch))
        self._metrics.apply_batch_entries.observe(len(batch))
        return outcome
