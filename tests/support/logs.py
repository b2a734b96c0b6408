"""Either log, memory or LMDB, opened and opened again."""

from collections.abc import Callable
from pathlib import Path

from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import HardState, InitStatus, LogEntry
from partition_replica.core.payloads import blob_digests
from partition_replica.core.ports import LogStorage
from partition_replica.ids import LSN, ClusterID, MemberID, Term
from partition_replica.storage.log import LmdbLog
from partition_replica.storage.log.journal import JournalLimits
from partition_replica.storage.memory_log import MemoryLog

SMALL_JOURNAL = JournalLimits(file_bytes=32 * 1024, entries_max=12)
"""It is full again and again."""

MEMBER = MemberID(7)
CLUSTER = ClusterID("c")


def entry(term: int, index: int, data: bytes = b"") -> LogEntry:
    return LogEntry(LSN(index), Term(term), 0, data)


def hard(term: int, vote: int, commit: int) -> HardState:
    return HardState(Term(term), MemberID(vote), LSN(commit))


class Subject:
    """A log, and what its consumer was told. `folder` None: the reference. `journal`: none by
    default."""

    def __init__(
        self,
        folder: Path | None,
        retention: LogRetention | None = None,
        journal: JournalLimits | None = None,
    ) -> None:
        self.folder = folder
        self.journal = journal
        self.retention = retention or LogRetention()
        self.told: list[tuple[int, int]] = []
        self.log: LogStorage = self._open()

    def _open(self) -> LogStorage:
        if self.folder is None:
            return MemoryLog(MEMBER, blob_digests, retention=self.retention)
        return LmdbLog(
            self.folder, MEMBER, blob_digests, retention=self.retention, journal=self.journal
        )

    def initialize(self, applied: int, cancelled: Callable[[], bool] = lambda: False) -> InitStatus:
        self.told.clear()
        self.log.subscribe(lambda mark, committed: self.told.append((mark, committed)))
        return self.log.initialize(LSN(applied), cancelled)

    def reopen(self, applied: int | None = None) -> InitStatus:
        """Closes and opens; initialised at `applied` where given."""
        if isinstance(self.log, MemoryLog):
            self.log.reopen()
        else:
            self.log.close()
            self.log = self._open()
        return InitStatus.UNKNOWN if applied is None else self.initialize(applied)

    def kill(self) -> None:
        """As if the process had ended. Open it again."""
        if isinstance(self.log, LmdbLog):
            self.log._environment.close()
            self.log._closed = True
            if self.log._journal is not None:
                self.log._journal.close()

    def rows(self) -> list[LogEntry]:
        """Everything that is stored."""
        log = self.log
        return log.read(log.first_stored, LSN(log.last.index + 1), None)

    def indexes(self) -> list[int]:
        return [int(row.index) for row in self.rows()]

    def terms(self) -> list[int]:
        return [int(row.term) for row in self.rows()]

    def bounds(self) -> tuple[int, int]:
        """(first, last) as Raft sees them."""
        return self.log.boundary.index + 1, self.log.last.index

    def apply(self, lsn: int) -> None:
        """The state machine is at `lsn`; what nobody needs goes."""
        self.log.acknowledge("applied", LSN(lsn))
        self.trim()

    def trim(self) -> None:
        target = self.log.compaction_target(1)
        if target is not None:
            self.log.compact(target)
        while self.log.prune(3)[0]:
            pass

    def plain(self, count: int) -> None:
        """Makes it a standalone partition with so many entries."""
        self.log.bootstrap_standalone(CLUSTER)
        self.log.append(LSN(1), [b"%d" % n for n in range(1, count + 1)])

    def backfill(self, applied: int, rows: int = 2) -> None:
        progress = self.log.begin_backfill()
        while not progress.complete:
            progress = self.log.step_backfill(rows)
        self.log.finish_backfill(self.log.backfilled_position(LSN(applied)))
