"""The work queue: keys in, turns out.

An event only enqueues a key. One key has at most one running turn. A failed turn is retried with
backoff. At most `workers` turns run at once. The queue has at most one item per key.

A change goes ahead of the turns that are due only because time has passed, or because a listing
named the object. So a change is followed soon while a restarted operator looks at everything, and
also if the operator can't keep up. The others get a share, so neither waits for ever.
"""

import asyncio
import heapq
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from partition_common import backoff

from partition_operator.errors import Deposed, OperatorError, text_of

logger = logging.getLogger(__name__)

FAILURES_WARNED = 3
"""From this many failures of one key in a row the log level is WARNING."""
LOOK_S = 1.0
"""Longest time between two rounds of the loop without a turn."""
PAUSE_MIN_S = 0.01
CHANGES_IN_A_ROW_MAX = 4
"""So many turns of changes begin before one that is due for another reason, if one waits."""


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


class Version(NamedTuple):
    """One version of one object: its uid and its resourceVersion."""

    uid: str
    version: str


class News(NamedTuple):
    """What an event tells. version: of the object; None if it was deleted. listed: the event is of
    a listing, so nothing need have changed."""

    version: Version | None
    listed: bool = False


CHANGED = News(None)
"""Something has changed; which object is not known."""

Memory = TypeVar("Memory")


@dataclass(slots=True)
class QueueItem(Generic[Memory]):
    """The state of a key. due: monotonic time of the next turn. urgent: that turn is due because
    something has changed. asked: an event enqueued the key before this turn. heard: what events
    told since the turn began. seen, known, settled: belong to the turn: what it last observed, the
    versions of the objects that it has observed and written, and whether nothing was left to do.
    Memory: the type of seen. ticket: of the queue, which of its entries for the key counts."""

    due: float = 0.0
    working: bool = False
    urgent: bool = False
    asked: bool = False
    heard: set[News] = field(default_factory=set)
    failures: int = 0
    seen: Memory | None = None
    known: frozenset[Version] = frozenset()
    settled: bool = False
    looked_at: float = field(default_factory=time.monotonic)
    ticket: int = 0

    def knows(self, news: News) -> bool:
        """Whether the last turn has already taken this into account: it observed that version or a
        later one."""
        return news.version is not None and news.version in self.known


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


_Entry = tuple[float, int, Key]
"""By what entries are ordered, the ticket, and the key."""


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
        self._later: list[_Entry] = []
        """A heap by the time at which a turn is due. An entry with an old ticket counts no more."""
        self._changed: list[_Entry] = []
        """A heap of the turns that are due because something has changed, the oldest first."""
        self._ready: list[_Entry] = []
        """A heap of the other turns that are due, the oldest first."""
        self._in_a_row = 0
        """Turns of changes since the last other one."""
        self._tickets = 0
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.failed = 0
        self.turned_at = time.monotonic()
        """Monotonic time of the loop's last round, for the liveness probe."""

    def serve(self, turns: Mapping[str, Turn]) -> None:
        self._turns = turns

    def enqueue(self, kind: str, namespace: str, name: str, news: News = CHANGED) -> None:
        """Requests a turn soon, unless the last turn has already taken the news into account.
        Cheap; the object need not exist."""
        key = Key(kind, namespace, name)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = QueueItem(due=math.inf)
        entry.heard.add(news)
        if entry.working:
            return  # only the end of the turn shows what it took into account
        if entry.knows(news):
            entry.heard.discard(news)
            return
        self._request(key, entry)

    def _request(self, key: Key, entry: QueueItem[Any]) -> None:
        """Makes a turn due now, because of what was heard."""
        now = time.monotonic()
        urgent = entry.urgent or not all(news.listed for news in entry.heard)
        entry.settled = False
        if entry.due <= now and entry.urgent == urgent:
            return  # it is due already
        entry.urgent = urgent
        self._put(key, entry, min(entry.due, now))

    def _put(self, key: Key, entry: QueueItem[Any], due: float) -> None:
        """Sets when the next turn is due. Replaces what was set before."""
        entry.due = due
        self._tickets += 1
        entry.ticket = self._tickets
        if due <= time.monotonic():
            self._make_ready(key, entry)
        else:
            heapq.heappush(self._later, (due, entry.ticket, key))
        self._wake.set()

    def _make_ready(self, key: Key, entry: QueueItem[Any]) -> None:
        heap = self._changed if entry.urgent else self._ready
        heapq.heappush(heap, (entry.due, entry.ticket, key))

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
            # First a worker, then the choice: what changes meanwhile goes ahead.
            await slots.acquire()
            key, entry = await self._next()
            entry.working, entry.urgent = True, False
            task = asyncio.create_task(self._work(key, entry))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: slots.release())

    async def _next(self) -> tuple[Key, QueueItem[Any]]:
        """Waits for a turn that is due, and takes it from the queue."""
        while True:
            self.turned_at = now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                _, ticket, key = heapq.heappop(self._later)
                if (entry := self._entry(key, ticket)) is not None:
                    self._make_ready(key, entry)
            if (found := self._take()) is not None:
                return found
            self._wake.clear()
            next_due = self._later[0][0] if self._later else now + LOOK_S
            pause = min(next_due, now + LOOK_S) - time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(pause, PAUSE_MIN_S))

    def _take(self) -> tuple[Key, QueueItem[Any]] | None:
        """Takes the turn that is to begin next; None if none is due."""
        heaps = [self._changed, self._ready]
        if self._in_a_row >= CHANGES_IN_A_ROW_MAX:
            heaps.reverse()
        for heap in heaps:
            while heap:
                _, ticket, key = heapq.heappop(heap)
                if (entry := self._entry(key, ticket)) is not None:
                    self._in_a_row = self._in_a_row + 1 if heap is self._changed else 0
                    return key, entry
        return None

    def _entry(self, key: Key, ticket: int) -> QueueItem[Any] | None:
        """Returns the item of an entry; None if the entry counts no more."""
        entry = self._entries.get(key)
        return None if entry is None or entry.working or entry.ticket != ticket else entry

    async def close(self) -> None:
        """Waits up to 20 s for the turns in progress, so that steps are not interrupted."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=20)

    async def _work(self, key: Key, entry: QueueItem[Any]) -> None:
        began, failed = time.monotonic(), True
        self._observer.began(key.kind, began - entry.due)
        try:
            entry.asked = bool(entry.heard)
            entry.heard.clear()
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
        entry.heard = {news for news in entry.heard if not entry.knows(news)}
        if pause is None and not entry.heard:
            self._entries.pop(key, None)
            return
        self._put(key, entry, time.monotonic() + (pause or 0.0))
        if entry.heard:
            self._request(key, entry)

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
        entry.seen, entry.known = None, frozenset()
        logger.log(
            logging.INFO if entry.failures < FAILURES_WARNED else logging.WARNING,
            "%s: %s; next try in %.1f s",
            key,
            text_of(error),
            pause,
        )
        return pause * random.uniform(0.8, 1.2)  # noqa: S311  # spreads retries, no secret
