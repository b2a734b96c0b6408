"""How much of a log may go. Pure: `runtime.consensus.compactor` and `storage` do it.

Words (docs/log.md, Positions): *low-water mark*, the lowest LSN that positions require;
*boundary*, the LSN up to which Raft's log is compacted; *trail*, entries kept below the mark for
slow followers, so that they need no snapshot: no longer than so many entries, and so many bytes.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from partition_replica.core.limits import Limits
from partition_replica.ids import LSN, Digest

APPLIED = "applied"
"""The position of the state machine: what is durable there. Always registered."""

SNAPSHOT = "snapshot"
"""The lowest LSN that is held in memory: for a snapshot on its way to a follower, or a pinned
state. The log behind it is still needed."""

RESERVED = frozenset({APPLIED, SNAPSHOT, "committed"})

CONSUMERS_MAX = 64
"""Consumers a replica keeps positions of."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


def check_consumer_name(name: str) -> None:
    """Raises ValueError."""
    if name in RESERVED or not _NAME.fullmatch(name):
        raise ValueError(
            f"consumer name {name!r}: allowed are 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning "
            f"and ending with a letter or digit, and not {', '.join(sorted(RESERVED))}"
        )


def low_water_mark(positions: Mapping[str, LSN]) -> LSN:
    """The lowest LSN that must be kept: min(all registered positions) + 1; 1 where none is."""
    return LSN(min(positions.values(), default=0) + 1)


def promised_mark(mark: LSN, first_stored: LSN) -> LSN:
    """The lowest LSN that a consumer can count on: what is not stored is not promised, though a
    position may still ask for it. Its consumer came too late: it fell too far behind, or the
    replica was caught up by a state transfer, which brings no log."""
    return max(mark, first_stored)


def with_held(positions: Mapping[str, LSN], held: Collection[LSN]) -> dict[str, LSN]:
    """The positions, with the lowest LSN that is `held` in memory, if any is."""
    return {**positions, SNAPSHOT: min(held)} if held else dict(positions)


def holding(
    positions: Mapping[str, LSN],
    held: Collection[LSN],
    last: LSN,
    consumer_lag_entries_max: int,
) -> dict[str, LSN]:
    """What holds the log: all `positions`, and what is `held` in memory. A consumer or a hold that
    is more than `consumer_lag_entries_max` entries behind the log's end does not count; the others
    do. A consumer that is left behind meets Compacted, reads the state, and goes on from there. If
    it counted, one that is gone for good would fill the volume."""
    near = {
        name: lsn
        for name, lsn in positions.items()
        if name == APPLIED or last - lsn <= consumer_lag_entries_max
    }
    return with_held(near, [lsn for lsn in held if last - lsn <= consumer_lag_entries_max])


def compaction_target(
    mark: LSN, boundary: LSN, *, trail_entries: int, step_entries: int, trail_start: LSN
) -> LSN | None:
    """The LSN up to which to compact, or None where it is not worth a transaction: fewer than
    `step_entries` would go. Of what lies below the mark `trail_entries` stay, but nothing up to
    `trail_start`, behind which the bytes are few enough; for bytes no step is too small."""
    target = LSN(mark - 1 - trail_entries)
    if trail_start > max(target, boundary):
        return trail_start
    if target - boundary < max(step_entries, 1):
        return None
    return target


MEASURED_ENTRIES_MAX = 32_768
"""Entries that `Trail.measure` reads in one go: some ten milliseconds."""


class Trail:
    """How many bytes the trail has: a window (start, end] of entries that slides up with the mark.

    Sizes are read from the log as entries come in at the upper end and again as they leave at the
    lower one: twice an entry, and nothing is kept in memory but for blobs that the log alone
    names. A restart begins at the boundary again and catches up, MEASURED_ENTRIES_MAX a call;
    until then `start` is too low, so too much is kept.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._start = self._end = self._bytes = 0
        self._boundary = 0
        self._blobs: dict[int, dict[Digest, int]] = {}
        self._where: dict[Digest, int] = {}

    def weigh(self, lsn: LSN, digest: Digest, size: int) -> None:
        """A blob counts with the entry at an LSN, and with no other any more."""
        if lsn <= self._boundary:
            return
        if digest in self._where:
            self._take(self._where[digest], digest)
        self._where[digest] = lsn
        self._blobs.setdefault(lsn, {})[digest] = size
        if self._start < lsn <= self._end:
            self._bytes += size

    def measure(
        self, boundary: LSN, end: LSN, low: LSN, sizes: Callable[[int, int], Iterable[int]]
    ) -> LSN:
        """The lowest LSN behind which the entries up to `end` have few enough bytes, or `low` where
        that is higher. `sizes(lo, hi)` are those of the entries [lo, hi), one by one."""
        self._forget_up_to(boundary)
        if boundary > self._start or end < self._end:
            # Compacted by somebody else, or a position came that is lower: measured anew.
            self._start = self._end = int(boundary)
            self._bytes = 0
        until = min(int(end), self._end + MEASURED_ENTRIES_MAX)
        for size in sizes(self._end + 1, until + 1):
            self._end += 1
            self._bytes += size + self._weight(self._end)
        for size in sizes(self._start + 1, self._end + 1):
            if self._bytes <= self._bytes_max and self._start >= low:
                break
            self._start += 1
            self._bytes -= size + self._weight(self._start)
        return LSN(self._start)

    def truncate(self, lsn: LSN) -> None:
        """Entries from an LSN on went; they are above every position."""
        for index in [index for index in self._blobs if index >= lsn]:
            for digest in list(self._blobs[index]):
                self._take(index, digest)

    def _weight(self, lsn: int) -> int:
        return sum(self._blobs[lsn].values()) if lsn in self._blobs else 0

    def _forget_up_to(self, boundary: LSN) -> None:
        """Blobs of entries that Raft's log has no more: each entry is looked at once."""
        passed = range(self._boundary + 1, boundary + 1)
        if len(passed) > len(self._blobs):
            found = [index for index in self._blobs if index <= boundary]
        else:
            found = [index for index in passed if index in self._blobs]
        for index in found:
            for digest in list(self._blobs[index]):
                self._take(index, digest)
        self._boundary = max(self._boundary, int(boundary))

    def _take(self, lsn: int, digest: Digest) -> None:
        blobs = self._blobs[lsn]
        size = blobs.pop(digest)
        del self._where[digest]
        if not blobs:
            del self._blobs[lsn]
        if self._start < lsn <= self._end:
            self._bytes -= size


@dataclass(frozen=True, slots=True)
class LogRetention:
    """What is kept beyond what positions require. keep_all: everything, for debugging."""

    trail_entries: int = 0
    consumer_lag_entries_max: int = 1 << 62
    keep_all: bool = False
    trail_bytes: int = 1 << 62

    @staticmethod
    def of(limits: Limits, *, keep_all: bool = False) -> "LogRetention":
        """A replica's with these limits."""
        return LogRetention(
            trail_entries=limits.log_trail_entries,
            consumer_lag_entries_max=limits.consumer_lag_entries_max,
            keep_all=keep_all,
            trail_bytes=limits.log_trail_bytes,
        )
