"""Which stored snapshots are deleted. Pure.

- Good snapshots (stored, and not found damaged) are kept by count and by age, and never fewer than
  min_successful of them.
- A snapshot whose verification is in progress stays and does not count, so it never replaces a
  verified one.
- Of the failed and the damaged snapshots, the newest FAILED_KEPT_MAX stay for diagnosis.
- Pinned snapshots and snapshots in use stay and do not count.
- A snapshot whose deletion has begun is always deleted, because part of it may be missing already.
"""

import datetime as dt
from collections.abc import Iterable

from partition_operator.api.snapshot import GOOD, Snapshot, SnapshotRetention, SnapshotState
from partition_operator.reconcile.observed.snapshot import age_of

FAILED_KEPT_MAX = 3


def expired(
    snapshots: Iterable[Snapshot],
    retention: SnapshotRetention,
    now: dt.datetime,
    held: frozenset[str] = frozenset(),
    *,
    proven: bool = False,
    damage: bool = False,
) -> list[Snapshot]:
    """Returns the snapshots to delete, oldest first. held: names of snapshots in use. proven: the
    policy verifies snapshots, so the newest verified one stays. damage: a damaged snapshot prevents
    garbage collection in a store; stores with a begun deletion then keep no damaged snapshot."""
    newest_first = sorted(snapshots, key=age_of, reverse=True)
    gone = begun(newest_first)
    free = [
        s
        for s in newest_first
        if s.ended and not s.pinned and s.name not in held and s not in gone and not s.verifying
    ]
    good = [s for s in free if s.state in GOOD and not s.lost]
    bad = [s for s in free if s not in good]
    places = {s.stored_in() for s in gone} if damage else set()
    damaged = [s for s in bad if s.state == SnapshotState.VERIFY_FAILED and s.stored_in() in places]
    gone += damaged
    gone += [s for s in bad if s not in damaged][FAILED_KEPT_MAX:]
    last = next((s for s in good if proven and s.state == SnapshotState.VERIFIED), None)
    for rank, snapshot in enumerate(good):
        if rank < retention.min_successful or snapshot is last:
            continue
        over = retention.count is not None and rank >= retention.count
        old = retention.max_age is not None and age_of(snapshot)[0] < now - retention.max_age
        if over or old:
            gone.append(snapshot)
    return sorted(gone, key=age_of)


def begun(snapshots: Iterable[Snapshot]) -> list[Snapshot]:
    """Returns the snapshots whose deletion has begun. It continues even if the spec or a pin has
    changed."""
    return sorted((s for s in snapshots if s.state == SnapshotState.REMOVING), key=age_of)


def next_expiry(
    snapshots: Iterable[Snapshot], retention: SnapshotRetention, now: dt.datetime
) -> dt.datetime | None:
    """Returns when the next snapshot reaches its maximum age; None if none will."""
    if retention.max_age is None:
        return None
    ends = [age_of(s)[0] + retention.max_age for s in snapshots if s.state in GOOD and not s.pinned]
    return min((end for end in ends if end > now), default=None)
