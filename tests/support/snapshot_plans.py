"""What the plan of one PartitionSnapshot is given, and what of it is looked at."""

import datetime as dt
from typing import Any

from partition_operator.api.snapshot import Snapshot, parse_snapshot
from partition_operator.reconcile.observed.snapshot import ObservedJob, ObservedSnapshot
from partition_operator.reconcile.snapshot.plan import SnapshotPlan, plan

from tests.support.snapshot_objects import (
    NOW,
    OBJECT_STORE,
    group,
    partition,
    snapshot,
)

SECOND = dt.timedelta(seconds=1)
DONE = ObservedJob(
    "Succeeded",
    lsn=2**60,
    term=7,
    keys=3,
    files=2,
    size_bytes=500,
    transferred_bytes=50,
    digest="abc",
)


def view(found: Snapshot, now: dt.datetime = NOW, **more: Any) -> ObservedSnapshot:
    spec = more.pop("spec", {"destination": OBJECT_STORE})
    seen = more.pop("group", None) or group(
        partition(spec),
        now,
        silent=more.pop("silent", ()),
        leaderless=more.pop("leaderless", False),
    )
    return ObservedSnapshot(
        found, now, seen, volumes=more.pop("volumes", {"data-part-1": "u1"}), **more
    )


def after(step: SnapshotPlan, before: Snapshot) -> Snapshot:
    return parse_snapshot(before.body | {"status": step.status})


def condition(step: SnapshotPlan, kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in step.status["conditions"] if c["type"] == kind)
    return found


def started(found: Snapshot | None = None, **more: Any) -> Snapshot:
    found = found or snapshot()
    return after(plan(view(found, **more), "image:1"), found)


def run(found: Snapshot, now: dt.datetime = NOW) -> Snapshot:
    """It has been seen to run."""
    return after(
        plan(view(found, now, job=ObservedJob("Running", "Writing", 50)), "image:1"), found
    )


def succeeded(verify: str = "Checksum", **more: Any) -> Snapshot:
    found = run(started(snapshot(spec={"verify": verify}), **more))
    return after(plan(view(found, job=DONE, **more), "image:1"), found)
