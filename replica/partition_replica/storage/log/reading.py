"""Opens and checks a log, and reads its Raft state and its entries."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import lmdb
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.compaction import APPLIED, LogRetention, Trail
from partition_replica.core.model import (
    Backfill,
    Configuration,
    HardState,
    Identity,
    InitStatus,
    LogEntry,
    Position,
    QuorumRecovery,
)
from partition_replica.errors import Compacted, Damaged, Stopping, Unavailable
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import (
    Transaction,
    lmdb_failures,
    open_beside,
    open_environment,
    open_read_only,
    reading,
)
from partition_replica.storage.log.checks import check_hard_state, position_after
from partition_replica.storage.log.journal import Journaled, read_journal, with_terms
from partition_replica.storage.log.tables import (
    BACKFILL,
    BASE,
    BOUNDARY,
    CONF_STATE,
    HARD_STATE,
    IDENTITY,
    JOURNAL,
    LEASE,
    NAMES,
    RECOVERY,
    BlobDigests,
    LogTables,
)

WEIGHED_MAX = 100_000
"""The maximum number of blobs that `weigh` keeps until the trail is measured again. The oldest ones
are dropped first."""


class LogReader:
    """An open log. Derived classes write in `_transaction`."""

    _last: Position

    def __init__(
        self,
        path: Path,
        new_member: MemberID,
        blob_digests: BlobDigests,
        *,
        retention: LogRetention | None = None,
        read_only: bool = False,
    ) -> None:
        """Opens or creates the log. `new_member`: the member ID for a new volume.

        Raises Damaged for a missing entry, a row that fails its checksum, or a format of another
        version; StorageFailed.
        """
        self._path = path
        self._journaled = Journaled()
        self._environment = self._open(path, read_only)
        try:
            self.tables = LogTables(self._environment, blob_digests, create=not read_only)
        except BaseException:
            self._environment.close()  # LMDB allows one open environment per file and process
            raise
        self.retention = retention or LogRetention()
        self._writing = threading.RLock()
        self._closed = False
        self._consumer: Callable[[LSN, LSN], None] | None = None
        self._status = InitStatus.UNKNOWN
        self._positions: dict[str, LSN] = {}
        self._held: tuple[LSN, ...] = ()
        self._trail = Trail(self.retention.trail_bytes)
        self._weighed: deque[tuple[LSN, Digest, int]] = deque(maxlen=WEIGHED_MAX)
        try:
            self._load(new_member, read_only)
        except BaseException:
            self._environment.close()
            raise

    def _open(self, path: Path, read_only: bool) -> lmdb.Environment:
        if read_only:
            return open_read_only(path, len(NAMES))
        return open_environment(path, metasync=True, tables=len(NAMES))

    # --- what is known without reading --------------------------------------------------------

    @property
    def environment(self) -> lmdb.Environment:
        """For code that reads rows directly: verification, export."""
        return self._environment

    @property
    def journaled(self) -> Sequence[LogEntry]:
        """The entries that the journal alone has, for code that reads rows directly."""
        return self._journaled.entries

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def status(self) -> InitStatus:
        return self._status

    @property
    def boundary(self) -> Position:
        return self._boundary

    @property
    def first_stored(self) -> LSN:
        return self._first_stored

    @property
    def last(self) -> Position:
        return self._last

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def committed(self) -> LSN:
        return self._last.index if self._identity.standalone else self._hard_state.commit

    @property
    def configuration(self) -> tuple[LSN, Configuration]:
        return self._configuration

    @property
    def backfill(self) -> Backfill | None:
        if self._backfill is None:
            return None
        row = self._backfill
        return Backfill(Term(row.term), LSN(row.first), LSN(row.next), LSN(row.target))

    @property
    def fencing_token(self) -> int:
        return self._fencing_token

    @property
    def base(self) -> LSN:
        """The LSN up to which the state was imported as a base instead of applied; 0 without a
        base."""
        return self._base

    @property
    def recovery(self) -> QuorumRecovery | None:
        """The last recovery of a lost quorum on this volume, complete or not; None if there was
        none."""
        return self._recovery

    # --- life ---------------------------------------------------------------------------------

    def subscribe(self, consumer: Callable[[LSN, LSN], None]) -> None:
        self._consumer = consumer

    def close(self) -> None:
        with self._writing:
            if not self._closed:
                self._closed = True
                self._environment.close()

    # --- reads --------------------------------------------------------------------------------

    def entries(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        if lo <= self._boundary.index:
            raise self._compacted(lo, LSN(self._boundary.index + 1))
        if self._last.index <= self._boundary.index:
            raise Unavailable(f"the log has no entry after {self._boundary.index}")
        return self._read(lo, hi, bytes_max)

    def read(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        if lo < self.first_stored:
            raise self._compacted(lo, self.first_stored)
        return self._read(lo, hi, bytes_max)

    def read_back(self, lo: LSN, last: LSN, entries_max: int, bytes_max: int) -> list[LogEntry]:
        """Reads [lo, last] backwards: the last entry first, at least one, at most `entries_max` and
        `bytes_max`. Otherwise as `read`."""
        found: list[LogEntry] = []
        size = 0
        with self._snapshot(lo, LSN(last + 1)) as (txn, journaled):
            for index in range(last, max(lo, last - entries_max + 1) - 1, -1):
                if index >= journaled.first:
                    entry = journaled.entries[index - journaled.first]
                else:
                    assert txn is not None
                    entry = self.tables.entry(txn, LSN(index))
                size += len(entry.data)
                if found and size > bytes_max:
                    break
                found.append(entry)
        return found

    def _read(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        self._check_end(hi)
        found: list[LogEntry] = []
        size = 0
        with self._snapshot(lo, hi) as (txn, journaled):
            for entry in self._iterate(txn, journaled, lo, hi):
                size += len(entry.data)
                if found and bytes_max is not None and size > bytes_max:
                    break
                found.append(entry)
        return found

    def _iterate(
        self, txn: Transaction | None, journaled: Journaled, lo: LSN, hi: LSN
    ) -> Iterator[LogEntry]:
        if txn is not None:
            for entry in self.tables.entries(txn, lo, min(hi, journaled.first)):
                if not entry.term:
                    self._check_plain(entry.index)
                yield entry
        yield from journaled.between(lo, hi)

    @contextmanager
    def _snapshot(self, lo: LSN, hi: LSN) -> Iterator[tuple[Transaction | None, Journaled]]:
        """The tables and the journal's entries at one moment, to read [lo, hi). The transaction is
        None if the journal has all of them. Raises as `_reading_from`."""
        while True:
            self._check_open()
            journaled = self._journaled
            if journaled.first < hi and journaled.first + len(journaled.entries) < hi:
                with self._writing:  # it was overwritten by fewer entries meanwhile
                    self._check_end(hi)
                continue
            if lo >= journaled.first:
                yield None, journaled
                return
            with self._reading_from(lo, hi) as txn:
                # Else a transaction took the journal over in between, and the tables may have other
                # entries in the place of the journal's.
                if hi <= journaled.first or txn.id() == journaled.since:
                    yield txn, journaled
                    return

    @contextmanager
    def _reading_from(self, lo: LSN, hi: LSN) -> Iterator[Transaction]:
        """A read transaction for the entries [lo, hi). Raises Compacted if they are pruned
        meanwhile, Unavailable if they are overwritten by fewer."""
        try:
            with self._reading() as txn:
                yield txn
        except Damaged:
            if lo < self.first_stored:
                raise self._compacted(lo, self.first_stored) from None
            with self._writing:  # a commit under way may have published what it did
                self._check_end(hi)
            raise

    def _check_end(self, hi: LSN) -> None:
        if hi > self._last.index + 1:
            raise Unavailable(
                f"entries up to {hi - 1} were requested; the log ends at {self._last.index}"
            )

    def term(self, index: LSN) -> Term:
        boundary = self._boundary
        if index == boundary.index:
            return boundary.term
        if index < boundary.index:
            raise self._compacted(index, LSN(boundary.index + 1))
        if index > self._last.index:
            raise Unavailable(
                f"the term of entry {index} was requested; the log ends at {self._last.index}"
            )
        self._check_open()
        journaled = self._journaled
        if index >= journaled.first:
            found = journaled.between(index, index + 1)
            if not found:  # it was overwritten by fewer entries meanwhile
                raise Unavailable(f"the log ended at {index - 1} meanwhile")
            return found[0].term
        try:
            with self._reading() as txn:
                term = self.tables.term(txn, index)
                if not term:
                    self._check_plain(index)
                return term
        except Damaged:
            if index < self._first_stored:
                raise self._compacted(index, self._first_stored) from None
            raise

    def _plain_term(self) -> Term:
        """The term that an entry without one has: that of a backfill in progress, or 0."""
        if self._backfill is None or not self._identity.standalone:
            return Term(0)
        return Term(self._backfill.term)

    def _check_plain(self, index: LSN) -> None:
        if not self._identity.standalone:
            raise Damaged(f"log entry {index} has no raft row: the volume is damaged; keep it")

    def names_blob(self, digest: Digest) -> bool:
        with self._reading() as txn:
            return self.tables.names(txn, digest)

    def last_naming(self, digest: Digest) -> LSN | None:
        with self._reading() as txn:
            return self.tables.last_naming(txn, digest)

    # --- inside -------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise Stopping("the log is closed")

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        """A write transaction: committed durably when the block is left, aborted by an error."""
        self._check_open()
        with lmdb_failures("commit of the log"), self._environment.begin(write=True) as txn:
            yield txn

    def _last_transaction(self) -> int:
        number: int = self._environment.info()["last_txnid"]
        return number

    @contextmanager
    def _reading(self) -> Iterator[Transaction]:
        self._check_open()
        with reading(self._environment, "the log") as txn:
            yield txn

    def _load(self, new_member: MemberID, read_only: bool) -> None:
        with self._reading() as txn:
            identity = self.tables.get_meta(txn, IDENTITY, rows.IdentityRow)
            boundary = self.tables.get_meta(txn, BOUNDARY, rows.BoundaryRow) or rows.BoundaryRow()
            hard = self.tables.get_meta(txn, HARD_STATE, rows.HardStateRow) or rows.HardStateRow()
            conf = self.tables.get_meta(txn, CONF_STATE, rows.ConfStateRow) or rows.ConfStateRow()
            lease = self.tables.get_meta(txn, LEASE, rows.LeaseRow) or rows.LeaseRow()
            self._backfill = self.tables.get_meta(txn, BACKFILL, rows.BackfillRow)
            base = self.tables.get_meta(txn, BASE, rows.PositionRow)
            journal = self.tables.get_meta(txn, JOURNAL, rows.JournalRow)
            recovery = self.tables.get_meta(txn, RECOVERY, rows.RecoveryRow)
            self._base = LSN(base.lsn if base is not None else 0)
            self._positions.update(self.tables.positions(txn))
            others = (
                txn.stat(self.tables.meta)["entries"] or txn.stat(self.tables.manifest)["entries"]
            )
        if identity is None and others:
            raise Damaged(
                "row identity of table meta is missing, and the log has other rows: the volume is "
                "damaged; keep it"
            )
        # During a backfill, a standalone log has a boundary with a term, and no hard state yet.
        plain = identity is not None and identity.standalone
        if boundary.term and not hard.term and not plain:
            raise Damaged("row hard_state of table meta is missing: the volume is damaged; keep it")
        if boundary.term and identity and identity.cluster_id and not conf.voters:
            raise Damaged("row conf_state of table meta is missing: the volume is damaged; keep it")
        self._boundary = Position(LSN(boundary.index), Term(boundary.term))
        self._hard_state = codec.hard_state_of(hard)
        self._configuration = (LSN(conf.index), _configuration(conf))
        self._fencing_token: int = lease.transitions
        self._recovery = None if recovery is None else codec.recovery_of(recovery)
        self._identity = self._load_identity(identity, new_member, read_only)
        self._load_span()
        if self.tables.format_version == codec.LOG_FORMAT_JOURNALED:
            self._load_journal(journal)

    def _load_journal(self, row: rows.JournalRow | None) -> None:
        """Reads what the journal has beyond the tables. Raises Damaged, StorageFailed."""
        if row is None:
            raise Damaged("row journal of table meta is missing: the volume is damaged; keep it")
        plain, position = self._identity.standalone, self._last
        for record in read_journal(self._path, row.epoch, row.file_bytes):
            entries = [
                LogEntry(LSN(record.first + n), Term(e.term), e.kind, e.data, e.context)
                for n, e in enumerate(record.entries)
            ]
            try:
                position = position_after(entries, position, plain, self._plain_term())
                if record.HasField("hard_state"):
                    wanted = codec.hard_state_of(record.hard_state)
                    check_hard_state(wanted, self._hard_state, position)
                    self._hard_state = wanted
                    self._journaled.hard_state = True
            except ValueError as error:
                raise Damaged(
                    f"the log's journal does not continue its tables: {error}; the volume is "
                    "damaged, keep it"
                ) from error
            self._journaled.add(with_terms(entries, self._plain_term()), self._last_transaction())
        self._last = position

    def _load_identity(
        self, row: rows.IdentityRow | None, new_member: MemberID, read_only: bool
    ) -> Identity:
        if row is None:
            identity = Identity(new_member, ClusterID(""), 1)
            if not read_only:
                with self._transaction() as txn:
                    self.tables.put_identity(txn, identity)
            return identity
        if row.format_version not in codec.LOG_FORMATS_READ:
            known = " and ".join(map(str, codec.LOG_FORMATS_READ))
            raise Damaged(
                f"the volume has format {row.format_version}; this version reads {known}: run the "
                "version that wrote it"
            )
        self.tables.format_version = row.format_version
        return Identity(
            MemberID(row.member_id),
            ClusterID(row.cluster_id),
            row.state_generation,
            row.standalone,
        )

    def _load_span(self) -> None:
        """Finds the first and the last entry. Raises Damaged for a missing one."""
        boundary = self._boundary
        with self._reading() as txn:
            span = self.tables.span(txn)
            if span is None:
                self._first_stored, self._last = LSN(boundary.index + 1), boundary
                return
            first, last = span
            if first > boundary.index + 1 or last < boundary.index:
                raise Damaged(
                    f"log entry {boundary.index + 1} is missing (boundary {boundary.index}, "
                    f"entries {first} to {last}): the volume is damaged; keep it"
                )
            missing = self.tables.metadata_missing(txn, first, last)
            if missing is not None and not self._identity.standalone:
                raise Damaged(
                    f"log entry {missing} has no raft row: the volume is damaged; keep it"
                )
            self._first_stored = LSN(first)
            self._last = (
                boundary
                if last == boundary.index
                else Position(LSN(last), self.tables.term(txn, LSN(last)))
            )

    def _put_boundary(self, txn: Transaction, boundary: Position) -> None:
        row = rows.BoundaryRow(index=boundary.index, term=boundary.term)
        self.tables.put_meta(txn, BOUNDARY, row)

    def _put_hard_state(self, txn: Transaction, state: HardState) -> None:
        self.tables.put_meta(txn, HARD_STATE, codec.hard_state_row(state))

    def _compacted(self, index: LSN, first: LSN) -> Compacted:
        return Compacted(
            f"entry {index} is compacted; the log begins at {first}: read the state, and continue "
            "from its LSN",
            first,
            self._positions.get(APPLIED, self.committed),
        )


class RunningLog(LogReader):
    """A running replica's log, opened read-only by another process while the replica writes it.
    `first_stored` is up to date; all other properties are as of the opening."""

    def __init__(self, path: Path, new_member: MemberID, blob_digests: BlobDigests) -> None:
        super().__init__(path, new_member, blob_digests, read_only=True)

    def _open(self, path: Path, read_only: bool) -> lmdb.Environment:
        return open_beside(path, len(NAMES))

    def _load_journal(self, row: rows.JournalRow | None) -> None:
        """The replica writes it meanwhile, and has made a checkpoint before."""

    @property
    def first_stored(self) -> LSN:
        with self._reading() as txn:
            boundary = self.tables.get_meta(txn, BOUNDARY, rows.BoundaryRow)
            first = self.tables.first(txn)
            if first is not None:
                return first
            return LSN(boundary.index + 1 if boundary is not None else 1)


def _configuration(row: rows.ConfStateRow) -> Configuration:
    return Configuration(
        tuple(row.voters),
        tuple(row.learners),
        tuple(row.voters_outgoing),
        tuple(row.learners_next),
        row.auto_leave,
    )
