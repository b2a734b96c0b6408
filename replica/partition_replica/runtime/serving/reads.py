"""Reads: the applied state, entries of the log, contents of files.

A read takes everything that it needs from one transaction of the state. The applier runs on its own
thread, so two transactions may see two different states.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from partition_replica.core.model import Ineffective, LogEntry, OpenedFile
from partition_replica.core.paths import check_path, shown
from partition_replica.core.ports import EntryReader
from partition_replica.core.services import StateReader
from partition_replica.errors import (
    Compacted,
    Damaged,
    InvalidArgument,
    NoLeader,
    NotFound,
)
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.runtime.member import Member
from partition_replica.storage.blobs import BlobStore
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.state import LmdbState

READ_INDEX_TIMEOUT_S = 5.0


def check_stored(lo: int, first: int, applied: int) -> None:
    """Checks that a reader can continue at `lo`, if the log begins at `first` and the state is at
    `applied`. Raises Compacted, which contains the LSN to continue at, and NoLeader."""
    if first > applied + 1:
        # The log has installed a received state, but the current state is still the old one. So
        # neither "compacted, read the state" nor "no new entries" would be right.
        raise NoLeader("a state transfer is being installed here: retry in a moment")
    if lo < first:
        raise Compacted(
            f"entry {lo} is compacted, the first stored one is {first}: read the state, which is "
            f"at {applied}, then continue at {applied + 1}",
            first,
            applied,
        )


class Reads:
    """The reads of a replica. On the event loop."""

    def __init__(
        self,
        log: EntryReader,
        states: StateGenerations,
        blobs: BlobStore,
        current: CurrentMember,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`count` is called for each linearizable read, with what confirmed it: "round", "lease",
        or "leader" at a follower."""
        self._count = count
        self._log = log
        self._states = states
        self._blobs = blobs
        self._current = current

    async def point(self, *, linearizable: bool, at_follower: bool = False) -> StateReader:
        member = self._current.running()
        if linearizable and member.loop.role != "leader":
            await self._reach_by_leader(member, at_follower)
        elif linearizable:
            member.check_serving()
            if not await self._reach_leased(member):
                index = await member.read_index(READ_INDEX_TIMEOUT_S)
                await member.waits.reach_for_caller(index)
                self._count("round")
        return self._states.current

    async def _reach_by_leader(self, member: Member, at_follower: bool) -> None:
        """Waits for an index that the leader confirms. Raises NotLeader unless `at_follower`,
        NoLeader."""
        if not at_follower:
            raise self._current.not_leader(member)
        if not member.loop.leader:
            raise NoLeader("this replica knows no leader to ask: retry with backoff")
        try:
            async with asyncio.timeout(READ_INDEX_TIMEOUT_S):
                index = await member.read_index(READ_INDEX_TIMEOUT_S)
                # The entries up to it may not come: the link to the leader may be cut now.
                await member.waits.reach_for_caller(index)
        except TimeoutError as error:
            raise NoLeader(
                f"this replica did not reach the leader's commit index within "
                f"{READ_INDEX_TIMEOUT_S} s: retry with backoff, or at another replica"
            ) from error
        self._count("leader")

    async def _reach_leased(self, member: Member) -> bool:
        """Waits for the index of a read by the lease. False if there was no lease, or none any more
        after the wait."""
        index = member.leased_index()
        if index is None:
            return False
        await member.waits.reach_for_caller(index)
        if member.leased_index() is None:
            return False
        self._count("lease")
        return True

    def entries(self, lo: int, bytes_max: int) -> tuple[list[LogEntry], int]:
        self._current.running()
        # Read before the log's: the log is never behind it, and may grow meanwhile.
        applied = self._states.current.applied.index
        first = self._log.first_stored
        lo = lo or first
        check_stored(lo, first, applied)
        if lo > applied:
            return [], lo
        found = self._log.read(LSN(lo), LSN(applied + 1), bytes_max)
        return found, lo + len(found)

    def unapplied(self, entries: Sequence[LogEntry]) -> dict[LSN, Ineffective | None]:
        if not entries:
            return {}
        first, last = entries[0].index, entries[-1].index
        found: dict[LSN, Ineffective | None] = {
            **self._states.current.unapplied_between(first, last)
        }
        # Entries up to an import's base were not applied here, so their effect is not known.
        base = self._log.base
        found |= {entry.index: None for entry in entries if entry.index <= base}
        # Notes are deleted after their entries. If the entries are still stored, no note is
        # missing.
        applied = self._states.current.applied.index
        check_stored(first, self._log.first_stored, applied)
        return found

    async def advanced(self) -> None:
        member = self._current.running()
        if without_s := member.leaderless_s:
            raise NoLeader(
                f"this replica has had no leader for {without_s:.1f} s, so it receives no new "
                "entries: follow another replica"
            )
        await member.waits.change()

    async def open_file(self, path: bytes, offset: int, *, linearizable: bool) -> OpenedFile:
        check_path(path)
        await self.point(linearizable=linearizable)
        return self.open_here(path, offset)

    def open_here(self, path: bytes, offset: int) -> OpenedFile:
        """Opens a file of the current state."""
        return open_file(self._states.current, self._blobs, path, offset)

    def close_file(self, opened: OpenedFile) -> None:
        close_file(self._blobs, opened)


def open_file(state: LmdbState, blobs: BlobStore, path: bytes, offset: int) -> OpenedFile:
    """Opens a file of `state`, and holds its blob until `close_file`. Raises NotFound,
    InvalidArgument, Damaged."""
    # The tree may drop the last name of the blob right after the transaction. Collection is paused
    # until the blob is held, so a blob that was named is still here.
    blobs.pause_collection()
    try:
        node, inlined, applied = state.get_file(path)
        if node is None:
            raise NotFound(f"{shown(path)} is not a file of the tree at LSN {applied}")
        if offset > node.size:
            raise InvalidArgument(
                f"offset {offset} lies after the end of {shown(path)}, which has {node.size} bytes"
            )
        if inlined is not None:
            return OpenedFile(node, inlined, applied)
        if not blobs.has(node.digest):
            raise Damaged(
                f"{shown(path)} names payload {node.digest.hex()}, which is not on the "
                "volume: keep the volume, and let the operator replace this member"
            )
        blobs.hold([node.digest])
        return OpenedFile(node, blobs.path(node.digest), applied)
    finally:
        blobs.resume()


def close_file(blobs: BlobStore, opened: OpenedFile) -> None:
    """Releases the hold of `open_file` on the blob. It is in memory, so this runs on the event
    loop. The reader itself opens and closes the file (`transport.chunks`)."""
    if isinstance(opened.content, Path):
        blobs.release_hold([Digest(opened.node.digest)])
