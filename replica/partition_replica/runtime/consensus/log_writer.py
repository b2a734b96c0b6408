"""The log's only writer: a thread that commits queued batches in order, several at a time."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from partition_replica.core.model import LogBatch
from partition_replica.core.ports import EntryWriter
from partition_replica.errors import DiskFull, Fatal, ReplicaError
from partition_replica.ids import Digest
from partition_replica.runtime.metrics import Metrics

logger = logging.getLogger(__name__)

T = TypeVar("T")

BATCH_ENTRIES_MAX = 4096

CHECKPOINT_AFTER_S = 1.0
"""The time without a batch after which the log's tables take over its journal."""

CHECKPOINT_AGAIN_S = 10.0
"""After this time it is tried again if the disk was full."""


@dataclass(slots=True)
class _Write:
    number: int
    batch: LogBatch


@dataclass(slots=True)
class _Call:
    body: Callable[[], Any]
    future: "asyncio.Future[Any]"


class LogWriter:
    """Writes batches durably and in order.

    After each commit, `persisted(number of the last batch, blobs that the log no longer names)` is
    called on the event loop. After an error, `failed` is called there and nothing more is written.
    """

    def __init__(
        self,
        log: EntryWriter,
        loop: asyncio.AbstractEventLoop,
        metrics: Metrics,
        *,
        persisted: Callable[[int, list[Digest]], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._loop = loop
        self._metrics = metrics
        self._persisted = persisted
        self._failed = failed
        self._queue: queue.SimpleQueue[_Write | _Call | None] = queue.SimpleQueue()
        self._checkpoint_at = time.monotonic() + CHECKPOINT_AFTER_S
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        """Starts the thread. A simulation, which has no threads, overrides it."""
        self._thread.start()

    def write(self, number: int, batch: LogBatch) -> None:
        """Queues a batch, which the writer does not change. Each `number` is above the last one."""
        self._queue.put(_Write(number, batch))

    async def call(self, body: Callable[[], T]) -> T:
        """Runs `body` on the writer's thread between commits, in order, and returns its result.

        Raises ValueError, KeyError and a non-fatal ReplicaError of `body`. Any other error ends the
        writer.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Call(body, future))
        return await future

    def close(self) -> None:
        """Writes what waits, then ends the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except BaseException as error:  # after any error, nothing more may be reported durable
            self._loop.call_soon_threadsafe(self._failed, error)

    def _next(self) -> "_Write | _Call | None":
        """Waits for the next item. A log that gets no batch for a while makes a checkpoint."""
        while self._log.journaled_count:
            left = self._checkpoint_at - time.monotonic()
            try:
                return self._queue.get(timeout=max(0.0, left))
            except queue.Empty:
                self._checkpoint()
        return self._queue.get()

    def _checkpoint(self) -> None:
        try:
            with self._metrics.log_checkpoints.time():
                self._log.checkpoint()
        except DiskFull as error:
            logger.warning("%s", error)
            self._checkpoint_at = time.monotonic() + CHECKPOINT_AGAIN_S
        self._count_journaled()

    def _count_journaled(self) -> None:
        self._metrics.log_journaled.set(self._log.journaled_count)

    def _step(self) -> bool:
        item = self._next()
        while isinstance(item, _Write):
            item = self._commit(item)
        if item is None:
            return False
        if isinstance(item, _Call):
            self._call(item)
            self._count_journaled()  # a transaction took it over
        return True

    def _call(self, item: _Call) -> None:
        try:
            result = item.body()
        except Fatal:
            raise
        except (ReplicaError, ValueError, KeyError) as error:
            self._loop.call_soon_threadsafe(_fail, item.future, error)
        else:
            self._loop.call_soon_threadsafe(_resolve, item.future, result)

    def _commit(self, first: _Write) -> "_Write | _Call | None":
        """Commits `first` and batches queued after it. Returns a taken item that it left out."""
        # Copied, because the engine uses the given list, too.
        batch, number = replace(first.batch, entries=list(first.batch.entries)), first.number
        following: _Write | _Call | None = _EMPTY
        while batch.snapshot is None and len(batch.entries) < BATCH_ENTRIES_MAX:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if not isinstance(following, _Write) or following.batch.snapshot is not None:
                break
            batch.entries.extend(following.batch.entries)
            batch.hard_state = following.batch.hard_state or batch.hard_state
            number = following.number
            following = _EMPTY
        with self._metrics.log_commits.time():
            released = self._log.commit(batch)
        self._metrics.log_entries.inc(len(batch.entries))
        self._checkpoint_at = time.monotonic() + CHECKPOINT_AFTER_S
        self._count_journaled()
        self._loop.call_soon_threadsafe(self._persisted, number, released)
        return following


def _nothing() -> None:
    """The body of the placeholder below."""


_EMPTY = _Call(_nothing, None)  # type: ignore[arg-type]  # a placeholder, never awaited


def _resolve(future: "asyncio.Future[Any]", result: Any) -> None:
    if future is not None and not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[Any]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
