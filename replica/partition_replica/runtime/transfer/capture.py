"""A consistent copy of the running state, which is then sent, stored, verified or read.

The applier's thread begins a read transaction between two batches: that pins the state as it is, in
microseconds. LMDB then copies it on another thread, without the GIL, while entries are applied. The
blobs that the state names are read from the copy. Until they are held, no blob is collected; those
that lost their last name meanwhile are looked at again afterwards (`BlobStore.pause_collection`).

A process that ends in the middle leaves a directory in staging/, which the next start empties.
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
from partition_replica.storage.threads import finish, run_to_end

logger = logging.getLogger(__name__)

HELD_AT_ONCE = 2048

RETRY_S = 0.2
"""How soon after a copy that was not possible another one is tried."""

Copy = Callable[[FrozenState, Path], CopiedFile]


def copy_state(frozen: FrozenState, directory: Path) -> CopiedFile:
    """Copies a state as fast as the disk takes it. Not durably: no later process uses the copy, and
    its reader checks it, by its digest or row by row."""
    return frozen.copy(directory, durably=False)


@dataclass(slots=True)
class Captured:
    """The state at a position, copied to `directory`/data.mdb (`file`), which a power failure may
    take; and the blobs that it names, with their sizes, which stay on the volume meanwhile. Both
    are the taker's, until `remove`."""

    position: Position
    time_ms: int
    configuration: Configuration
    directory: Path
    file: CopiedFile
    blobs: list[tuple[Digest, int]]
    _store: BlobStore
    _released: bool = False

    def remove(self) -> None:
        """Removes the copy, and lets go of the blobs. On a thread: a state may have gigabytes, and
        a million blobs."""
        self.release()
        shutil.rmtree(self.directory, ignore_errors=True)

    def release(self) -> None:
        """Lets go of the blobs. Again does nothing. On a thread."""
        if not self._released:
            self._released = True
            self._store.release_hold(digest for digest, _ in self.blobs)


class StateCapture:
    """One copy at a time; other callers wait for their turn. On the event loop."""

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
        """`copy` is for tests, which hold it up."""
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
        """What a copy that is begun now has at least."""
        return self._states.current.applied.index

    async def take(
        self, directory: Path, check: Callable[[], None] = lambda: None
    ) -> Captured | None:
        """Copies the state to `directory`, which must not exist.

        Returns None if no copy is possible now: between the saving of a configuration and the
        applying of its entry, while the state is being replaced, and without room on the volume.
        Ask again later. Raises StorageFailed, Damaged, and what `check` raises; nothing is left of
        a copy that failed or was cancelled. `check` is called when it is this copy's turn, so that
        no other copy takes the room that it finds.
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
                    logger.warning("no copy of the state: %s", error)
                    return None
                raise
            finally:
                frozen.close()
                self._blobs.resume()

    async def _begun(self) -> tuple[FrozenState, Configuration] | None:
        """`_begin`, undone where we are cancelled meanwhile."""

        def undo(begun: tuple[FrozenState, Configuration] | None) -> None:
            if begun is not None:
                begun[0].close()
                self._blobs.resume()

        return await finish(self._applier.call(self._begin), undo)

    def _begin(self) -> tuple[FrozenState, Configuration] | None:
        """On the applier's thread, so that nothing is applied or collected meanwhile."""
        state = self._states.current
        as_of, configuration = self._log.configuration
        if as_of > state.applied.index or self._applier.paused:
            return None
        room = self._space.room_for(state.size_bytes(), self._limits, own_work=True)
        if not room.enough:
            logger.warning(
                "no copy of the state: it needs %d bytes free of the volume, %d are",
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
                frozen.close()  # LMDB keeps pages for it until here
            reach("capture.copied")
            position, named = inspect_copy(directory, pause=pause)
            if position != frozen.position:
                raise Damaged(f"a copy of the state at {frozen.position} is at {position}")
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
    """Copies the state to `directory` as soon as that is possible.

    `capture` returns the StateCapture of the member that runs: switching replication on replaces
    the member. Raises Overloaded if the state could not be copied for `within_s` seconds, and what
    `StateCapture.take`, `capture` and `check` raise. The copies of others and the copy that
    succeeds do not count: they take as long as the state is large, and the caller decides how long
    it waits for that. Copies that fail count.
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
            # The threads of a member that is replaced take no more work.
            if capture() is using:
                raise
            captured = None
        if captured is not None:
            return captured
        if turn_at is not None:
            waited_s += now() - turn_at
        if waited_s >= within_s:
            raise Overloaded(
                f"the state could not be copied within {within_s} s: its configuration changes, it "
                "is being replaced by a state transfer, or the volume lacks room; try again later"
            )
        await asyncio.sleep(RETRY_S)
        waited_s += RETRY_S
