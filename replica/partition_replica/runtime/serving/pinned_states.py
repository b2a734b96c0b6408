"""The state at one LSN, pinned for a reader that begins, or that came too late for the log.

Pages of the running state don't make a state: each shows another LSN. So the state is copied
(`capture`), and the reader reads from the copy for as long as it needs. The payloads that the copy
names stay, and so do the log's entries behind it, from which the reader goes on.

A copy takes room on the volume. It is given up if its reader asks for nothing for too long, or if
the volume falls below its reserve.
"""

import asyncio
import itertools
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from partition_replica.core.limits import Limits
from partition_replica.core.model import OpenedFile, Position
from partition_replica.core.services import StateReader
from partition_replica.errors import DiskFull, Overloaded, ReplicaError, Stopping
from partition_replica.runtime.consensus.log_holds import LogHolds
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.serving.reads import Reads, open_file
from partition_replica.runtime.transfer.capture import Captured, capture_in_time
from partition_replica.storage.state import LmdbState
from partition_replica.storage.threads import run_to_end
from partition_replica.storage.volume import Volume

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""How often it is looked whether a copy has to be given up."""


class PinnedState:
    """Implements core.services.PinnedState. On the event loop."""

    def __init__(self, captured: Captured, state: LmdbState, history: str, volume: Volume) -> None:
        """Owns `captured` and `state` until `_end`."""
        self.position: Position = captured.position
        self.history = history
        self._captured = captured
        self._state = state
        self._volume = volume
        self._ended: ReplicaError | None = None
        self.used()

    def reader(self) -> StateReader:
        self._check()
        return self._state

    def open_file(self, path: bytes, offset: int) -> OpenedFile:
        self._check()
        return open_file(self._state, self._volume.blobs, path, offset)

    def used(self) -> None:
        self._used_at = asyncio.get_running_loop().time()

    @property
    def unused_s(self) -> float:
        return asyncio.get_running_loop().time() - self._used_at

    async def end(self, why: ReplicaError) -> None:
        """Whoever reads on gets `why`. Removes the copy. Again does nothing."""
        if self._ended is None:
            self._ended = why
            self._state.close()
            self._captured.release()
            directory = self._captured.directory
            await run_to_end(lambda: shutil.rmtree(directory, ignore_errors=True))

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended


class PinnedStates:
    """All of one replica. On the event loop."""

    def __init__(
        self,
        volume: Volume,
        limits: Limits,
        metrics: Metrics,
        *,
        disk: DiskWatch,
        reads: Reads,
        running: Callable[[], Member],
        holds: LogHolds,
    ) -> None:
        self._volume = volume
        self._limits = limits
        self._metrics = metrics
        self._disk = disk
        self._reads = reads
        self._running = running
        self._holds = holds
        self._serial = itertools.count(1)
        self._open: dict[int, PinnedState | None] = {}
        self._closing = False

    @asynccontextmanager
    async def open(self, *, linearizable: bool) -> AsyncIterator[PinnedState]:
        """See core.services.ReplicaService."""
        if len(self._open) >= self._limits.pinned_states_max:
            raise Overloaded(
                f"{self._limits.pinned_states_max} states are pinned here, the most that may be: "
                "retry with back-off, or read the state of another replica"
            )
        serial = next(self._serial)
        self._set(serial, None)
        watch: asyncio.Task[None] | None = None
        try:
            pinned = await self._pin(serial, linearizable)
            self._set(serial, pinned)
            watch = asyncio.create_task(self._watch(serial, pinned))
            yield pinned
        finally:
            if watch is not None:
                watch.cancel()
            await self._end(serial, Stopping("this reading of the state is over"))

    async def close(self) -> None:
        """Ends all: their readers get Stopping."""
        self._closing = True
        for serial in list(self._open):
            await self._end(serial, Stopping("this replica is stopping: go to another"))

    async def _pin(self, serial: int, linearizable: bool) -> PinnedState:
        await self._reads.point(linearizable=linearizable)
        self._check_room()
        # From before the copy on: compaction goes on beside it, however long it takes.
        self._holds.hold(serial, self._volume.state.applied.index)
        captured = await capture_in_time(
            lambda: self._running().capture,
            self._volume.staging / f"pinned-{serial}",
            self._limits.snapshot_capture_wait_s,
        )
        try:
            state = await run_to_end(
                partial(LmdbState, captured.directory, read_only=True), LmdbState.close
            )
        except BaseException:
            captured.release()
            await run_to_end(lambda: shutil.rmtree(captured.directory, ignore_errors=True))
            raise
        history = state.history or str(self._volume.log.identity.cluster_id)
        pinned = PinnedState(captured, state, history, self._volume)
        if self._closing:
            await pinned.end(Stopping("this replica is stopping: go to another"))
        self._holds.hold(serial, captured.position.index)
        return pinned

    def _check_room(self) -> None:
        self._disk.full()
        needed = self._volume.state.size_bytes() + self._disk.reserve_bytes
        if self._disk.free_bytes < needed:
            raise DiskFull(
                f"reading the whole state takes a copy of it, up to {needed} bytes with what is "
                f"reserved, and {self._disk.free_bytes} are free: make room, or read the state of "
                "another replica"
            )

    async def _watch(self, serial: int, pinned: PinnedState) -> None:
        idle_s = self._limits.pinned_state_idle_s
        while True:
            await asyncio.sleep(min(LOOK_EVERY_S, idle_s))
            if self._disk.full():
                why: ReplicaError = DiskFull(
                    "the volume fell below its reserve, so the copy of the state was given up: "
                    "make room, or read the state of another replica"
                )
            elif pinned.unused_s > idle_s:
                why = Overloaded(
                    f"nothing was asked, or no answer was taken, for {idle_s} s, so the copy of "
                    "the state was given up: begin anew"
                )
            else:
                continue
            logger.warning("the state pinned at %d ended: %s", pinned.position.index, why)
            await self._end(serial, why)
            return

    async def _end(self, serial: int, why: ReplicaError) -> None:
        pinned = self._open.pop(serial, None)
        self._metrics.pinned_states.set(len(self._open))
        self._holds.let_go(serial)
        if pinned is not None:
            await pinned.end(why)

    def _set(self, serial: int, pinned: PinnedState | None) -> None:
        self._open[serial] = pinned
        self._metrics.pinned_states.set(len(self._open))
