"""The one queue: keys in, turns out.

An event only says which object to look at again. A key is worked on by one worker at a time, errors
back off, `workers` bounds how many turns run at once; the queue is as long as there are objects.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from partition_common import backoff

from partition_operator.errors import Deposed, OperatorError, text_of

logger = logging.getLogger(__name__)

FAILURES_WARNED = 3
"""Failures of one key in a row from which on the log warns."""


class Key(NamedTuple):
    """kind: which turn works on it; a Partition has one of its own for its snapshots' schedule."""

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
    """What the queue knows of a key. `seen` and `settled` belong to the turn: what it saw last, and
    whether it was content. Memory: the type of what a turn of this kind sees. `asked`: somebody
    asked for this turn; `again`: since it began."""

    due: float = 0.0
    working: bool = False
    asked: bool = False
    again: bool = False
    failures: int = 0
    seen: Memory | None = None
    settled: bool = False
    looked_at: float = field(default_factory=time.monotonic)


Turn = Callable[[Key, QueueItem[Any]], Awaitable[float | None]]
"""Looks at an object and acts; returns seconds until the next look, None to forget the key."""


class WorkQueue:
    """Give it its turns, by kind, before it runs."""

    def __init__(self, workers: int, deposed: Callable[[int], Awaitable[None]]) -> None:
        self._workers = workers
        self._deposed = deposed
        self._turns: Mapping[str, Turn] = {}
        self._entries: dict[Key, QueueItem[Any]] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed = 0
        self.turned_at = time.monotonic()
        """When the loop last turned: what liveness looks at."""

    def serve(self, turns: Mapping[str, Turn]) -> None:
        self._turns = turns

    def enqueue(self, kind: str, namespace: str, name: str) -> None:
        """Looks at an object soon; cheap, and safe to call for what does not exist."""
        entry = self._entries.setdefault(Key(kind, namespace, name), QueueItem())
        entry.again = True
        entry.due = min(entry.due, time.monotonic())
        entry.settled = False
        self._wake.set()

    def forget(self, namespace: str) -> None:
        """Looks at nothing of a namespace any more, until something of it is enqueued again."""
        for key, entry in list(self._entries.items()):
            if key.namespace == namespace and not entry.working:
                del self._entries[key]

    @property
    def queued(self) -> int:
        now = time.monotonic()
        return sum(entry.due <= now for entry in self._entries.values())

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
        """Lets what is under way end: a step is never cut in the middle by us."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=20)

    async def _work(self, key: Key, entry: QueueItem[Any]) -> None:
        try:
            entry.asked, entry.again = entry.again, False
            pause = await self._turns[key.kind](key, entry)
            entry.failures = 0
        except Deposed as error:
            pause = await self._token_too_low(key, entry, error)
        except OperatorError as error:
            pause = self._failed(key, entry, error)
        except Exception as error:  # one broken object must not end the others' turns
            logger.exception("%s: a defect of the operator", key)
            pause = self._failed(key, entry, error)
        finally:
            entry.working = False
            self._wake.set()
        if pause is None and not entry.again:
            self._entries.pop(key, None)
            return
        pause = pause or 0.0
        entry.due = time.monotonic() + (0 if entry.again else pause)

    async def _token_too_low(self, key: Key, entry: QueueItem[Any], error: Deposed) -> float:
        """A replica saw a higher token: either another operator leads, and renewing our lease fails
        soon, or the Lease was made anew since, and we go above."""
        try:
            await self._deposed(error.seen)
        except (OperatorError, TimeoutError) as failure:
            logger.warning("%s: token not raised: %s", key, text_of(failure))
        return self._failed(key, entry, error)

    def _failed(self, key: Key, entry: QueueItem[Any], error: Exception) -> float:
        self.failed += 1
        pause = backoff.TURN.after(entry.failures + 1)
        entry.failures += 1
        entry.seen = None
        logger.log(
            logging.INFO if entry.failures < FAILURES_WARNED else logging.WARNING,
            "%s: %s; again in %.1f s",
            key,
            text_of(error),
            pause,
        )
        return pause * random.uniform(0.8, 1.2)  # noqa: S311  # spreads retries, no secret
