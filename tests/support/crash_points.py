"""The failpoints of a replica at which the suites end a process. tests/scenarios/test_crashes.py
checks that together with its own list they are all that there are."""

from partition_snapshots import failpoints as stored_failpoints

WHILE_BACKFILLING = (
    "backfill.begun",
    "backfill.step.before:3",
    "backfill.step.after:3",
    "backfill.drained",
    "backfill.state_term_set",
    "backfill.finish.before",
    "backfill.finish.after",
)

WHILE_RECOVERING = (
    "recovery.accepted",
    "recovery.switch.before",
    "recovery.switch.after",
    "recovery.applied",
    "recovery.history",
    "recovery.complete",
)
"""A lost quorum."""

WHILE_RESTORING = (
    "restore.begun",
    "restore.rows_loaded",
    "restore.blobs_fetched",
    "import.staged",
    "import.blobs_moved",
    "import.state_moved",
    "import.log_moved",
)

WHILE_CATCHING_UP = {
    # (who ends, the time at which)
    "capture.copied": ("leader", 1),
    "transfer.sent_part": ("leader", 5),
    "transfer.received_part": ("follower", 5),
    "transfer.blob_fetched": ("follower", 2),
    "blobs.synced": ("follower", 2),
    "blobs.named": ("follower", 1),
}

WHILE_DELETING = (
    "snapshot.delete.before",
    "snapshot.delete.after",
    "snapshot.collect.before",
    "snapshot.collect.after",
)
WHILE_TAKING = tuple(sorted(stored_failpoints.POINTS - {*WHILE_DELETING}))
"""In the job's process."""

WHILE_A_JOB_RUNS = ("capture.copied", "snapshot.job.captured", "snapshot.job.reported")
"""In the replica's."""
