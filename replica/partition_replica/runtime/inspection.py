"""Verifying a volume while it serves: on a copy of the state, beside the log as it goes on."""

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from partition_replica.core.limits import Limits
from partition_replica.core.model import VerifyReport
from partition_replica.errors import Cancelled, DiskFull, Overloaded, Stopping
from partition_replica.ids import Digest
from partition_replica.runtime.member import Member
from partition_replica.storage.state import LmdbState
from partition_replica.storage.verification import Verification
from partition_replica.storage.volume import Volume

Step = tuple[str, int, int]


class Inspection:
    """Implements core.ports.InspectionService. One run at a time."""

    def __init__(self, volume: Volume, limits: Limits, running: Callable[[], Member]) -> None:
        self._volume = volume
        self._limits = limits
        self._running = running
        self._serial = itertools.count(1)
        self._busy = False
        self._cancelled = False
        self._work: asyncio.Future[VerifyReport] | None = None

    async def close(self) -> None:
        """Ends a run under way, and returns when nothing reads the volume any more."""
        self._cancelled = True
        if self._work is not None:
            await asyncio.wait([self._work])

    async def verify(self) -> AsyncIterator[Step | VerifyReport]:
        member = self._running()
        if self._busy:
            raise Overloaded("this volume is being verified already: one at a time")
        self._busy = True
        scratch = self._volume.staging / f"verify-{next(self._serial)}"
        held: list[Digest] = []
        try:
            held = await member.applier.call(lambda: self._copy(scratch))
            async for item in self._run(scratch):
                yield item
        finally:
            self._busy = False
            self._volume.blobs.unhold(held)
            await asyncio.to_thread(shutil.rmtree, scratch, True)

    async def _run(self, scratch: Path) -> AsyncIterator[Step | VerifyReport]:
        loop = asyncio.get_running_loop()
        latest: list[Step] = []
        changed = asyncio.Event()

        cancelled = False

        def progress(step: str, done: int, total: int) -> None:
            if cancelled or self._cancelled:
                raise Cancelled("the verification was cancelled")
            # Only the latest counts: a slow reader holds nothing up.
            latest[:] = [(step, done, total)]
            loop.call_soon_threadsafe(changed.set)

        work = asyncio.ensure_future(asyncio.to_thread(self._verify, scratch, progress))
        self._work = work
        work.add_done_callback(lambda _: changed.set())
        try:
            while not work.done():
                await changed.wait()
                changed.clear()
                if latest:
                    yield latest.pop()
            try:
                yield work.result()
            except Cancelled as error:
                raise Stopping("this replica is stopping: verify another") from error
        finally:
            # A thread can't be cancelled; it ends at the next progress, then the scratch goes.
            cancelled = True
            await asyncio.wait([work])
            self._work = None

    def _verify(self, scratch: Path, progress: Callable[[str, int, int], None]) -> VerifyReport:
        state = LmdbState(scratch / "state", read_only=True)
        try:
            return Verification(
                self._volume.log,
                state,
                self._volume.blobs.path,
                self._volume.blobs.digests,
                scratch,
                live=True,
                progress=progress,
            ).run()
        finally:
            state.close()

    def _copy(self, scratch: Path) -> list[Digest]:
        """On the applier's thread: nothing is applied meanwhile. Holds the blobs that it names."""
        free, _ = self._volume.free_bytes()
        # The copy, and what a replay of the log builds beside it.
        needed = 2 * self._volume.state.size_bytes() + self._limits.disk_reserve_bytes // 2
        if free < needed:
            raise DiskFull(
                f"verifying takes up to {needed} bytes of scratch space on the volume, {free} are "
                "free: make room, or verify with the replica stopped (--scratch)"
            )
        scratch.mkdir(mode=0o700)
        self._volume.state.copy(scratch / "state")
        held = [digest for digest, _ in self._volume.state.blobs()]
        self._volume.blobs.hold(held)
        return held
