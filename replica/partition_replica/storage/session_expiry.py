"""Which sessions have expired, without looking at all of them.

Derived from the state's session rows and kept in memory: a heap of moments before which no session
can expire. A session that became active since is put back with its true moment when its turn comes,
so opening a session costs a logarithm, however many there are.
"""

import heapq
from collections.abc import Callable, Iterable

from partition_replica.core.model import Session
from partition_replica.ids import SessionID

EMPTY_PLACES_MAX = 1024
"""Places of sessions that are gone, beyond as many as there are sessions."""


class SessionExpiry:
    """Of one state. Used by the one thread that applies. It is loaded when it is asked the first
    time; what comes and goes before that is in the rows that it is loaded from."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self.loaded = False
        self.count = 0

    def load(self, sessions: Iterable[tuple[SessionID, Session]]) -> None:
        """All sessions that are stored."""
        self._heap = [(row.lives_until_ms, int(session)) for session, row in sessions]
        heapq.heapify(self._heap)
        self.count = len(self._heap)
        self.loaded = True

    def add(self, session: SessionID, row: Session) -> None:
        """A session that did not exist."""
        if self.loaded:
            heapq.heappush(self._heap, (row.lives_until_ms, int(session)))
            self.count += 1

    def remove(self) -> None:
        """A session that existed goes. Its place in the heap goes when its turn comes, or when most
        places are empty: then the heap is made anew when it is asked the next time."""
        if not self.loaded:
            return
        self.count -= 1
        if len(self._heap) > 2 * self.count + EMPTY_PLACES_MAX:
            self._heap.clear()
            self.loaded = False

    def expired(self, clock_ms: int, get: Callable[[SessionID], Session | None]) -> list[SessionID]:
        """Every session that has expired at `clock_ms`, ascending; the caller deletes them."""
        found: set[SessionID] = set()
        while self._heap and self._heap[0][0] < clock_ms:
            session = SessionID(heapq.heappop(self._heap)[1])
            row = get(session)
            if row is None:
                continue
            if row.expired(clock_ms):
                found.add(session)
            else:
                heapq.heappush(self._heap, (row.lives_until_ms, int(session)))
        return sorted(found)
