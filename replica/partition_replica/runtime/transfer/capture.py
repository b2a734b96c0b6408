"""Captures a consistent copy of the running state, which is then sent, stored, verified or read.

The applier first applies what is committed. Between two batches, its thread then begins a read
transaction, which takes microseconds.
Another thread then lets LMDB copy that state, without the GIL, while entries are applied. The blobs
that the state names are read from the copy. Until they are held, no blob is collected; blobs that
lost their last name meanwhile are checked again afterwards (`BlobStore.pause_collection`).

If the process ends during a copy, a directory stays in staging/, which the next start empties.
"""

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from partition_replica.core.limits import Limits
from partition_replica.core.model import Configuration, Position
from partition_replica.core.ports import LogView
from partition_replica.errors import Damaged, DiskFull, Overloaded
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.consensus.applier import Applier
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.failpoints import reach
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.space import VolumeSpace
from partition_replica.storage.state_copy import CopiedFile, FrozenState, give_way, inspect_copy
from partition_replica.threads import finish, run_to_end

logger = logging.getLogger(__name__)

HELD_AT_ONCE = 2048

RETRY_S = 0.2
"""Seconds between attempts while no copy is possible."""

Copy = Callable[[FrozenState, Path], CopiedFile]


def copy_state(frozen: FrozenState, directory: Path) -> CopiedFile:
    """Copies a state without fsync: no later process uses the copy, and its reader checks it by its
    digest or row by row."""
    return frozen.copy(directory, durably=False)


@dataclass(slots=True)
class Captured:
    """The state at a position, copied to `directory`/data.mdb (`file`), and the (digest, size) of
    the blobs that it names. The copy is not durable. The caller owns the copy and the holds on the
    blobs until `remove`."""

    position: Position
    time_ms: int
    configuration: Configuration
    directory: Path
    file: CopiedFile
    blobs: list[tuple[Digest, int]]
    _store: BlobStore
    _released: bool = False

    def remove(self) -> None:
        """Deletes the copy and releases the blobs. Call it on a thread: a state may have gigabytes
        and a million blobs."""
        self.release()
        shutil.rmtree(self.directory, ignore_errors=True)

    def release(self) -> None:
        """Releases the blobs. A second call does nothing. Call it on a thread."""
        if not self._released:
            self._released = True
            self._store.release_hold(digest for digest, _ in self.blobs)


class StateCapture:
    """Makes one copy at a time; other callers wait for their turn. On the event loop."""

    def __init__(
        self,
        log: LogView,
        states: StateGenerations,
        blobs: BlobStore,
        space: VolumeSpace,
        applier: Applier,
        limits: Limits,
        *,
        copy: Copy = copy_state,
    ) -> None:
        """`copy` is a parameter for tests, which delay it."""
        self._log = log
        self._states = states
        self._blobs = blobs
        self._space = space
        self._applier = applier
        self._limits = limits
        self._copy = copy
        self._one = asyncio.Lock()

    @property
    def applied(self) -> LSN:
        """A copy that begins now is at this LSN or above."""
        return self._states.current.applied.index

    async def take(
        self, directory: Path, check: Callable[[], None] = lambda: None
    ) -> Captured | None:
        """Copies the state to `directory`, which must not exist.

        Returns None if no copy is possible now; then try again later. The reasons: a configuration
        is saved and its entry not applied yet, the state is being replaced, or the volume lacks
        room. Raises StorageFailed, Damaged, and the errors of `check`; a copy that failed or was
        cancelled leaves nothing behind. `check` is called when it is this copy's turn, so that no
        other copy uses the room that it finds.
        """
        async with self._one:
            check()
            begun = await self._begun()
            if begun is None:
                return None
            frozen, configuration = begun
            try:
                return await self._take(frozen, configuration, directory)
            except BaseException as error:
                await run_to_end(lambda: shutil.rmtree(directory, ignore_errors=True))
                if isinstance(error, DiskFull):
                    logger.warning("the state was not copied: %s", error)
                    return None
                raise
            finally:
                frozen.close()
                self._blobs.resume()

    async def _begun(self) -> tuple[FrozenState, Configuration] | None:
        """`_begin` on the applier's thread, undone if we are cancelled meanwhile."""

        def undo(begun: tuple[FrozenState, Configuration] | None) -> None:
            if begun is not None:
                begun[0].close()
                self._blobs.resume()

        await self._applier.caught_up()
        return await finish(self._applier.call(self._begin), undo)

    def _begin(self) -> tuple[FrozenState, Configuration] | None:
        """Runs on the applier's thread, so that nothing is applied or collected meanwhile."""
        state = self._states.current
        as_of, configuration = self._log.configuration
        if as_of > state.applied.index or self._applier.paused:
            return None
        room = self._space.room_for(state.size_bytes(), self._limits, own_work=True)
        if not room.enough:
            logger.warning(
                "the state was not copied: a copy needs %d free bytes on the volume, %d are free",
                room.needed_bytes,
                room.free_bytes,
            )
            return None
        self._blobs.pause_collection()
        try:
            return state.freeze(), configuration
        except BaseException:
            self._blobs.resume()
            raise

    async def _take(
        self, frozen: FrozenState, configuration: Configuration, directory: Path
    ) -> Captured:
        blobs: list[tuple[Digest, int]] = []

        def pause() -> None:
            frozen.check_wanted()
            give_way()

        def work() -> CopiedFile:
            try:
                file = self._copy(frozen, directory)
            finally:
                frozen.close()  # until here, LMDB can't reuse the pages of this state
            reach("capture.copied")
            position, named = inspect_copy(directory, pause=pause)
            if position != frozen.position:
                raise Damaged(
                    f"the copy of the state is at {position}, but the state at {frozen.position}"
                )
            for start in range(0, len(named), HELD_AT_ONCE):
                pause()
                some = named[start : start + HELD_AT_ONCE]
                self._blobs.hold(digest for digest, _ in some)
                blobs.extend(some)
            return file

        try:
            file = await run_to_end(work, give_up=frozen.give_up)
        except BaseException:
            # On a thread: there may be a million of them.
            await run_to_end(lambda: self._blobs.release_hold(digest for digest, _ in blobs))
            raise
        return Captured(
            frozen.position,
            frozen.time_ms,
            configuration,
            directory,
            file,
            blobs,
            self._blobs,
        )


async def capture_in_time(
    capture: Callable[[], StateCapture],
    directory: Path,
    within_s: float,
    check: Callable[[], None] = lambda: None,
) -> Captured:
    """Copies the state to `directory` as soon as possible.

    `capture` returns the StateCapture of the running member, which enabling replication replaces.
    Raises Overloaded if no copy was possible for `within_s` seconds, and the errors of
    `StateCapture.take`, `capture` and `check`. Time in which other copies run, and the copy that
    succeeds, do not count, because they depend on the size of the state. Failed copies count.
    """
    now = asyncio.get_running_loop().time
    waited_s = 0.0
    turn_at: float | None = None

    def turn() -> None:
        nonlocal turn_at
        turn_at = now()
        check()

    while True:
        using, turn_at = capture(), None
        try:
            captured = await using.take(directory, turn)
        except RuntimeError:
            # The threads of a replaced member accept no more work.
            if capture() is using:
                raise
            captured = None
        if captured is not None:
            return captured
        if turn_at is not None:
            waited_s += now() - turn_at
        if waited_s >= within_s:
            raise Overloaded(
                f"the state could not be copied within {within_s} s: a configuration change or a "
                "state transfer is in progress, or the volume lacks room. Retry later"
            )
        await asyncio.sleep(RETRY_S)
        waited_s += RETRY_S
