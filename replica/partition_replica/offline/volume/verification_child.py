"""Verifies a running replica's volume in a child process of the replica. Damaged LMDB pages may end
the child by a signal, and the replica keeps running. Their protocol: offline/snapshots/child.py."""

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
"""Names in the scratch directory: the copy of the state, and the report."""


def run(root: Path, scratch: Path) -> int:
    """Verifies the volume `root` with the copy of its state in scratch/state, without a lock of its
    own, and writes the report to scratch/report.json. Returns the exit code."""
    return asyncio.run(_run(root, scratch))


async def _run(root: Path, scratch: Path) -> int:
    parent = Parent()
    try:
        report = await asyncio.to_thread(_verify, root, scratch, parent)
    except Damaged as error:  # the volume cannot be opened
        report = VerifyReport()
        report.find(str(error))
        report.unchecked.append("everything else: the volume cannot be opened")
    (scratch / REPORT).write_text(json.dumps(asdict(report)))
    parent.report({"state": "succeeded"})
    return 0


def _verify(root: Path, scratch: Path, parent: Listener) -> VerifyReport:
    state = LmdbState(scratch / STATE, read_only=True)
    try:
        # Opened after the copy, so that it has every entry that the copy has applied.
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
