"""Writes to a log: Raft's batches, a standalone log's appends, the volume's identity."""

from collections.abc import Sequence
from dataclasses import replace

from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.compaction import APPLIED, Trail
from partition_replica.core.model import (
    Configuration,
    HardState,
    Identity,
    InitStatus,
    LogBatch,
    LogEntry,
    Position,
)
from partition_replica.core.ports import FIRST, NOTHING
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage.environment import Transaction
from partition_replica.storage.failpoints import reach
from partition_replica.storage.log.checks import check_append, check_hard_state, check_overwrite
from partition_replica.storage.log.recovering import RecoverableLog
from partition_replica.storage.log.tables import LEASE


class LmdbLog(RecoverableLog):
    """One replica's log: implements core.ports.LogStorage."""

    # --- Raft's writes ------------------------------------------------------------------------

    def commit(self, batch: LogBatch) -> list[Digest]:
        with self._writing:
            self._check_open()
            committed_before = self.committed
            released = [] if self._commit_to_journal(batch) else self._commit(batch)
            self._notify(committed_before)
            return released

    def _commit(self, batch: LogBatch) -> list[Digest]:
        released: set[Digest] = set()
        boundary, last, hard_state = self._boundary, self._last, self._hard_state
        first_stored, identity = self._first_stored, self._identity
        configuration, backfill = self._configuration, self._backfill
        with self._transaction() as txn:
            if batch.snapshot is not None:
                boundary = last = batch.snapshot.position
                first_stored = LSN(boundary.index + 1)
                configuration = (boundary.index, batch.snapshot.configuration)
                identity = replace(identity, state_generation=batch.snapshot.state_generation)
                released |= self.tables.clear(txn)
                self._put_boundary(txn, boundary)
                self.tables.put_configuration(txn, *configuration)
                self.tables.put_identity(txn, identity)
                hard_state = HardState(
                    max(hard_state.term, boundary.term), hard_state.vote, boundary.index
                )
            if batch.entries:
                last, dropped = self._put_entries(txn, batch.entries, last, boundary, hard_state)
                released |= dropped
            if batch.hard_state is not None or batch.snapshot is not None:
                wanted = batch.hard_state or hard_state
                check_hard_state(wanted, hard_state, last)
                hard_state = wanted
                self._put_hard_state(txn, hard_state)
            released = {digest for digest in released if not self.tables.names(txn, digest)}
            if batch.snapshot is not None:
                # Before the rows are deleted: a reader gets Compacted, never Damaged.
                self._boundary = self._last = boundary
                self._first_stored = first_stored
                reach("log.snapshot.before")
            reach("log.commit.before")
        reach("log.commit.after")
        self._boundary, self._last, self._hard_state = boundary, last, hard_state
        self._first_stored, self._identity = first_stored, identity
        self._configuration, self._backfill = configuration, backfill
        if batch.snapshot is not None:
            self._trail = Trail(self.retention.trail_bytes)
            self._weighed.clear()
        if batch.snapshot is not None and APPLIED in self._positions:
            self._positions[APPLIED] = max(self._positions[APPLIED], boundary.index)
        return sorted(released)

    def _put_entries(
        self,
        txn: Transaction,
        entries: list[LogEntry],
        last: Position,
        boundary: Position,
        hard_state: HardState,
    ) -> tuple[Position, set[Digest]]:
        """Writes entries after `last`, or overwrites uncommitted ones. Returns (the new last
        position, the blobs that overwritten entries named)."""
        plain, plain_term = self._identity.standalone, self._plain_term()
        fixed = last.index if plain else max(hard_state.commit, boundary.index)
        released: set[Digest] = set()
        pending: list[LogEntry] = []
        index, term = last.index, last.term
        for entry in entries:
            if entry.index <= index:
                check_overwrite(entry, fixed)
                self.tables.put(txn, pending, plain_term)
                pending = []
                released |= self.tables.delete(txn, entry.index, index)
                self._count_weighed()
                self._trail.truncate(entry.index)
                reach("log.overwrite")
                index = LSN(entry.index - 1)
                term = boundary.term if index == boundary.index else self.tables.term(txn, index)
            check_append(entry, index, term, plain)
            pending.append(entry)
            index, term = entry.index, entry.term or plain_term
        self.tables.put(txn, pending, plain_term)
        return Position(index, term), released

    def save_configuration(self, index: LSN, configuration: Configuration) -> None:
        with self._writing:
            if index < self._configuration[0]:
                raise ValueError(
                    f"the configuration as of {index} is older than the saved one, as of "
                    f"{self._configuration[0]}"
                )
            with self._transaction() as txn:
                self.tables.put_configuration(txn, index, configuration)
            self._configuration = (index, configuration)

    def save_fencing_token(self, transitions: int, holder: str) -> None:
        with self._writing:
            if transitions < self._fencing_token:
                raise ValueError(
                    f"fencing token {transitions} of {holder} is below {self._fencing_token}: "
                    "tokens never fall"
                )
            with self._transaction() as txn:
                row = rows.LeaseRow(transitions=transitions, holder=holder)
                self.tables.put_meta(txn, LEASE, row)
            self._fencing_token = transitions

    def bootstrap(
        self, cluster: ClusterID, configuration: Configuration, start: Position = FIRST
    ) -> None:
        """The state must already be durable at `start`."""
        if start.index < 1 or start.term < 1:
            raise ValueError(f"a group's log must begin at (1, 1) or above, not at {start}")
        self._begin(replace(self._identity, cluster_id=cluster), configuration, start)
        self._status = InitStatus.BOOTSTRAPPED

    def bootstrap_standalone(self, cluster: ClusterID, start: Position = NOTHING) -> None:
        identity = replace(self._identity, cluster_id=cluster, standalone=True)
        self._begin(identity, Configuration(voters=(identity.member_id,)), start)

    def _begin(self, identity: Identity, configuration: Configuration, start: Position) -> None:
        """Makes the log begin after `start`, without entries, in one transaction."""
        hard_state = HardState(start.term, MemberID(0), start.index)
        with self._writing:
            if self._identity.cluster_id or self._last.index:
                raise ValueError(
                    f"the log belongs to cluster ID {self._identity.cluster_id or '(none)'} and "
                    f"ends at {self._last.index}: only a new log can be bootstrapped"
                )
            with self._transaction() as txn:
                self.tables.put_identity(txn, identity)
                self.tables.put_configuration(txn, start.index, configuration)
                if start.index:
                    self._put_boundary(txn, start)
                if start.term:
                    self._put_hard_state(txn, hard_state)
            self._identity, self._configuration = identity, (start.index, configuration)
            if start.term:
                self._hard_state = hard_state
            if start.index:
                self._boundary = self._last = start
                self._first_stored = LSN(start.index + 1)
                self._positions[APPLIED] = start.index

    def join(self, cluster: ClusterID) -> None:
        identity = replace(self._identity, cluster_id=cluster)
        with self._writing:
            with self._transaction() as txn:
                self.tables.put_identity(txn, identity)
            self._identity = identity

    # --- the standalone log's writes ----------------------------------------------------------

    def append(self, expected: LSN | None, bodies: Sequence[bytes]) -> LSN:
        with self._writing:
            if not self._identity.standalone:
                raise ValueError("the log is replicated: propose the entries instead")
            first = LSN(self._last.index + 1)
            if expected is not None and expected != first:
                raise ValueError(
                    f"append at {expected} refused: the log ends at {self._last.index}, so the "
                    f"next LSN is {first}"
                )
            entries = [LogEntry(LSN(first + n), Term(0), 0, body) for n, body in enumerate(bodies)]
            self.commit(LogBatch(entries))
            return first

    def truncate_from(self, lsn: LSN) -> list[Digest]:
        with self._writing:
            if not self._identity.standalone:
                raise ValueError("the log is replicated: only a leader's entries overwrite its own")
            if self._backfill is not None:
                raise ValueError("a backfill is in progress: wait for its end")
            if lsn > self._last.index:
                return []
            known = max([self._boundary.index, *self.positions.values()])
            if lsn <= known:
                raise ValueError(
                    f"truncation from {lsn} refused: entries up to {known} are applied or "
                    "acknowledged"
                )
            self._count_weighed()
            self._trail.truncate(lsn)
            with self._transaction() as txn:
                released = self.tables.delete(txn, lsn, self._last.index)
                reach("log.truncate.before")
                at = lsn - 1
                term = (
                    self._boundary.term
                    if at == self._boundary.index
                    else self.tables.term(txn, LSN(at))
                )
                released = {d for d in released if not self.tables.names(txn, d)}
            self._last = Position(LSN(at), term)
            return sorted(released)
