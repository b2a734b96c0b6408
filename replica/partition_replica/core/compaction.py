"""How much of a log may go. Pure; `runtime.compactor` and `storage` do it.

Words (docs/ARCHITECTURE.md, Positions): *low-water mark*, the lowest LSN that positions require;
*boundary*, the LSN up to which Raft's log is compacted; *trail*, entries kept below the mark for
slow followers, so that they need no snapshot.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from partition_replica.ids import LSN

APPLIED = "applied"
"""The position of the state machine: what is durable there. Always registered."""

SNAPSHOT = "snapshot"
"""Held where a snapshot is on its way to a follower: the log behind it is still needed."""

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


def holding(
    positions: Mapping[str, LSN], last: LSN, consumer_lag_entries_max: int
) -> dict[str, LSN]:
    """The positions that hold the log: all of them, but for consumers, and snapshots on their way,
    that are more than `consumer_lag_entries_max` entries behind its end. Those meet Compacted,
    read the state, and go on from there; otherwise one that is gone for good would fill the
    volume."""
    return {
        name: lsn
        for name, lsn in positions.items()
        if name == APPLIED or last - lsn <= consumer_lag_entries_max
    }


def compaction_target(
    mark: LSN, boundary: LSN, *, trail_entries: int, step_entries: int
) -> LSN | None:
    """The LSN up to which to compact, or None where it is not worth a transaction: fewer than
    `step_entries` would go. `trail_entries` below the mark stay."""
    target = LSN(mark - 1 - trail_entries)
    if target - boundary < max(step_entries, 1):
        return None
    return target


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept beyond what positions require. keep_all: everything, for debugging."""

    trail_entries: int = 0
    consumer_lag_entries_max: int = 1 << 62
    keep_all: bool = False
