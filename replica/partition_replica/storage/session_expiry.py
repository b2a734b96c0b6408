"""Finds expired sessions without reading all of them.

A heap in memory, derived from the state's session rows, has the earliest time at which each session
can expire. If a session has become active since, it is pushed again with its new time when its old
time is reached. So opening a session takes logarithmic time in the number of sessions.
"""

import heapq
from collections.abc import Callable, Iterable

from partition_replica.core.model import Session
from partition_replica.ids import SessionID

EMPTY_PLACES_MAX = 1024
"""The heap is rebuilt if deleted sessions have more places than existing ones plus this."""


class SessionExpiry:
    """The expiry of one state's sessions. Used only by the thread that applies. It is loaded from
    the rows at its first use; earlier changes are in these rows."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int]] = []
        self.loaded = False
        self.count = 0

    def load(self, sessions: Iterable[tuple[SessionID, Session]]) -> None:
        """Loads all stored sessions."""
        self._heap = [(row.lives_until_ms, int(session)) for session, row in sessions]
        heapq.heapify(self._heap)
        self.count = len(self._heap)
        self.loaded = True

    def add(self, session: SessionID, row: Session) -> None:
        """Adds a new session."""
        if self.loaded:
            heapq.heappush(self._heap, (row.lives_until_ms, int(session)))
            self.count += 1

    def remove(self) -> None:
        """Counts the deletion of a session. Its place in the heap is removed when its time is
        reached. If most places are unused, the heap is rebuilt at its next use."""
        if not self.loaded:
            return
        self.count -= 1
        if len(self._heap) > 2 * self.count + EMPTY_PLACES_MAX:
            self._heap.clear()
            self.loaded = False

    def expired(self, clock_ms: int, get: Callable[[SessionID], Session | None]) -> list[SessionID]:
        """The sessions that have expired at `clock_ms`, ascending; the caller deletes them."""
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
