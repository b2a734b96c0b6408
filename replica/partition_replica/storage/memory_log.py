"""The reference implementation of `core.ports.LogStorage`: simple code on dictionaries, without
durability. Conformance tests compare it with the log in LMDB, so it shares no code with
`storage.log`."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from partition_replica.core import compaction
from partition_replica.core.compaction import APPLIED, SNAPSHOT, LogRetention
from partition_replica.core.model import (
    Backfill,
    Configuration,
    HardState,
    Identity,
    InitStatus,
    LogBatch,
    LogEntry,
    Position,
)
from partition_replica.core.ports import FIRST, NOTHING, never
from partition_replica.errors import Cancelled, Compacted, Damaged, Stopping, Unavailable
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term


class MemoryLog:
    """`storage.log.LmdbLog` without a disk. One thread."""

    def __init__(
        self,
        new_member: MemberID,
        blob_digests: Callable[[LogEntry], list[Digest]],
        *,
        retention: LogRetention | None = None,
    ) -> None:
        self.retention = retention or LogRetention()
        self.identity = Identity(new_member, ClusterID(""), 1)
        self.status = InitStatus.UNKNOWN
        self.boundary = Position(LSN(0), Term(0))
        self.hard_state = HardState(Term(0), MemberID(0), LSN(0))
        self.configuration: tuple[LSN, Configuration] = (LSN(0), Configuration())
        self.backfill: Backfill | None = None
        self.fencing_token = 0
        self._hard_state_saved = False
        self._rows: dict[int, LogEntry] = {}
        self._positions: dict[str, LSN] = {}
        self._holds: list[LSN] = []
        self._weights: dict[Digest, tuple[LSN, int]] = {}
        self._termed = 0
        self._blob_digests = blob_digests
        self._consumer: Callable[[LSN, LSN], None] | None = None
        self._closed = False

    @property
    def first_stored(self) -> LSN:
        return LSN(min(self._rows, default=self.boundary.index + 1))

    @property
    def last(self) -> Position:
        index = max(self._rows, default=0)
        if index <= self.boundary.index:
            return self.boundary
        return Position(LSN(index), self._rows[index].term)

    @property
    def committed(self) -> LSN:
        return self.last.index if self.identity.standalone else self.hard_state.commit

    @property
    def positions(self) -> dict[str, LSN]:
        positions = dict(self._positions)
        if self._holds:
            positions[SNAPSHOT] = min(self._holds)
        return positions

    @property
    def consumer_count(self) -> int:
        return len(set(self.positions) - compaction.RESERVED)

    @property
    def base(self) -> LSN:
        return LSN(0)

    @property
    def low_water_mark(self) -> LSN:
        return compaction.low_water_mark(self.positions)

    def reopen(self) -> None:
        """Simulates a restart: data that LMDB does not store is lost."""
        self.status = InitStatus.UNKNOWN
        self._consumer = None
        self._positions.pop(APPLIED, None)
        self._holds.clear()
        self._weights.clear()

    def initialize(
        self, applied: LSN, cancelled: Callable[[], bool] = never, *, prune: bool = True
    ) -> InitStatus:
        self._check_open()
        self.status = InitStatus.UNKNOWN
        if cancelled():
            raise Cancelled("cancelled")
        if not self.boundary.index <= applied <= self.last.index:
            raise Damaged(f"the state is at LSN {applied}, outside of the log")
        self._positions[APPLIED] = applied
        target = self.compaction_target(1) if prune else None
        if target is not None:
            self.compact(target)
        while prune and self.prune(4096)[0]:
            if cancelled():
                raise Cancelled("cancelled")
        plain = any(not row.term for row in self._rows.values())
        plain = plain or self.backfill is not None
        plain = plain or (self.identity.standalone and self.last.index > 0)
        if plain or (self.boundary.index and not self.boundary.term):
            self.status = InitStatus.NEEDS_BACKFILL
        else:
            self.status = (
                InitStatus.BOOTSTRAPPED if self._hard_state_saved else InitStatus.UNBOOTSTRAPPED
            )
        self._notify(LSN(0))
        return self.status

    def subscribe(self, consumer: Callable[[LSN, LSN], None]) -> None:
        self._consumer = consumer

    def close(self) -> None:
        self._closed = True

    def entries(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        if lo <= self.boundary.index:
            raise self._compacted(lo)
        if self.last.index == self.boundary.index:
            raise Unavailable("empty")
        return self.read(lo, hi, bytes_max)

    def read(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        if lo < self.first_stored:
            raise self._compacted(lo)
        if hi > self.last.index + 1:
            raise Unavailable(f"{hi}")
        self._check_open()
        found: list[LogEntry] = []
        for index in range(lo, hi):
            size = sum(len(entry.data) for entry in found) + len(self._rows[index].data)
            if found and bytes_max is not None and size > bytes_max:
                break
            found.append(self._rows[index])
        return found

    def term(self, index: LSN) -> Term:
        if index == self.boundary.index:
            return self.boundary.term
        if index < self.boundary.index:
            raise self._compacted(index)
        if index > self.last.index:
            raise Unavailable(f"{index}")
        self._check_open()
        return self._rows[index].term

    def names_blob(self, digest: Digest) -> bool:
        return self.last_naming(digest) is not None

    def last_naming(self, digest: Digest) -> LSN | None:
        self._check_open()
        naming = [i for i, entry in self._rows.items() if digest in self._blob_digests(entry)]
        return LSN(max(naming)) if naming else None

    @property
    def journaled_count(self) -> int:
        return 0

    def checkpoint(self) -> None:
        self._check_open()

    def commit(self, batch: LogBatch) -> list[Digest]:
        self._check_open()
        before = (dict(self._rows), self.boundary, self.hard_state, self.identity)
        committed_before = self.committed
        try:
            self._commit(batch)
        except BaseException:
            self._rows, self.boundary, self.hard_state, self.identity = before
            raise
        if batch.hard_state or batch.snapshot:
            self._hard_state_saved = True
        if batch.snapshot is not None:
            self.configuration = (batch.snapshot.position.index, batch.snapshot.configuration)
            if APPLIED in self._positions:
                index = batch.snapshot.position.index
                self._positions[APPLIED] = max(self._positions[APPLIED], index)
        self._notify(committed_before)
        return self._released(before[0])

    def _commit(self, batch: LogBatch) -> None:
        if batch.snapshot is not None:
            self._rows = {}
            self.boundary = batch.snapshot.position
            self.identity = replace(self.identity, state_generation=batch.snapshot.state_generation)
            self.hard_state = HardState(
                max(self.hard_state.term, self.boundary.term),
                self.hard_state.vote,
                self.boundary.index,
            )
        for entry in batch.entries:
            self._put(entry)
        if batch.hard_state is not None:
            wanted = batch.hard_state
            if wanted.term < self.hard_state.term or wanted.commit < self.hard_state.commit:
                raise ValueError("hard state falls")
            if wanted.commit > self.last.index:
                raise ValueError("commit passes the last index")
            self.hard_state = wanted

    def _put(self, entry: LogEntry) -> None:
        fixed = self.last.index
        if not self.identity.standalone:
            fixed = max(self.hard_state.commit, self.boundary.index)
        if entry.index <= self.last.index:
            if entry.index <= fixed:
                raise ValueError("entry would overwrite a committed one")
            self._rows = {i: row for i, row in self._rows.items() if i < entry.index}
        if entry.index != self.last.index + 1:
            raise ValueError("entry leaves a gap")
        if self.identity.standalone:
            if entry.term or entry.kind:
                raise ValueError("entry of Raft's in a standalone log")
            if self.backfill is not None:
                entry = replace(entry, term=self.backfill.term)
        elif entry.term < max(self.last.term, 1):
            raise ValueError("entry whose term falls")
        self._rows[entry.index] = entry

    def append(self, expected: LSN | None, bodies: Sequence[bytes]) -> LSN:
        if not self.identity.standalone:
            raise ValueError("append to a replicated log")
        first = LSN(self.last.index + 1)
        if expected is not None and expected != first:
            raise ValueError("append elsewhere than at the end")
        entries = [LogEntry(LSN(first + n), Term(0), 0, body) for n, body in enumerate(bodies)]
        self.commit(LogBatch(entries))
        return first

    def truncate_from(self, lsn: LSN) -> list[Digest]:
        self._check_open()
        if not self.identity.standalone:
            raise ValueError("truncation of a replicated log")
        if self.backfill is not None:
            raise ValueError("truncation during a backfill")
        if lsn > self.last.index:
            return []
        if lsn <= max([self.boundary.index, *self.positions.values()]):
            raise ValueError("truncation of what was applied or acknowledged")
        before = dict(self._rows)
        self._rows = {i: row for i, row in self._rows.items() if i < lsn}
        return self._released(before)

    def save_configuration(self, index: LSN, configuration: Configuration) -> None:
        self._check_open()
        if index < self.configuration[0]:
            raise ValueError("configuration older than the saved one")
        self.configuration = (index, configuration)

    def save_fencing_token(self, transitions: int, holder: str) -> None:
        self._check_open()
        if transitions < self.fencing_token:
            raise ValueError("fencing token falls")
        self.fencing_token = transitions

    def bootstrap(
        self, cluster: ClusterID, configuration: Configuration, start: Position = FIRST
    ) -> None:
        self._check_new()
        if min(start.index, start.term) < 1:
            raise ValueError("a group begins at (1, 1)")
        self.identity = replace(self.identity, cluster_id=cluster)
        self.configuration = (start.index, configuration)
        self._begin_behind(start)
        self.status = InitStatus.BOOTSTRAPPED

    def bootstrap_standalone(self, cluster: ClusterID, start: Position = NOTHING) -> None:
        self._check_new()
        self.identity = replace(self.identity, cluster_id=cluster, standalone=True)
        self.configuration = (start.index, Configuration(voters=(self.identity.member_id,)))
        if start.index:
            self._begin_behind(start)

    def _check_new(self) -> None:
        self._check_open()
        if self.identity.cluster_id or self.last.index:
            raise ValueError("not a new log")

    def _begin_behind(self, start: Position) -> None:
        self.boundary = start
        if start.term:
            self.hard_state = HardState(start.term, MemberID(0), start.index)
            self._hard_state_saved = True
        self._positions[APPLIED] = start.index

    def join(self, cluster: ClusterID) -> None:
        self._check_open()
        self.identity = replace(self.identity, cluster_id=cluster)

    def register(self, name: str, lsn: LSN) -> None:
        self._check_open()
        compaction.check_consumer_name(name)
        if name in self._positions:
            raise ValueError("already registered")
        if len(set(self._positions) - compaction.RESERVED) >= compaction.CONSUMERS_MAX:
            raise ValueError("too many consumers")
        if not 0 <= lsn <= self.last.index:
            raise ValueError("position out of range")
        if lsn + 1 < self.first_stored:
            raise self._compacted(lsn)
        self._positions[name] = lsn

    def unregister(self, name: str) -> None:
        self._check_open()
        if name in compaction.RESERVED:
            raise KeyError(name)
        del self._positions[name]

    def acknowledge(self, name: str, lsn: LSN) -> None:
        if lsn < self._positions[name] or (
            lsn != self._positions[name] and not 0 <= lsn <= self.last.index
        ):
            raise ValueError("position falls, or passes the last entry")
        self._positions[name] = lsn

    def compaction_target(self, step_entries: int) -> LSN | None:
        if self.retention.keep_all or APPLIED not in self._positions:
            return None
        held, boundary = self._held(), self.boundary.index
        target = LSN(held - self.retention.trail_entries)
        start, size = max(held, boundary), 0
        while start > boundary:
            size += self._bytes(start)
            if size > self.retention.trail_bytes:
                break
            start -= 1
        if start > max(target, boundary):
            return LSN(start)
        return target if target - boundary >= max(step_entries, 1) else None

    def _bytes(self, index: int) -> int:
        row = self._rows[index]
        weighed = sum(size for lsn, size in self._weights.values() if lsn == index)
        return weighed + (0 if row.kind else len(row.data))

    def weigh(self, lsn: LSN, digest: Digest, size: int) -> None:
        self._weights[digest] = (lsn, size)

    def _held(self) -> int:
        """The highest LSN that no position and no hold needs."""
        lag_max = self.retention.consumer_lag_entries_max
        holding = [
            lsn
            for name, lsn in self._positions.items()
            if name == APPLIED or self.last.index - lsn <= lag_max
        ]
        holding += [lsn for lsn in self._holds if self.last.index - lsn <= lag_max]
        return min(holding, default=0)

    def hold(self, lsns: Collection[LSN]) -> None:
        self._holds = list(lsns)

    def compact(self, index: LSN) -> None:
        if index <= self.boundary.index:
            return
        if index > min(self._positions.get(APPLIED, 0), self.last.index):
            raise ValueError("compaction above applied")
        self.boundary = Position(index, self.term(index))

    def prune(self, rows_max: int) -> tuple[int, list[Digest]]:
        self._check_open()
        if self.retention.keep_all:
            return 0, []
        before = dict(self._rows)
        until = min(self.boundary.index, self._held()) if self.positions else 0
        gone = sorted(index for index in self._rows if index <= until)[:rows_max]
        for index in gone:
            del self._rows[index]
        return len(gone), self._released(before)

    def backfill_bytes(self) -> int:
        return 0

    def begin_backfill(self) -> Backfill:
        self._check_open()
        if not self.identity.standalone or not self.identity.cluster_id:
            raise ValueError("only a standalone partition's log is backfilled")
        if self.backfill is None:
            terms = [row.term for row in self._rows.values()]
            highest = max([self.hard_state.term, self.boundary.term, *terms])
            self._termed = max((i for i, row in self._rows.items() if row.term), default=0)
            first, last = self.first_stored, self.last.index
            self.backfill = Backfill(Term(highest + 1), first, first, last)
        return self.backfill

    def step_backfill(self, rows_max: int) -> Backfill:
        if self.backfill is None:
            raise ValueError("no backfill is in progress")
        now = self.backfill
        lo = max(now.next, self.first_stored)
        hi = min(lo + rows_max, now.target + 1)
        for index in range(lo, hi):
            row = self._rows[index]
            if row.term:
                continue
            term = now.term
            if index < self._termed:
                before = 0
                if index - 1 == self.boundary.index:
                    before = self.boundary.term
                if index - 1 in self._rows:
                    before = self._rows[index - 1].term
                term = Term(max(before, 1))
            self._rows[index] = replace(row, term=term)
            if index == self.boundary.index:
                self.boundary = Position(LSN(index), term)
        self.backfill = replace(now, next=LSN(max(hi, lo)))
        return self.backfill

    def backfilled_position(self, applied: LSN) -> Position:
        if self.backfill is None:
            raise ValueError("no backfill is in progress")
        term = self.term(applied)
        if not term:
            term = Term(1) if applied < self._termed else self.backfill.term
        return Position(applied, term)

    def finish_backfill(self, applied: Position) -> None:
        if self.backfill is None or not self.backfill.complete:
            raise ValueError("the backfill is not complete")
        last = self.last.index
        if not max(1, self.boundary.index) <= applied.index <= last:
            raise ValueError("applied out of range")
        if applied != self.backfilled_position(applied.index):
            raise ValueError("applied has another term")
        self.hard_state = HardState(self.backfill.term, MemberID(0), last)
        self._hard_state_saved = True
        self.configuration = (last, Configuration(voters=(self.identity.member_id,)))
        self.identity = replace(self.identity, standalone=False)
        self.boundary, self.backfill = applied, None
        self._positions[APPLIED] = LSN(max(self._positions.get(APPLIED, 0), applied.index))
        self.status = InitStatus.BOOTSTRAPPED

    def disable_replication(self) -> None:
        self._check_open()
        index, configuration = self.configuration
        if self.identity.standalone or not self.identity.cluster_id:
            raise ValueError("not replicated")
        if configuration != Configuration(voters=(self.identity.member_id,)):
            raise ValueError("not a sole voter")
        if any(row.kind for i, row in self._rows.items() if i > max(index, self.boundary.index)):
            raise ValueError("a change of the configuration is not in it yet")
        self.hard_state = replace(self.hard_state, commit=self.last.index)
        self._hard_state_saved = True
        self.identity = replace(self.identity, standalone=True)
        self.status = InitStatus.NEEDS_BACKFILL

    # --- inside -------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Stopping("the log is closed")

    def _notify(self, committed_before: LSN) -> None:
        if self._consumer is not None and self.committed > committed_before:
            self._consumer(self.low_water_mark, self.committed)

    def _released(self, before: dict[int, LogEntry]) -> list[Digest]:
        """The digests that only deleted rows named. Also drops the weights of deleted entries."""
        self._weights = {
            digest: (lsn, size)
            for digest, (lsn, size) in self._weights.items()
            if lsn in self._rows and self._rows[lsn] is before.get(lsn, self._rows[lsn])
        }
        gone = (entry for index, entry in before.items() if self._rows.get(index) is not entry)
        named = {digest for entry in gone for digest in self._blob_digests(entry)}
        return sorted(digest for digest in named if not self.names_blob(digest))

    def _compacted(self, index: int) -> Compacted:
        return Compacted(
            f"entry {index} is compacted", self.first_stored, self._positions.get(APPLIED, LSN(0))
        )
