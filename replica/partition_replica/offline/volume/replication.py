"""Enables and disables replication on a stopped replica's volume."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from partition_replica.core.limits import Limits
from partition_replica.core.model import Backfill
from partition_replica.errors import DiskFull, InvalidArgument, MembershipRefused
from partition_replica.ids import LSN
from partition_replica.storage.files import VolumeLock
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import Volume


@contextmanager
def open_volume(root: Path) -> Iterator[Volume]:
    """Opens a volume for writing, under its lock, as a starting replica does."""
    if not (root / "log").exists():
        raise InvalidArgument(f"{root} is not a replica's volume: it has no log")
    lock = VolumeLock(root)
    if not lock.try_acquire():
        raise InvalidArgument(f"a running replica uses the volume {root}: stop it first")
    volume = Volume(root, lock, pins_max=Limits().pins_max)
    try:
        yield volume
    finally:
        volume.close()


def disable(root: Path) -> int:
    """Makes a sole voter's log standalone, in one durable transaction, and returns its last LSN.
    The replica is standalone from its next start. Raises MembershipRefused, InvalidArgument."""
    with open_volume(root) as volume:
        try:
            volume.log.disable_replication()
        except ValueError as error:
            raise MembershipRefused(str(error)) from error
        return volume.log.last.index


def enable(root: Path, rows: int, progress: Callable[[Backfill], None]) -> Backfill:
    """Backfills a standalone log, `rows` entries per transaction, and makes the replica a sole
    voter. If it is interrupted, the next call or the replica's next start resumes it. Raises
    MembershipRefused, InvalidArgument, DiskFull."""
    with open_volume(root) as volume:
        log, state = volume.log, volume.state
        try:
            _apply_first(log, state)
            if log.identity.standalone:
                _check_room(volume)
            found = log.begin_backfill()
            while not found.complete:
                progress(found)
                found = log.step_backfill(rows)
            progress(found)
            applied = log.backfilled_position(state.sync().index)
            state.set_term(applied.term)
            log.finish_backfill(applied)
        except ValueError as error:
            raise MembershipRefused(str(error)) from error
        return found


def _check_room(volume: Volume) -> None:
    """Raises DiskFull."""
    room = volume.space.room_for(volume.log.backfill_bytes(), Limits(), own_work=True)
    if not room.enough:
        raise DiskFull(
            f"the backfill needs up to {room.needed_bytes} free bytes, including the reserve, and "
            f"{room.free_bytes} are free: free space or grow the volume"
        )


def _apply_first(log: LmdbLog, state: LmdbState) -> None:
    """Applies the first entry, because a group's log begins after an applied entry. Appends an
    entry without operations if the log is empty. Raises ValueError for a replicated log."""
    if state.applied.index:
        return
    if not log.last.index:
        log.append(LSN(1), [b""])
    state.apply(log.read(LSN(1), LSN(2), None), {})
