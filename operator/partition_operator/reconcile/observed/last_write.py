"""The result of the last write of each object, and when the same content may be written again.
Pure.

The same content is written again for two reasons: the API server refused it, or another writer has
changed the object. Backoff limits both, so that neither a quota nor a webhook causes a hot loop.
"""

import datetime as dt
from dataclasses import dataclass

from partition_common import backoff

Key = tuple[str, str]
"""Kind and name of an object."""

AT_ONCE_MAX = 3
"""How often the same content is written without a pause."""
CALM = dt.timedelta(minutes=15)
"""After this time without a change by another writer, the count starts again at 1."""
WORDS_MAX = 1000
"""Characters of a refusal that are kept. Some refusals contain the whole object."""


@dataclass(frozen=True, slots=True)
class Write:
    """wanted: hash of the content. left: fingerprint of the object as stored, "" if the API server
    refused it. refusal: the API server's message. tries: how often this content was written in a
    row. retry_at: None if the same content may be written again at once."""

    wanted: str
    at: dt.datetime
    tries: int = 1
    retry_at: dt.datetime | None = None
    left: str = ""
    refusal: str = ""

    @property
    def undone(self) -> bool:
        """Whether another writer keeps changing the object."""
        return not self.refusal and self.tries > AT_ONCE_MAX


def taken(last: Write | None, wanted: str, left: str, now: dt.datetime) -> Write:
    """Returns the record of an accepted write."""
    again = last is not None and last.wanted == wanted and not last.refusal
    tries = last.tries + 1 if last is not None and again and now - last.at < CALM else 1
    over = tries - AT_ONCE_MAX
    if over <= 0:
        return Write(wanted, now, tries, left=left)
    pause = backoff.WRITE_UNDONE.after(over)
    return Write(wanted, now, tries, now + dt.timedelta(seconds=pause), left=left)


def refused(last: Write | None, wanted: str, words: str, now: dt.datetime) -> Write:
    """Returns the record of a refused write."""
    again = last is not None and last.wanted == wanted and last.refusal
    tries = last.tries + 1 if last is not None and again else 1
    pause = backoff.WRITE_REFUSED.after(tries)
    words = words if len(words) <= WORDS_MAX else words[:WORDS_MAX] + " …"
    return Write(wanted, now, tries, now + dt.timedelta(seconds=pause), refusal=words)


class WriteRecords:
    """The records of every Partition, kept in memory. A lost record costs one more try."""

    def __init__(self) -> None:
        self._by_partition: dict[tuple[str, str], dict[Key, Write]] = {}

    def of(self, partition: tuple[str, str]) -> dict[Key, Write]:
        """Returns a copy of the records, by object. Later writes do not change it."""
        return dict(self._by_partition.get(partition, {}))

    def note_taken(
        self, partition: tuple[str, str], key: Key, wanted: str, left: str, now: dt.datetime
    ) -> None:
        known = self._by_partition.setdefault(partition, {})
        known[key] = taken(known.get(key), wanted, left, now)

    def note_refused(
        self, partition: tuple[str, str], key: Key, wanted: str, words: str, now: dt.datetime
    ) -> None:
        known = self._by_partition.setdefault(partition, {})
        known[key] = refused(known.get(key), wanted, words, now)

    def forget(self, partition: tuple[str, str]) -> None:
        """Drops the records of a Partition that was deleted or that another operator manages."""
        self._by_partition.pop(partition, None)


def held(last: Write | None, wanted: str, now: dt.datetime) -> bool:
    """Whether this content must not be written yet."""
    return last is not None and last.wanted == wanted and pause_s(last, now) is not None


def pause_s(last: Write, now: dt.datetime) -> float | None:
    """Returns the seconds until the next try, or None if there is nothing to wait for. A record in
    the future does not delay the next try, because the clock was set back since."""
    if last.retry_at is None or not last.at <= now < last.retry_at:
        return None
    return (last.retry_at - now).total_seconds()
