"""Replication switched off and on for a stopped replica."""

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
    """Opens a volume to write, under its lock, as a starting replica does."""
    if not (root / "log").exists():
        raise InvalidArgument(f"{root} is no replica's volume: it holds no log")
    lock = VolumeLock(root)
    if not lock.try_acquire():
        raise InvalidArgument(f"a replica uses the volume {root}: stop it first")
    volume = Volume(root, lock, pins_max=Limits().pins_max)
    try:
        yield volume
    finally:
        volume.close()


def disable(root: Path) -> int:
    """Makes a sole voter's log a plain one; returns its last LSN. The next start serves it without
    Raft. One durable transaction. Raises MembershipRefused, InvalidArgument."""
    with open_volume(root) as volume:
        try:
            volume.log.disable_replication()
        except ValueError as error:
            raise MembershipRefused(str(error)) from error
        return volume.log.last.index


def enable(root: Path, rows: int, progress: Callable[[Backfill], None]) -> Backfill:
    """Gives a standalone log Raft's metadata, `rows` entries a transaction, and makes the replica a
    sole voter. Interrupted at any point it goes on there, the next time or when the replica starts.
    Raises MembershipRefused, InvalidArgument."""
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
            f"the backfill takes up to {room.needed_bytes} bytes with what is reserved, "
            f"{room.free_bytes} are free: make room or grow the volume"
        )


def _apply_first(log: LmdbLog, state: LmdbState) -> None:
    """A group's log begins behind an applied entry: one that does nothing, where none was written.
    Raises ValueError for Raft's log."""
    if state.applied.index:
        return
    if not log.last.index:
        log.append(LSN(1), [b""])
    state.apply(log.read(LSN(1), LSN(2), None), {})
