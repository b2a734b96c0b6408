"""Decides how far a log is compacted. Pure: `runtime.consensus.compactor` and `storage` do it.

Terms (docs/log.md, Positions): the *low-water mark* is the lowest LSN that a position needs; the
*boundary* is the LSN up to which Raft's log is compacted; the *trail* is the entries that stay
below the mark, so that slow followers need no state transfer. The trail is bounded in entries and
in bytes.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from partition_replica.core.limits import Limits
from partition_replica.ids import LSN, Digest

APPLIED = "applied"
"""The position of the state machine: its durable applied LSN. Always registered."""

SNAPSHOT = "snapshot"
"""The lowest LSN of the holds, which are in memory: of a state transfer in progress, or of a pinned
state. They need the log after it."""

RESERVED = frozenset({APPLIED, SNAPSHOT, "committed"})

CONSUMERS_MAX = 64
"""The maximum number of a replica's consumers."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")


def check_consumer_name(name: str) -> None:
    """Raises ValueError."""
    if name in RESERVED or not _NAME.fullmatch(name):
        raise ValueError(
            f"consumer name {name!r} is not allowed: give 1 to 63 of a-z, 0-9, '.', '_' and '-', "
            "beginning and ending with a letter or digit, and not "
            f"{', '.join(sorted(RESERVED))}"
        )


def low_water_mark(positions: Mapping[str, LSN]) -> LSN:
    """The lowest LSN that must be kept: min(all positions) + 1, or 1 without a position."""
    return LSN(min(positions.values(), default=0) + 1)


def promised_mark(mark: LSN, first_stored: LSN) -> LSN:
    """The lowest LSN that a consumer can rely on. A position may be below the first stored LSN: its
    consumer fell too far behind, or a state transfer, which does not include the log, replaced the
    entries."""
    return max(mark, first_stored)


def with_held(positions: Mapping[str, LSN], held: Collection[LSN]) -> dict[str, LSN]:
    """The positions, with the lowest of the `held` LSNs, if there are any."""
    return {**positions, SNAPSHOT: min(held)} if held else dict(positions)


def holding(
    positions: Mapping[str, LSN],
    held: Collection[LSN],
    last: LSN,
    consumer_lag_entries_max: int,
) -> dict[str, LSN]:
    """The positions and holds that keep the log. A consumer or a hold that is more than
    `consumer_lag_entries_max` entries behind the log's end does not keep it. Otherwise an abandoned
    consumer would fill the volume. A consumer that is too far behind gets Compacted, reads the
    state, and continues from its LSN."""
    near = {
        name: lsn
        for name, lsn in positions.items()
        if name == APPLIED or last - lsn <= consumer_lag_entries_max
    }
    return with_held(near, [lsn for lsn in held if last - lsn <= consumer_lag_entries_max])


def compaction_target(
    mark: LSN, boundary: LSN, *, trail_entries: int, step_entries: int, trail_start: LSN
) -> LSN | None:
    """The LSN up to which to compact, or None to do nothing.

    `trail_entries` entries below the mark stay. Fewer than `step_entries` are not worth a
    transaction. But the entries up to `trail_start`, which exceed the trail's limit in bytes, are
    always compacted."""
    target = LSN(mark - 1 - trail_entries)
    if trail_start > max(target, boundary):
        return trail_start
    if target - boundary < max(step_entries, 1):
        return None
    return target


MEASURED_ENTRIES_MAX = 32_768
"""The maximum number of entries that one call of `Trail.measure` reads: some ten milliseconds."""


class Trail:
    """Measures the trail's bytes: a window (start, end] of entries that moves up with the mark.

    An entry's size is read from the log twice: when it enters the window at the upper end, and when
    it leaves it at the lower end. Only the sizes of blobs that only the log names are in memory.
    After a restart, the window begins at the boundary and catches up, MEASURED_ENTRIES_MAX per
    call. Until then `start` is too low, so the log keeps more than needed.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._start = self._end = self._bytes = 0
        self._boundary = 0
        self._blobs: dict[int, dict[Digest, int]] = {}
        self._where: dict[Digest, int] = {}

    def weigh(self, lsn: LSN, digest: Digest, size: int) -> None:
        """Counts a blob with the entry at an LSN, instead of an earlier entry."""
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
        """The lowest LSN, at least `low`, for which the entries after it and up to `end` fit the
        limit in bytes. `sizes(lo, hi)` iterates over the sizes of the entries [lo, hi)."""
        self._forget_up_to(boundary)
        if boundary > self._start or end < self._end:
            # Compacted elsewhere, or a lower position was added: measure again.
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
        """Forgets entries from an LSN on, which were deleted. They are above every position."""
        for index in [index for index in self._blobs if index >= lsn]:
            for digest in list(self._blobs[index]):
                self._take(index, digest)

    def _weight(self, lsn: int) -> int:
        return sum(self._blobs[lsn].values()) if lsn in self._blobs else 0

    def _forget_up_to(self, boundary: LSN) -> None:
        """Forgets blobs of compacted entries. Each entry is visited once."""
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
    """The entries that a log keeps in addition to those that its positions need. keep_all: all, for
    debugging."""

    trail_entries: int = 0
    consumer_lag_entries_max: int = 1 << 62
    keep_all: bool = False
    trail_bytes: int = 1 << 62

    @staticmethod
    def of(limits: Limits, *, keep_all: bool = False) -> "LogRetention":
        """The retention of a replica with these limits."""
        return LogRetention(
            trail_entries=limits.log_trail_entries,
            consumer_lag_entries_max=limits.consumer_lag_entries_max,
            keep_all=keep_all,
            trail_bytes=limits.log_trail_bytes,
        )
