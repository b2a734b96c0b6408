"""Tells about callers whose certificates the replicas refuse, if there are many. Pure.

A replica counts such calls since its start, and logs them. One refused call is nothing to wake
anybody for: a client that was revoked tries again. Many are worth an event.
"""

import datetime as dt
from dataclasses import dataclass

from partition_operator.api.events import Event
from partition_operator.reconcile.observed.partition import ObservedPartition

MANY = 10
"""Refused calls between two looks, at all replicas together, that are worth an event."""
AGAIN = dt.timedelta(minutes=10)
"""The least time between two such events of one Partition."""


@dataclass(frozen=True, slots=True)
class _Told:
    calls: int
    at: dt.datetime | None


class Refusals:
    """Remembers, by Partition, the count of the last look and the time of the last event."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], _Told] = {}

    def forget(self, key: tuple[str, str]) -> None:
        self._seen.pop(key, None)

    def look(self, observed: ObservedPartition) -> Event | None:
        """Returns the event, if there is one to post. The first look only begins to count."""
        key, now = observed.partition.key, observed.now
        calls, last = observed.certificates.refused_calls, observed.certificates.refused_last
        old = self._seen.get(key)
        # A replica that restarts begins at 0, so fewer calls than before are a new beginning.
        more = 0 if old is None or calls < old.calls else calls - old.calls
        at = old.at if old is not None else None
        if more < MANY or (at is not None and now < at + AGAIN):
            # Calls that nobody was told of yet count for the next look.
            base = old.calls if old is not None and 0 < more < MANY else calls
            self._seen[key] = _Told(base, at)
            return None
        self._seen[key] = _Told(calls, now)
        message = f"replicas refused {more} calls because of the caller's certificate: {last}"
        return Event("Warning", "CallersRefused", message)
