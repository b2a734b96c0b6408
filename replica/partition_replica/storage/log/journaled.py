"""The entries that the journal alone has, and the writes to it."""

import logging
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import LogBatch, LogEntry
from partition_replica.errors import DiskFull, StorageFailed
from partition_replica.ids import LSN, MemberID
from partition_replica.storage import codec
from partition_replica.storage.environment import Transaction, lacks_room
from partition_replica.storage.failpoints import reach
from partition_replica.storage.files import full_disk_refuses
from partition_replica.storage.log.checks import check_hard_state, position_after
from partition_replica.storage.log.journal import (
    BLOCK_BYTES,
    EPOCH_BYTES,
    RECORD_BYTES_MAX,
    Journal,
    Journaled,
    JournalLimits,
    with_terms,
)
from partition_replica.storage.log.reading import LogReader
from partition_replica.storage.log.tables import JOURNAL, BlobDigests

logger = logging.getLogger(__name__)


class JournaledLog(LogReader):
    """A log whose small batches become durable in the journal. Each transaction of the tables takes
    over what the journal has, so the tables are complete inside of it."""

    def __init__(
        self,
        path: Path,
        new_member: MemberID,
        blob_digests: BlobDigests,
        *,
        retention: LogRetention | None = None,
        read_only: bool = False,
        journal: JournalLimits | None = None,
    ) -> None:
        """As LogReader. If the log is opened for writing, the tables take over what a journal has.
        `journal`: without it, nothing is written to a journal."""
        self._journal: Journal | None = None
        self._journal_limits = journal or JournalLimits()
        self._read_only = read_only
        super().__init__(path, new_member, blob_digests, retention=retention, read_only=read_only)
        if not read_only:
            try:
                self._take_over_at_start()
            except BaseException:
                self._environment.close()
                raise

    @property
    def journaled_count(self) -> int:
        """The number of entries that the journal alone has."""
        return len(self._journaled.entries)

    def checkpoint(self) -> None:
        """Makes the tables take over what the journal has. Raises DiskFull, which changes nothing,
        and StorageFailed."""
        with self._writing:
            if not self._journaled.entries:
                return
            try:
                with self._transaction():
                    pass
            except StorageFailed as error:
                if not lacks_room(error):
                    raise
                raise DiskFull(
                    "the volume has no room for the entries of the log's journal: free space or "
                    "grow the volume"
                ) from error

    def close(self) -> None:
        with self._writing:
            try:
                if not self._closed and not self._read_only:
                    self._leave_journal()
            except StorageFailed as error:
                # Nothing is lost: the next start reads the journal.
                logger.warning("the journal is kept for the next start: %s", error)
            finally:
                if self._journal is not None:
                    self._journal.close()
                super().close()

    # --- writes -------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Transaction]:
        with super()._transaction() as txn:
            epoch = self._take_over(txn)
            yield txn
        if epoch:
            self._taken_over(epoch)

    def _take_over(self, txn: Transaction) -> bytes:
        """Writes what the journal has to the tables. Returns the epoch of the journal's next
        records; b"" if it is empty and keeps its epoch."""
        entries = self._journaled.entries
        starting = self._journal is not None and not self._journal.started
        if not entries and not starting:
            return b""
        if starting:
            self.tables.format_version = codec.LOG_FORMAT_JOURNALED
            self.tables.put_identity(txn, self._identity)
        if entries:
            self.tables.put(txn, entries, self._plain_term())
            if self._journaled.hard_state:
                self._put_hard_state(txn, self._hard_state)
            reach("log.checkpoint.before")
        epoch = secrets.token_bytes(EPOCH_BYTES)
        size = self._journal.file_bytes if self._journal is not None else 0
        self.tables.put_meta(txn, JOURNAL, rows.JournalRow(epoch=epoch, file_bytes=size))
        return epoch

    def _taken_over(self, epoch: bytes) -> None:
        if self._journaled.entries:
            reach("log.checkpoint.after")
        self._journaled = Journaled()
        if self._journal is not None:
            self._journal.restart(epoch)

    def _take_over_at_start(self) -> None:
        """On a full disk the entries stay in the journal, and in memory, until a transaction has
        room. Raises StorageFailed for other reasons."""
        try:
            self._leave_journal()
        except StorageFailed as error:
            if not lacks_room(error):
                raise
            self.tables.format_version = codec.LOG_FORMAT_JOURNALED  # as it is on the disk
            logger.warning("the disk has no room for the journal's entries: %s", error)

    def _leave_journal(self) -> None:
        """Empties the journal, and gives the log the format without one. Versions that know no
        journal open it then."""
        if self.tables.format_version != codec.LOG_FORMAT_JOURNALED:
            return
        with self._transaction() as txn:
            self.tables.format_version = codec.LOG_FORMAT_VERSION
            self.tables.put_identity(txn, self._identity)

    def _commit_to_journal(self, batch: LogBatch) -> bool:
        """Writes a batch to the journal if it fits there; returns whether it did. The others are
        for the tables: large ones, those that overwrite entries or name blobs, and snapshots.
        Raises ValueError, StorageFailed."""
        if not batch.entries or batch.snapshot is not None or not self._may_journal(batch):
            return False
        standalone, plain_term = self._identity.standalone, self._plain_term()
        last = position_after(batch.entries, self._last, standalone, plain_term)
        if batch.hard_state is not None:
            check_hard_state(batch.hard_state, self._hard_state, last)
        record = _encode(batch).SerializeToString()
        journal = self._journal
        assert journal is not None
        if not journal.fits(len(record)):
            return False
        reach("log.journal.before")
        journal.append(record)
        reach("log.journal.after")
        entries = with_terms(batch.entries, plain_term)
        self._journaled.add(entries, self._last_transaction())
        self._journaled.hard_state |= batch.hard_state is not None
        self._last = last
        self._hard_state = batch.hard_state or self._hard_state
        return True

    def _may_journal(self, batch: LogBatch) -> bool:
        limits = self._journal_limits
        if limits.file_bytes < BLOCK_BYTES:
            return False
        if self._journal is None:
            self._open_journal()  # from the next batch on: this one's transaction begins its epoch
            return False
        return (
            self._journal.started
            and self.journaled_count + len(batch.entries) <= limits.entries_max
            and _follow(batch.entries, self._last.index)
            and sum(len(entry.data) for entry in batch.entries) <= RECORD_BYTES_MAX
            and not any(map(self.tables.blob_digests, batch.entries))
        )

    def _open_journal(self) -> None:
        """Without room for its file, there is no journal until the next start."""
        limits = self._journal_limits
        try:
            with full_disk_refuses("the log's journal"):
                self._journal = Journal(self._path, limits.file_bytes)
        except DiskFull as error:
            logger.warning("%s. Until the next start, small appends wait longer", error)
            self._journal_limits = JournalLimits()


def _follow(entries: Sequence[LogEntry], last: LSN) -> bool:
    """Whether no entry overwrites one, also of the same batch: a leader that was deposed may have
    written entries that the new leader's overwrite, and the writer joins their batches."""
    return all(entry.index == last + n for n, entry in enumerate(entries, 1))


def _encode(batch: LogBatch) -> rows.JournalRecord:
    state = None if batch.hard_state is None else codec.hard_state_row(batch.hard_state)
    record = rows.JournalRecord(first=batch.entries[0].index, hard_state=state)
    add = record.entries.add
    for entry in batch.entries:
        add(term=entry.term, kind=entry.kind, data=entry.data, context=entry.context)
    return record
