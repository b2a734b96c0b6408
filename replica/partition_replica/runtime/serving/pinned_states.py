"""The state at one LSN, pinned for a reader that begins, or that came too late for the log.

Pages of the running state don't make a state: each shows another LSN. So the state is copied
(`capture`), and the reader reads from the copy for as long as it needs. The payloads that the copy
names stay, and so do the log's entries behind it, from which the reader goes on.

A copy takes room on the volume. It is given up if its reader asks for nothing for too long or keeps
it for too long, or if the volume falls below its reserve: then the newest one goes first, and the
next one only if that does not make enough room.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from partition_replica.core.limits import Limits
from partition_replica.core.model import OpenedFile, Position
from partition_replica.core.services import StateReader
from partition_replica.errors import (
    DiskFull,
    Fatal,
    Overloaded,
    ReplicaError,
    Stopping,
    wrong_history,
)
from partition_replica.runtime.consensus.log_holds import LogHolds
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.member import Member
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.serving.reads import Reads, open_file
from partition_replica.runtime.transfer.capture import Captured, capture_in_time
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.state import LmdbState
from partition_replica.threads import all_ended, finish, run_to_end

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
"""Seconds between checks whether a copy has to be given up."""

LOOK_AGAIN_S = 0.2
"""Seconds between checks whether the copies that end have made enough room, and until the check
after the last of them is gone."""

ROOM_WAIT_S = 30.0
"""Seconds without a rise of the free space, while copies end, until the next one is given up."""


class PinnedState:
    """Implements core.services.PinnedStateService. On the event loop."""

    def __init__(
        self, captured: Captured, state: LmdbState, history: str, blobs: BlobStore
    ) -> None:
        """Owns `captured` and `state` until `end`."""
        self.position: Position = captured.position
        self.history = history
        self._captured = captured
        self._state = state
        self._blobs = blobs
        self._ended: ReplicaError | None = None
        self._over = asyncio.Event()
        self._removing: asyncio.Future[None] | None = None
        self._pinned_at = self._used_at = asyncio.get_running_loop().time()

    def reader(self) -> StateReader:
        self._check()
        return self._state

    def open_file(self, path: bytes, offset: int) -> OpenedFile:
        self._check()
        return open_file(self._state, self._blobs, path, offset)

    def used(self) -> None:
        self._check()
        self._used_at = asyncio.get_running_loop().time()

    async def over(self) -> ReplicaError:
        await self._over.wait()
        assert self._ended is not None, "set before"
        return self._ended

    @property
    def unused_s(self) -> float:
        return asyncio.get_running_loop().time() - self._used_at

    @property
    def age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._pinned_at

    async def end(self, why: ReplicaError) -> None:
        """The reader gets `why` from now on. Returns when the copy is removed, also if it was ended
        before."""
        if self._removing is None:
            self._ended = why
            self._over.set()
            self._removing = asyncio.get_running_loop().run_in_executor(None, self._remove)
        await finish(self._removing)

    def _remove(self) -> None:
        """On a thread: there may be a million blobs to release."""
        self._state.close()
        self._captured.remove()

    def _check(self) -> None:
        if self._ended is not None:
            raise self._ended


@dataclass(slots=True, eq=False)
class _Place:
    """One of `pinned_states_max` places. why: the error that its reader gets once it is ended; the
    first one counts."""

    serial: int
    pinning: "asyncio.Task[PinnedState] | None" = None
    pinned: PinnedState | None = None
    why: ReplicaError | None = None


class PinnedStates:
    """The pinned states of one replica. On the event loop."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        states: StateGenerations,
        blobs: BlobStore,
        space: VolumeSpace,
        staging: Path,
        limits: Limits,
        metrics: Metrics,
        *,
        disk: DiskWatch,
        reads: Reads,
        running: Callable[[], Member],
        check_state: Callable[[], object],
        holds: LogHolds,
        failed: Callable[[BaseException], None],
    ) -> None:
        """`check_state` raises NoLeader while this replica has none of its group's state. `failed`
        is called with an error that must end the process."""
        self._states = states
        self._blobs = blobs
        self._space = space
        self._staging = staging
        self._limits = limits
        self._metrics = metrics
        self._disk = disk
        self._reads = reads
        self._running = running
        self._check_state = check_state
        self._holds = holds
        self._failed = failed
        self._serial = itertools.count(1)
        self._places: dict[int, _Place] = {}
        """Oldest first."""
        self._watching: asyncio.Task[None] | None = None
        self._making_room: asyncio.Task[None] | None = None
        self._ends: set[asyncio.Task[None]] = set()
        self._closing = False

    @asynccontextmanager
    async def open(self, *, linearizable: bool, history: str) -> AsyncIterator[PinnedState]:
        """See core.services.ApplicationService."""
        if self._closing:
            raise _stopping()
        if len(self._places) >= self._limits.pinned_states_max:
            raise Overloaded(
                f"{self._limits.pinned_states_max} states are pinned here, the maximum: "
                "retry with backoff, or read the state of another replica"
            )
        place = _Place(next(self._serial))
        self._places[place.serial] = place
        self._count()
        if self._watching is None:
            self._watching = self._spawn(self._watch())
        try:
            # A task of its own, which `close` and the watch end, too.
            place.pinning = asyncio.create_task(self._pin(place, linearizable, history))
            yield await self._wait_pinned(place, place.pinning)
        finally:
            await self._end(place, Stopping("this reading of the state is over"))

    async def close(self) -> None:
        """Ends all pinned states, those that are being copied, too: their readers get Stopping. No
        thread of theirs works on the volume when this returns."""
        self._closing = True
        looking = [task for task in (self._watching, self._making_room) if task is not None]
        for task in looking:
            task.cancel()
        if looking:
            await asyncio.wait(looking)
        ends = [self._end(place, _stopping()) for place in self._places.values()]
        await all_ended(*ends, *self._ends, failed=self._failed)

    async def _wait_pinned(
        self, place: _Place, pinning: "asyncio.Task[PinnedState]"
    ) -> PinnedState:
        """Returns the result of `pinning`, or raises why its place was ended. A cancelled caller
        waits for the end of the task first."""
        try:
            await asyncio.wait([pinning])
        except asyncio.CancelledError:
            await _end_task(pinning)
            raise
        if pinning.cancelled():
            raise place.why or _stopping()
        return pinning.result()

    async def _pin(self, place: _Place, linearizable: bool, history: str) -> PinnedState:
        await self._reads.point(linearizable=linearizable)
        self._check()
        # Held from before the copy, because the log is compacted while the copy is made.
        self._holds.hold(place, self._states.current.applied.index)
        captured = await capture_in_time(
            lambda: self._running().capture,
            self._staging / f"pinned-{place.serial}",
            self._limits.snapshot_capture_wait_s,
            self._check,
        )
        try:
            state = await run_to_end(
                partial(LmdbState, captured.directory, read_only=True), LmdbState.close
            )
        except BaseException:
            await run_to_end(captured.remove)
            raise
        # Read from the copy: the group may have another history by now.
        own = self._states.history_of(state)
        place.pinned = PinnedState(captured, state, own, self._blobs)
        self._holds.hold(place, captured.position.index)
        if history not in ("", own):
            raise wrong_history(history, own)
        return place.pinned

    def _check(self) -> None:
        """Raises NoLeader or DiskFull unless a copy may begin now."""
        self._check_state()
        room = self._space.room_for(self._states.current.size_bytes(), self._limits)
        if not room.enough:
            raise DiskFull(
                f"reading the whole state takes a copy of it, up to {room.needed_bytes} bytes with "
                f"what is reserved, and {room.free_bytes} are free: make room, or read the state "
                "of another replica"
            )

    async def _watch(self) -> None:
        """Ends the states that are outdated or take the volume's room, while any is open."""
        limits = self._limits
        while self._places:
            await asyncio.sleep(
                min(LOOK_EVERY_S, limits.pinned_state_idle_s, limits.pinned_state_age_max_s)
            )
            for place in self._places.values():
                if place.why is None and (outdated := self._outdated(place)) is not None:
                    self._give_up(place, outdated)
            if self._making_room is None and self._disk.below_reserve():
                self._making_room = self._spawn(self._make_room())
        self._watching = None

    async def _make_room(self) -> None:
        """Gives up one copy after another until the volume is above its reserve."""
        why = DiskFull(
            "the volume fell below its reserve, so the copy of the state was given up: make room, "
            "or read the state of another replica"
        )
        await self._ends_make_room()
        while self._disk.below_reserve():
            left = [place for place in self._places.values() if place.why is None]
            if not left:
                break
            # The oldest reader is the nearest to its end.
            self._give_up(left[-1], why)
            await self._ends_make_room()
        self._making_room = None

    async def _ends_make_room(self) -> None:
        """Returns when the volume is above its reserve, when no copy is ending any more, or when
        the free space has not risen for ROOM_WAIT_S. The removal of many GiB from a slow disk may
        take far longer than that, and costs no other reader its copy while it makes room."""
        now = asyncio.get_running_loop().time
        most, rose_at, ending = self._disk.free_bytes, now(), True
        while ending and now() - rose_at < ROOM_WAIT_S:
            # Checked before the pause, so that the space that the last one freed is seen after it.
            ending = any(place.why is not None for place in self._places.values())
            await asyncio.sleep(LOOK_AGAIN_S)
            if not self._disk.below_reserve():
                return
            if self._disk.free_bytes > most:
                most, rose_at = self._disk.free_bytes, now()

    def _outdated(self, place: _Place) -> Overloaded | None:
        limits = self._limits
        if place.pinned is None:
            return None
        if place.pinned.unused_s > limits.pinned_state_idle_s:
            return Overloaded(
                f"nothing was asked, or no answer was taken, for {limits.pinned_state_idle_s} s, "
                "so the copy of the state was given up: begin anew"
            )
        if place.pinned.age_s > limits.pinned_state_age_max_s:
            return Overloaded(
                f"the state was pinned for {limits.pinned_state_age_max_s} s, the maximum, "
                "so the copy of the state was given up: begin anew, and read faster"
            )
        return None

    def _give_up(self, place: _Place, why: ReplicaError) -> None:
        """Begins to end a place. It does not wait: a copy that is being made takes long to end, and
        the other places must not wait for it."""
        logger.warning("pinned state %d ends: %s", place.serial, why)
        place.why = why
        ending = self._spawn(self._end(place, why))
        self._ends.add(ending)
        ending.add_done_callback(self._ends.discard)

    def _spawn(self, body: "asyncio._CoroutineLike[None]") -> "asyncio.Task[None]":
        task = asyncio.create_task(body)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def _end(self, place: _Place, why: ReplicaError) -> None:
        """Ends a place, and gives it back when its copy is gone. A second call waits for that,
        too; the reason of the first one counts."""
        why = place.why = place.why or why
        try:
            if place.pinning is not None:
                await _end_task(place.pinning)
            if place.pinned is not None:
                await place.pinned.end(why)
        finally:
            self._holds.let_go(place)
            self._places.pop(place.serial, None)
            self._count()

    def _count(self) -> None:
        self._metrics.pinned_states.set(len(self._places))


async def _end_task(task: "asyncio.Task[PinnedState]") -> None:
    """Cancels a task, and returns when it has ended. Raises its error if that is a Fatal."""
    if not task.done():
        task.cancel()
        await finish(asyncio.wait([task]))
    if not task.cancelled() and isinstance(error := task.exception(), Fatal):
        raise error


def _stopping() -> Stopping:
    return Stopping("this replica is stopping: go to another")
