"""Failpoints: named places where a test may end the process without any clean-up.

PARTITION_FAILPOINT=name arms one; name:n ends the process at the n-th time. The crash tests fail
unless they have used every failpoint in `REGISTERED`.
"""

import os
import sys

from partition_snapshots import failpoints as stored_snapshots

ENVIRONMENT = "PARTITION_FAILPOINT"
EXIT_CODE = 86

REGISTERED = frozenset(
    {
        "log.commit.before",
        "log.commit.after",
        "log.journal.before",
        "log.journal.after",
        "log.checkpoint.before",
        "log.checkpoint.after",
        "propose.before",
        "advance.before",
        "hard_state.before",
        "state.apply.before",
        "state.apply.after",
        "bootstrap.state_started",
        "capture.copied",
        "transfer.sent_part",
        "transfer.received_part",
        "transfer.blob_fetched",
        "transfer.staged",
        "transfer.installed",
        "transfer.switched",
        "blob.adopted",
        "blobs.synced",
        "blobs.named",
        "log.overwrite",
        "log.snapshot.before",
        "log.truncate.before",
        "log.compact.before",
        "log.compact.after",
        "log.prune.before",
        "log.prune.after",
        "backfill.begun",
        "backfill.step.before",
        "backfill.step.after",
        "backfill.drained",
        "backfill.state_term_set",
        "backfill.finish.before",
        "backfill.finish.after",
        "import.base_written",
        "import.staged",
        "import.blobs_moved",
        "import.state_moved",
        "import.log_moved",
        "replication.stop.before",
        "replication.stop.after",
        "recovery.accepted",
        "recovery.switch.before",
        "recovery.switch.after",
        "recovery.applied",
        "recovery.history",
        "recovery.complete",
        "restore.begun",
        "restore.rows_loaded",
        "restore.blobs_fetched",
        "snapshot.job.captured",
        "snapshot.job.reported",
    }
    | stored_snapshots.POINTS
)

_name, _, _count = os.environ.get(ENVIRONMENT, "").partition(":")
_left = int(_count or 1)


def reach(name: str) -> None:
    """Ends the process, without any clean-up, if `name` is armed."""
    if name != _name:
        return
    global _left
    _left -= 1
    if _left == 0:
        print(f"failpoint {name} reached: ending", file=sys.stderr, flush=True)
        os._exit(EXIT_CODE)
