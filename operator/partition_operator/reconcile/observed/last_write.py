"""What became of the last write of an object, and when the same one may be tried again. Pure.

The same content is written again for two reasons: the API server refused it, or somebody changed
the object since. Both are bounded, so that neither a quota nor a webhook makes a hot loop.
"""

import datetime as dt
from dataclasses import dataclass

from partition_common import backoff

Key = tuple[str, str]
"""Kind and name of an object."""

AT_ONCE_MAX = 3
"""The same content is written so often without a pause."""
CALM = dt.timedelta(minutes=15)
"""Content that stood for so long was not undone by a machine: the count starts anew."""
WORDS_MAX = 1000
"""Characters of a refusal that are kept: some contain the whole object."""


@dataclass(frozen=True, slots=True)
class Write:
    """wanted: hash of the content. left: fingerprint of the object as the API server left it, "" if
    it refused. refusal: its words. tries: how often this content was written in a row. retry_at:
    None if the same content may be written again at once."""

    wanted: str
    at: dt.datetime
    tries: int = 1
    retry_at: dt.datetime | None = None
    left: str = ""
    refusal: str = ""

    @property
    def undone(self) -> bool:
        """Somebody else keeps changing what we write."""
        return not self.refusal and self.tries > AT_ONCE_MAX


def taken(last: Write | None, wanted: str, left: str, now: dt.datetime) -> Write:
    """The record of a write that the API server took."""
    again = last is not None and last.wanted == wanted and not last.refusal
    tries = last.tries + 1 if last is not None and again and now - last.at < CALM else 1
    over = tries - AT_ONCE_MAX
    if over <= 0:
        return Write(wanted, now, tries, left=left)
    pause = backoff.WRITE_UNDONE.after(over)
    return Write(wanted, now, tries, now + dt.timedelta(seconds=pause), left=left)


def refused(last: Write | None, wanted: str, words: str, now: dt.datetime) -> Write:
    """The record of a write that the API server refused."""
    again = last is not None and last.wanted == wanted and last.refusal
    tries = last.tries + 1 if last is not None and again else 1
    pause = backoff.WRITE_REFUSED.after(tries)
    words = words if len(words) <= WORDS_MAX else words[:WORDS_MAX] + " …"
    return Write(wanted, now, tries, now + dt.timedelta(seconds=pause), refusal=words)


class WriteRecords:
    """The records of every Partition, kept in memory. One that is lost costs a try more."""

    def __init__(self) -> None:
        self._by_partition: dict[tuple[str, str], dict[Key, Write]] = {}

    def of(self, partition: tuple[str, str]) -> dict[Key, Write]:
        """By object. A copy: what is written later was not seen."""
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
        """Of a Partition that is gone, or that another operator manages."""
        self._by_partition.pop(partition, None)


def held(last: Write | None, wanted: str, now: dt.datetime) -> bool:
    """Whether this content must not be written yet."""
    return last is not None and last.wanted == wanted and pause_s(last, now) is not None


def pause_s(last: Write, now: dt.datetime) -> float | None:
    """Seconds until the next try, or None if there is nothing to wait for. A write in the future
    holds nothing: the clock was set back since, nobody knows by how much."""
    if last.retry_at is None or not last.at <= now < last.retry_at:
        return None
    return (last.retry_at - now).total_seconds()
