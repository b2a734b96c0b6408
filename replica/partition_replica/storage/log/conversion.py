"""Enables replication for a standalone log (backfill), and disables it."""

from dataclasses import replace

from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.compaction import APPLIED
from partition_replica.core.model import (
    Backfill,
    Configuration,
    HardState,
    InitStatus,
    Position,
)
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, MemberID, Term
from partition_replica.storage.environment import Transaction
from partition_replica.storage.failpoints import reach
from partition_replica.storage.log.retention import RetainedLog
from partition_replica.storage.log.tables import BACKFILL

METADATA_BYTES = 64
"""An upper bound of an entry's metadata in bytes: key and row take 25, the rest is LMDB's overhead.
Measured: 36 if no entry has metadata, 52 if some have."""

TRANSACTION_BYTES = 1024**2
"""The bytes of pages that a transaction copies before LMDB frees the previous ones."""


class ConvertibleLog(RetainedLog):
    """A log that can be converted between standalone and replicated."""

    # --- replication on and off ---------------------------------------------------------------

    def begin_backfill(self) -> Backfill:
        with self._writing:
            if not self._identity.standalone or not self._identity.cluster_id:
                raise ValueError("the log is not standalone, so it needs no backfill")
            if self._backfill is None:
                with self._transaction() as txn:
                    termed, highest = self.tables.last_term(txn)
                    highest = max(highest, self._hard_state.term, self._boundary.term)
                    row = rows.BackfillRow(
                        term=highest + 1,
                        first=self._first_stored,
                        next=self._first_stored,
                        target=self._last.index,
                        termed=termed,
                    )
                    self.tables.put_meta(txn, BACKFILL, row)
                self._backfill = row
                reach("backfill.begun")
            return self._progress()

    def backfill_bytes(self) -> int:
        """An upper bound of the size of all stored entries' metadata."""
        return (self._last.index - self._first_stored + 1) * METADATA_BYTES + TRANSACTION_BYTES

    def step_backfill(self, rows_max: int) -> Backfill:
        with self._writing:
            now = self._progress()
            # Entries that were pruned meanwhile need no metadata.
            lo = max(now.next, self._first_stored)
            hi = min(lo + rows_max, now.target + 1)
            assert self._backfill is not None
            row = rows.BackfillRow()
            row.CopyFrom(self._backfill)
            row.next = max(hi, lo)
            boundary = self._boundary
            with self._transaction() as txn:
                if lo < hi:
                    before = self._term_before(txn, LSN(lo))
                    termed = LSN(row.termed)
                    self.tables.put_missing_metadata(txn, lo, hi, now.term, before, termed)
                if lo <= boundary.index < hi:
                    # The boundary moved here before its entry had a term.
                    boundary = Position(boundary.index, self.tables.term(txn, boundary.index))
                    self._put_boundary(txn, boundary)
                self.tables.put_meta(txn, BACKFILL, row)
                reach("backfill.step.before")
            reach("backfill.step.after")
            self._backfill, self._boundary = row, boundary
            last = self._last.index
            if lo <= last < hi:
                with self._reading() as txn:
                    self._last = Position(last, self.tables.term(txn, last))
            return self._progress()

    def backfilled_position(self, applied: LSN) -> Position:
        with self._writing:
            progress = self._progress()
            assert self._backfill is not None
            term = self.term(applied)
            if not term:
                term = Term(1) if applied < self._backfill.termed else progress.term
            return Position(applied, term)

    def finish_backfill(self, applied: Position) -> None:
        with self._writing:
            progress = self._progress()
            last = self._last.index
            if not progress.complete:
                raise ValueError(
                    f"the backfill is not complete: it is at {progress.next} of {progress.target}"
                )
            if not 1 <= applied.index <= last or applied.index < self._boundary.index:
                raise ValueError(
                    f"applied LSN {applied.index} is outside of "
                    f"{max(1, self._boundary.index)} to {last}"
                )
            if applied != self.backfilled_position(applied.index):
                raise ValueError(f"the term of entry {applied.index} is not {applied.term}")
            configuration = Configuration(voters=(self._identity.member_id,))
            identity = replace(self._identity, standalone=False)
            hard_state = HardState(progress.term, MemberID(0), last)
            with self._transaction() as txn:
                span = self.tables.span(txn)
                missing = span and self.tables.metadata_missing(txn, *span)
                if missing:
                    raise Damaged(
                        f"log entry {missing} has no raft row after a backfill: the volume is "
                        "damaged; keep it"
                    )
                stored = last > applied.index
                term = self.tables.term(txn, last) if stored else applied.term
                self.tables.put_identity(txn, identity)
                self._put_boundary(txn, applied)
                self.tables.put_configuration(txn, last, configuration)
                self._put_hard_state(txn, hard_state)
                txn.delete(BACKFILL, db=self.tables.meta)
                reach("backfill.finish.before")
            reach("backfill.finish.after")
            self._identity, self._boundary, self._backfill = identity, applied, None
            self._last = Position(last, term)
            self._hard_state, self._configuration = hard_state, (last, configuration)
            self._positions[APPLIED] = max(self._positions.get(APPLIED, LSN(0)), applied.index)
            self._status = InitStatus.BOOTSTRAPPED

    def disable_replication(self) -> None:
        with self._writing:
            index, configuration = self._configuration
            if self._identity.standalone or not self._identity.cluster_id:
                raise ValueError("the log is not replicated, so there is nothing to disable")
            if configuration != Configuration(voters=(self._identity.member_id,)):
                raise ValueError(
                    f"the configuration is {configuration}; only a sole voter can disable "
                    "replication: remove the other members first"
                )
            with self._transaction() as txn:
                lo = max(index + 1, self._boundary.index + 1)
                for entry in self.tables.entries(txn, lo, self._last.index + 1):
                    if entry.kind:
                        raise ValueError(
                            f"entry {entry.index} changes the configuration and is not applied "
                            "yet: start the replica once, then try again"
                        )
                hard_state = replace(self._hard_state, commit=self._last.index)
                identity = replace(self._identity, standalone=True)
                self._put_hard_state(txn, hard_state)
                self.tables.put_identity(txn, identity)
                reach("replication.stop.before")
            reach("replication.stop.after")
            self._hard_state, self._identity = hard_state, identity
            self._status = InitStatus.NEEDS_BACKFILL

    def _progress(self) -> Backfill:
        progress = self.backfill
        if progress is None:
            raise ValueError("no backfill is in progress")
        return progress

    def _term_before(self, txn: Transaction, lsn: LSN) -> Term:
        """The term of the previous entry, 0 if it is unknown. Its row has precedence over the
        boundary, which may have moved there before the row got its term."""
        if lsn > self._first_stored:
            return self.tables.term(txn, LSN(lsn - 1))
        return self._boundary.term if lsn - 1 == self._boundary.index else Term(0)
