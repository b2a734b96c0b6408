"""Verifies the volume while the replica serves: a copy of the state, and the log as it grows.

A separate process verifies (offline/volume/verification_child.py), so that reading and hashing
block nothing here. Damaged pages of LMDB may end that process, but never this one.
"""

import asyncio
import itertools
import json
import logging
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

from partition_replica.core.limits import Limits
from partition_replica.core.model import VerifyReport
from partition_replica.errors import Damaged, DiskFull, Overloaded, Stopping
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.jobs.job_process import JobFailed, JobProcess
from partition_replica.runtime.member import Member
from partition_replica.runtime.transfer.capture import Captured, capture_in_time
from partition_replica.storage.volume import Volume
from partition_replica.threads import run_to_end

logger = logging.getLogger(__name__)

Step = tuple[str, int, int]

STALL_S = 3600.0
"""Seconds without progress after which a verification is ended. At 20 MB/s, the largest payload
takes this long."""

MEANINGLESS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
"""Signals that end a process that reads damaged pages."""


class Inspection:
    """Implements core.services.InspectionService. One run at a time."""

    def __init__(
        self, volume: Volume, limits: Limits, disk: DiskWatch, running: Callable[[], Member]
    ) -> None:
        self._volume = volume
        self._limits = limits
        self._disk = disk
        self._running = running
        self._serial = itertools.count(1)
        self._work: asyncio.Task[VerifyReport] | None = None

    async def close(self) -> None:
        """Ends a run in progress, and returns once nothing reads the volume for it any more."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def verify(self) -> AsyncIterator[Step | VerifyReport]:
        self._running()
        if self._work is not None:
            raise Overloaded(
                "another verification of this volume is in progress: retry when it has ended"
            )
        latest: list[Step] = []
        changed = asyncio.Event()

        def told(step: str, done: int, total: int) -> None:
            # Only the latest progress is kept, so that a slow reader blocks nothing.
            latest[:] = [(step, done, total)]
            changed.set()

        # A separate task: it ends and releases everything even if its caller disconnects.
        work = asyncio.create_task(self._verify(told))
        self._work = work
        work.add_done_callback(self._ended)
        work.add_done_callback(lambda _: changed.set())
        try:
            while not work.done():
                await changed.wait()
                changed.clear()
                if latest:
                    yield latest.pop()
            if work.cancelled():
                raise Stopping("this replica is stopping: verify another replica")
            yield work.result()
        finally:
            work.cancel()

    def _ended(self, task: "asyncio.Task[VerifyReport]") -> None:
        self._work = None
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio would log it

    async def _verify(self, told: Callable[[str, int, int], None]) -> VerifyReport:
        scratch = self._volume.staging / f"verify-{next(self._serial)}"
        self._check_room()
        captured: Captured | None = None
        try:
            await run_to_end(partial(scratch.mkdir, mode=0o700))
            try:
                captured = await capture_in_time(
                    lambda: self._running().capture,
                    scratch / "state",
                    self._limits.snapshot_capture_wait_s,
                    self._check_room,
                )
            except Damaged as error:  # a finding: the replica may never read that row
                return _nothing_but(str(error))
            return await self._run(scratch, told)
        finally:
            await run_to_end(partial(_remove, captured, scratch))

    def _check_room(self) -> None:
        # Room for the copy, and for the state that a replay of the log builds.
        room = self._volume.space.room_for(2 * self._volume.state.size_bytes(), self._limits)
        if not room.enough:
            raise DiskFull(
                f"verifying needs up to {room.needed_bytes} free bytes, reserve included; "
                f"{room.free_bytes} are free: make room, or stop the replica and verify with "
                "--scratch on another volume"
            )

    async def _run(self, scratch: Path, told: Callable[[str, int, int], None]) -> VerifyReport:
        last: list[Step] = []

        def heard(step: str, done: int, total: int) -> None:
            last[:] = [(step, done, total)]
            if self._disk.full():
                raise DiskFull(
                    "the volume fell below its reserve, so the verification was ended: make room, "
                    "or stop the replica and verify with --scratch on another volume"
                )
            told(step, done, total)

        # The process reads the log's tables: they need what its copy of the state has applied.
        await run_to_end(self._volume.log.checkpoint)
        process = JobProcess(
            self._limits, told=heard, capture=_nothing, command=("verify",), stall_s=STALL_S
        )
        where = ["--data", str(self._volume.root), "--scratch", str(scratch)]
        try:
            await process.run(where, {})
        except JobFailed as error:
            return _broken_off(error, process.returncode, last)
        finally:
            # Clears the entry that a killed process leaves in LMDB's reader table.
            await run_to_end(self._volume.log.environment.reader_check)
        return VerifyReport(**json.loads((scratch / "report.json").read_bytes()))


def _remove(captured: Captured | None, scratch: Path) -> None:
    if captured is not None:
        captured.remove()
    shutil.rmtree(scratch, ignore_errors=True)


def _nothing_but(finding: str) -> VerifyReport:
    report = VerifyReport()
    report.find(finding)
    report.unchecked.append("everything else, because the state could not be copied")
    return report


def _broken_off(error: JobFailed, returncode: int | None, last: list[Step]) -> VerifyReport:
    """The report for a process that ended without its own report."""
    report = VerifyReport()
    where = f"step {last[0][0]} at {last[0][1]}" if last else "the beginning"
    if returncode is not None and -returncode in MEANINGLESS:
        name = signal.Signals(-returncode).name
        report.find(
            f"the verification's process was ended by {name} while it read the volume ({where}): "
            "pages are damaged. Keep the volume, and let the operator replace this member"
        )
    else:
        logger.warning("a verification failed: %s", error)
    report.unchecked.append(f"everything after {where}: {error}")
    return report


async def _nothing() -> dict[str, Any]:
    raise AssertionError("a verification never requests a state")
