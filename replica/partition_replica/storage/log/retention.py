"""Positions, and compaction and pruning of the entries that no position needs."""

from collections.abc import Callable, Collection, Iterator
from functools import partial

import lmdb
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core import compaction
from partition_replica.core.compaction import APPLIED
from partition_replica.core.model import InitStatus, Position
from partition_replica.core.ports import never
from partition_replica.errors import Cancelled, Damaged, DiskFull, PruneFailed
from partition_replica.ids import LSN, Digest
from partition_replica.storage.environment import DAMAGE, lmdb_failures
from partition_replica.storage.failpoints import reach
from partition_replica.storage.log.journaled import JournaledLog
from partition_replica.storage.log.tables import HARD_STATE

PRUNE_ROWS = 4096


class RetainedLog(JournaledLog):
    """A log that keeps the entries that its positions need."""

    def initialize(
        self, applied: LSN, cancelled: Callable[[], bool] = never, *, prune: bool = True
    ) -> InitStatus:
        with self._writing:
            self._check_open()
            self._status = InitStatus.UNKNOWN
            if cancelled():
                raise Cancelled("the initialization was cancelled before it read anything")
            if not self._boundary.index <= applied <= self._last.index:
                raise Damaged(
                    f"the state is at LSN {applied}, outside of the log's range "
                    f"{self._boundary.index} to {self._last.index}: state and log are of different "
                    "replicas, or one of them is damaged; keep the volume"
                )
            self._positions[APPLIED] = applied
            if prune:
                self._prune_all(cancelled)
            self._status = self._init_status()
            self._notify(LSN(0))
            return self._status

    def _prune_all(self, cancelled: Callable[[], bool]) -> None:
        target = self.compaction_target(1)
        if target is not None:
            self.compact(target)
        while self.prune(PRUNE_ROWS)[0]:
            if cancelled():
                raise Cancelled("the initialization was cancelled while it pruned")

    def _init_status(self) -> InitStatus:
        with self._environment.begin() as txn:
            span = self.tables.span(txn)
            missing = span and self.tables.metadata_missing(txn, *span)
            saved = self.tables.get_meta(txn, HARD_STATE, rows.HardStateRow) is not None
        if missing or (self._boundary.index and not self._boundary.term):
            return InitStatus.NEEDS_BACKFILL
        if self._backfill is not None or (self._identity.standalone and self._last.index):
            return InitStatus.NEEDS_BACKFILL
        return InitStatus.BOOTSTRAPPED if saved else InitStatus.UNBOOTSTRAPPED

    def _notify(self, committed_before: LSN) -> None:
        if self._consumer is not None and self.committed > committed_before:
            self._consumer(self.low_water_mark, self.committed)

    # --- positions, compaction ----------------------------------------------------------------

    @property
    def positions(self) -> dict[str, LSN]:
        return compaction.with_held(self._positions.copy(), self._held)

    @property
    def consumer_count(self) -> int:
        return len(set(self._positions) - compaction.RESERVED)

    @property
    def low_water_mark(self) -> LSN:
        return compaction.low_water_mark(self.positions)

    def register(self, name: str, lsn: LSN) -> None:
        compaction.check_consumer_name(name)
        with self._writing:
            if name in self._positions:
                raise ValueError(f"consumer {name!r} is already registered")
            if self.consumer_count >= compaction.CONSUMERS_MAX:
                raise ValueError(
                    f"{compaction.CONSUMERS_MAX} consumers are registered, which is the maximum: "
                    "remove one first"
                )
            self._check_position(name, lsn)
            if lsn + 1 < self._first_stored:
                raise self._compacted(LSN(lsn + 1), self._first_stored)
            with self._transaction() as txn:
                self.tables.put_position(txn, name, lsn)
            self._positions[name] = lsn

    def unregister(self, name: str) -> None:
        with self._writing:
            if name in compaction.RESERVED or name not in self._positions:
                raise KeyError(name)
            with self._transaction() as txn:
                txn.delete(name.encode(), db=self.tables.position)
            del self._positions[name]

    def acknowledge(self, name: str, lsn: LSN) -> None:
        with self._writing:
            now = self._positions[name]
            if lsn == now:
                return
            if lsn < now:
                raise ValueError(
                    f"position {name!r} is at {now} and cannot move back to {lsn}: give an LSN "
                    f"from {now}"
                )
            self._check_position(name, lsn)
            if name not in compaction.RESERVED:
                with self._transaction() as txn:
                    self.tables.put_position(txn, name, lsn)
            self._positions[name] = lsn

    def _check_position(self, name: str, lsn: LSN) -> None:
        # Not by the saved commit index: it is saved lazily and may be below the applied LSN.
        if not 0 <= lsn <= self._last.index:
            raise ValueError(
                f"position {name!r} cannot be {lsn}: allowed are 0 to {self._last.index}, the last "
                "LSN"
            )

    def hold(self, lsns: Collection[LSN]) -> None:
        self._held = tuple(lsns)  # without the lock, which a commit may hold for long

    def weigh(self, lsn: LSN, digest: Digest, size: int) -> None:
        self._weighed.append((lsn, digest, size))  # counted under the lock, later

    def compaction_target(self, step_entries: int) -> LSN | None:
        if self.retention.keep_all or APPLIED not in self._positions:
            return None
        with self._writing:
            mark = compaction.low_water_mark(self._holding())
            return compaction.compaction_target(
                mark,
                self._boundary.index,
                trail_entries=self.retention.trail_entries,
                step_entries=step_entries,
                trail_start=self._trail_start(mark),
            )

    def _holding(self) -> dict[str, LSN]:
        lag_max = self.retention.consumer_lag_entries_max
        return compaction.holding(self._positions, self._held, self._last.index, lag_max)

    def _count_weighed(self) -> None:
        while self._weighed:
            self._trail.weigh(*self._weighed.popleft())

    def _trail_start(self, mark: LSN) -> LSN:
        self._count_weighed()
        end = LSN(max(mark - 1, self._boundary.index))
        low = LSN(end - self.retention.trail_entries)
        with lmdb_failures("reading the log"), self._environment.begin(buffers=True) as txn:
            return self._trail.measure(self._boundary.index, end, low, partial(self._sizes, txn))

    def _sizes(self, txn: "lmdb.Transaction[memoryview]", lo: int, hi: int) -> Iterator[int]:
        """The sizes in bytes of the data of the entries [lo, hi)."""
        yield from self.tables.sizes(txn, lo, min(hi, self._journaled.first))
        yield from (len(entry.data) for entry in self._journaled.between(lo, hi))

    def compact(self, index: LSN) -> None:
        with self._writing:
            if index <= self._boundary.index:
                return
            applied = self._positions.get(APPLIED, LSN(0))
            if index > min(applied, self._last.index):
                raise ValueError(
                    f"compaction to {index} refused: the applied LSN is {applied}, the last LSN "
                    f"{self._last.index}"
                )
            boundary = Position(index, self.term(index))
            reach("log.compact.before")
            with self._transaction() as txn:
                self._put_boundary(txn, boundary)
            reach("log.compact.after")
            self._boundary = boundary

    def prune(self, rows_max: int) -> tuple[int, list[Digest]]:
        with self._writing:
            self._check_open()
            if self.retention.keep_all:
                return 0, []
            mark = compaction.low_water_mark(self._holding())
            until = min(self._boundary.index, mark - 1)
            first = self._first_stored
            end = min(until, first + rows_max - 1)
            if end < first:
                return 0, []
            try:
                self.checkpoint()  # as each transaction takes over what the journal has
            except DiskFull as error:
                raise PruneFailed(f"nothing is deleted: {error}") from error
            reach("log.prune.before")
            released = self._prune(first, end)
            reach("log.prune.after")
            return end - first + 1, released

    def _prune(self, first: LSN, end: int) -> list[Digest]:
        with lmdb_failures("beginning to prune the log"):
            txn = self._environment.begin(write=True)
        try:
            released = self.tables.delete(txn, first, end)
            released = {d for d in released if not self.tables.names(txn, d)}
        except DAMAGE as error:
            txn.abort()
            raise Damaged(f"pruning the log: {error}: the volume is damaged; keep it") from error
        except lmdb.Error as error:
            txn.abort()
            raise PruneFailed(
                f"entries {first} to {end} could not be deleted ({error}); nothing changed, and "
                "the replica tries again"
            ) from error
        except BaseException:
            txn.abort()
            raise
        self._first_stored = LSN(end + 1)  # before the rows are deleted: readers get Compacted
        with lmdb_failures("commit of the log"):
            txn.commit()
        return sorted(released)
