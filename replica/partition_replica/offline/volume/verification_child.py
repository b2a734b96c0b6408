"""Verifying a running replica's volume, as the replica runs it: a process of its own, which pages
that LMDB can't make sense of may end by a signal. How the two talk: offline/snapshots/child.py."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from partition_replica.core.model import VerifyReport
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Damaged
from partition_replica.ids import MemberID
from partition_replica.offline.snapshots.child import Listener, Parent
from partition_replica.storage.blobs import blob_path, stored_digests
from partition_replica.storage.log.reading import RunningLog
from partition_replica.storage.state import LmdbState
from partition_replica.storage.verification import Verification

STATE, REPORT = "state", "report.json"
"""Below the scratch directory: the copy of the state, and what this says in the end."""


def run(root: Path, scratch: Path) -> int:
    """Verifies the volume `root` with the copy of its state in scratch/state, under nobody's lock;
    the report goes to scratch/report.json. Returns the exit code."""
    return asyncio.run(_run(root, scratch))


async def _run(root: Path, scratch: Path) -> int:
    parent = Parent()
    try:
        report = await asyncio.to_thread(_verify, root, scratch, parent)
    except Damaged as error:  # it can't even be opened
        report = VerifyReport()
        report.find(str(error))
        report.unchecked.append("everything behind that")
    (scratch / REPORT).write_text(json.dumps(asdict(report)))
    parent.report({"state": "succeeded"})
    return 0


def _verify(root: Path, scratch: Path, parent: Listener) -> VerifyReport:
    state = LmdbState(scratch / STATE, read_only=True)
    try:
        # Opened behind the copy, so that it has every entry that the copy has applied.
        log = RunningLog(root / "log", MemberID(0), blob_digests)
        try:
            return Verification(
                log,
                state,
                lambda digest: blob_path(root / "blobs", digest),
                lambda: stored_digests(root / "blobs"),
                scratch,
                live=True,
                progress=parent.progress,
            ).run()
        finally:
            log.close()
    finally:
        state.close()
