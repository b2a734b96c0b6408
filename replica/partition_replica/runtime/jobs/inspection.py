"""Verifying a volume while it serves: on a copy of the state, beside the log as it goes on.

A process of its own does it (offline/volume/verification_child.py): reading and hashing hold
nothing up, and pages that LMDB can't make sense of may end that process, not this one. Nothing that
happens to it ends this one either.
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
from partition_replica.storage.threads import run_to_end
from partition_replica.storage.volume import Volume

logger = logging.getLogger(__name__)

Step = tuple[str, int, int]

STALL_S = 3600.0
"""A verification without progress for so long is ended: the largest payload takes it at 20 MB/s."""

MEANINGLESS = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
"""What ends a process that reads damaged pages."""


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
        """Ends a run under way, and returns when nothing reads the volume any more."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def verify(self) -> AsyncIterator[Step | VerifyReport]:
        self._running()
        if self._work is not None:
            raise Overloaded("this volume is being verified already: one at a time")
        latest: list[Step] = []
        changed = asyncio.Event()

        def told(step: str, done: int, total: int) -> None:
            # Only the latest counts: a slow reader holds nothing up.
            latest[:] = [(step, done, total)]
            changed.set()

        # A task of its own: it ends and releases everything, also if its caller has gone away.
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
                raise Stopping("this replica is stopping: verify another")
            yield work.result()
        finally:
            work.cancel()

    def _ended(self, task: "asyncio.Task[VerifyReport]") -> None:
        self._work = None
        if not task.cancelled():
            task.exception()  # seen

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
            except Damaged as error:  # a finding; the replica itself may never read that row
                return _nothing_but(str(error))
            return await self._run(scratch, told)
        finally:
            await run_to_end(partial(_remove, captured, scratch))

    def _check_room(self) -> None:
        # The copy, and what a replay of the log builds beside it.
        room = self._volume.space.room_for(2 * self._volume.state.size_bytes(), self._limits)
        if not room.enough:
            raise DiskFull(
                f"verifying takes up to {room.needed_bytes} bytes with what is reserved, "
                f"{room.free_bytes} are free: make room, or verify with the replica stopped "
                "(--scratch)"
            )

    async def _run(self, scratch: Path, told: Callable[[str, int, int], None]) -> VerifyReport:
        last: list[Step] = []

        def heard(step: str, done: int, total: int) -> None:
            last[:] = [(step, done, total)]
            if self._disk.full():
                raise DiskFull(
                    "the volume fell below its reserve: the verification is given up; make room, "
                    "or verify with the replica stopped (--scratch)"
                )
            told(step, done, total)

        process = JobProcess(
            self._limits, told=heard, capture=_nothing, command=("verify",), stall_s=STALL_S
        )
        where = ["--data", str(self._volume.root), "--scratch", str(scratch)]
        try:
            await process.run(where, {})
        except JobFailed as error:
            return _broken_off(error, process.returncode, last)
        finally:
            # A process that was killed leaves its place among LMDB's readers.
            await run_to_end(self._volume.log.environment.reader_check)
        return VerifyReport(**json.loads((scratch / "report.json").read_bytes()))


def _remove(captured: Captured | None, scratch: Path) -> None:
    if captured is not None:
        captured.remove()
    shutil.rmtree(scratch, ignore_errors=True)


def _nothing_but(finding: str) -> VerifyReport:
    report = VerifyReport()
    report.find(finding)
    report.unchecked.append("everything else: the state could not be copied")
    return report


def _broken_off(error: JobFailed, returncode: int | None, last: list[Step]) -> VerifyReport:
    """The report for a process that ended without its own."""
    report = VerifyReport()
    where = f"step {last[0][0]} at {last[0][1]}" if last else "the beginning"
    if returncode is not None and -returncode in MEANINGLESS:
        name = signal.Signals(-returncode).name
        report.find(
            f"reading the volume ended the verification's process by {name} ({where}): pages are "
            "damaged; keep the volume, and let the operator rebuild this replica from the others"
        )
    else:
        logger.warning("a verification broke off: %s", error)
    report.unchecked.append(f"everything behind {where}: {error}")
    return report


async def _nothing() -> dict[str, Any]:
    raise AssertionError("a verification asks for no state")
