"""The work queue: keys in, turns out.

An event only enqueues a key. One key has at most one running turn. A failed turn is retried with
backoff. At most `workers` turns run at once. The queue has at most one item per key.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from partition_common import backoff

from partition_operator.errors import Deposed, OperatorError, text_of

logger = logging.getLogger(__name__)

FAILURES_WARNED = 3
"""From this many failures of one key in a row the log level is WARNING."""


class Key(NamedTuple):
    """kind: selects the turn. A Partition has a second key for the schedule of its snapshots."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


PARTITION = "Partition"
SCHEDULE = "Schedule"
SNAPSHOT = "PartitionSnapshot"


Memory = TypeVar("Memory")


@dataclass(slots=True)
class QueueItem(Generic[Memory]):
    """The state of a key. due: monotonic time of the next turn. asked: an event enqueued the key
    before this turn. again: an event has enqueued it since the turn began. seen, settled: belong to
    the turn: what it last observed, and whether nothing was left to do. Memory: the type of
    seen."""

    due: float = 0.0
    working: bool = False
    asked: bool = False
    again: bool = False
    failures: int = 0
    seen: Memory | None = None
    settled: bool = False
    looked_at: float = field(default_factory=time.monotonic)


Turn = Callable[[Key, QueueItem[Any]], Awaitable[float | None]]
"""Observes an object and acts. Returns the seconds until the next turn; None to forget the key."""


class TurnObserver(Protocol):
    """Learns how long turns wait and take, in seconds, by the kind of their key."""

    def began(self, kind: str, waited_s: float) -> None: ...

    def ended(self, kind: str, seconds: float, *, failed: bool) -> None: ...


class Unobserved:
    """The TurnObserver that keeps nothing."""

    def began(self, kind: str, waited_s: float) -> None:
        pass

    def ended(self, kind: str, seconds: float, *, failed: bool) -> None:
        pass


class WorkQueue:
    """Runs the turns of all keys. Call `serve` before `run`."""

    def __init__(
        self,
        workers: int,
        deposed: Callable[[int], Awaitable[None]],
        observer: TurnObserver | None = None,
    ) -> None:
        self._workers = workers
        self._deposed = deposed
        self._observer: TurnObserver = observer or Unobserved()
        self._turns: Mapping[str, Turn] = {}
        self._entries: dict[Key, QueueItem[Any]] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed = 0
        self.turned_at = time.monotonic()
        """Monotonic time of the loop's last round, for the liveness probe."""

    def serve(self, turns: Mapping[str, Turn]) -> None:
        self._turns = turns

    def enqueue(self, kind: str, namespace: str, name: str) -> None:
        """Requests a turn soon. Cheap; the object need not exist."""
        now = time.monotonic()
        entry = self._entries.setdefault(Key(kind, namespace, name), QueueItem(due=now))
        entry.again = True
        entry.due = min(entry.due, now)
        entry.settled = False
        self._wake.set()

    def enqueue_seen(self, kind: str, concerns: Callable[[Any], bool]) -> None:
        """Requests turns of the keys whose last observation `concerns` selects."""
        for key, entry in list(self._entries.items()):
            if key.kind == kind and entry.seen is not None and concerns(entry.seen):
                self.enqueue(*key)

    def forget(self, namespace: str) -> None:
        """Drops the keys of a namespace. Later calls of `enqueue` add them again."""
        for key, entry in list(self._entries.items()):
            if key.namespace == namespace and not entry.working:
                del self._entries[key]

    @property
    def queued(self) -> int:
        now = time.monotonic()
        return sum(entry.due <= now for entry in self._entries.values())

    @property
    def running(self) -> int:
        """Turns in progress."""
        return len(self._tasks)

    @property
    def age_s(self) -> float:
        """Seconds since the turn is due that has waited longest; 0 if none waits."""
        now = time.monotonic()
        waits = (now - entry.due for entry in self._entries.values() if not entry.working)
        return max(0.0, max(waits, default=0.0))

    async def run(self) -> None:
        slots = asyncio.Semaphore(self._workers)
        while True:
            self.turned_at = now = time.monotonic()
            due = [
                (key, entry)
                for key, entry in self._entries.items()
                if entry.due <= now and not entry.working
            ]
            for key, entry in due:
                await slots.acquire()
                self.turned_at = time.monotonic()
                if self._entries.get(key) is not entry:
                    slots.release()  # forgotten meanwhile
                    continue
                entry.working = True
                task = asyncio.create_task(self._work(key, entry))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                task.add_done_callback(lambda _: slots.release())
            self._wake.clear()
            pending = [e.due for e in self._entries.values() if not e.working]
            pause = min([*pending, now + 1.0]) - time.monotonic()
            try:
                await asyncio.wait_for(self._wake.wait(), max(pause, 0.01))
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Waits up to 20 s for the turns in progress, so that steps are not interrupted."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=20)

    async def _work(self, key: Key, entry: QueueItem[Any]) -> None:
        began, failed = time.monotonic(), True
        self._observer.began(key.kind, began - entry.due)
        try:
            entry.asked, entry.again = entry.again, False
            pause = await self._turns[key.kind](key, entry)
            entry.failures, failed = 0, False
        except Deposed as error:
            pause = await self._token_too_low(key, entry, error)
        except OperatorError as error:
            pause = self._failed(key, entry, error)
        except Exception as error:  # one broken object must not end the others' turns
            logger.exception("%s: unexpected error, a bug of the operator", key)
            pause = self._failed(key, entry, error)
        finally:
            entry.working = False
            self._observer.ended(key.kind, time.monotonic() - began, failed=failed)
            self._wake.set()
        if pause is None and not entry.again:
            self._entries.pop(key, None)
            return
        pause = pause or 0.0
        entry.due = time.monotonic() + (0 if entry.again else pause)

    async def _token_too_low(self, key: Key, entry: QueueItem[Any], error: Deposed) -> float:
        """Handles a replica that has seen a higher token. Either another operator holds the Lease,
        and our next renewal fails, or the Lease was recreated, and we raise our token."""
        try:
            await self._deposed(error.seen)
        except (OperatorError, TimeoutError) as failure:
            logger.warning("%s: the fencing token was not raised: %s", key, text_of(failure))
        return self._failed(key, entry, error)

    def _failed(self, key: Key, entry: QueueItem[Any], error: Exception) -> float:
        self.failed += 1
        pause = backoff.TURN.after(entry.failures + 1)
        entry.failures += 1
        entry.seen = None
        logger.log(
            logging.INFO if entry.failures < FAILURES_WARNED else logging.WARNING,
            "%s: %s; next try in %.1f s",
            key,
            text_of(error),
            pause,
        )
        return pause * random.uniform(0.8, 1.2)  # noqa: S311  # spreads retries, no secret
