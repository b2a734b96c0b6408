"""A log with a journal, and looks into both."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from partition_proto.v1 import storage_pb2 as rows
from partition_replica.core.model import LogBatch
from partition_replica.core.payloads import blob_digests
from partition_replica.storage import files
from partition_replica.storage.environment import open_read_only
from partition_replica.storage.log import LmdbLog, journal
from partition_replica.storage.log.journal import JournalLimits
from partition_replica.storage.log.tables import IDENTITY, NAMES, LogTables

from tests.support.logs import Subject, entry, hard

LARGE = JournalLimits(file_bytes=1024**2, entries_max=1000)


class Disk(files.Disk):
    """Counts the writes to the journal."""

    def __init__(self) -> None:
        self.journal_writes = 0

    def write_durably(self, descriptor: int, parts: Any, offset: int) -> int:
        self.journal_writes += 1
        return super().write_durably(descriptor, parts, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    found = Disk()
    monkeypatch.setattr(files, "disk", found)
    return found


@pytest.fixture
def subject(tmp_path: Path) -> Iterator[Subject]:
    """Entry 1 is in the tables: its transaction began the journal."""
    found = Subject(tmp_path / "log", journal=LARGE)
    found.initialize(0)
    found.log.commit(LogBatch([entry(1, 1, b"first")], hard(1, 7, 1)))
    yield found
    found.log.close()


def lmdb(subject: Subject) -> LmdbLog:
    assert isinstance(subject.log, LmdbLog)
    return subject.log


def transactions(subject: Subject) -> int:
    number: int = lmdb(subject).environment.info()["last_txnid"]
    return number


def append(subject: Subject, *data: bytes) -> None:
    first, term = subject.log.last.index + 1, subject.log.last.term
    subject.log.commit(LogBatch([entry(term, first + n, found) for n, found in enumerate(data)]))


def data(subject: Subject) -> list[bytes]:
    return [row.data for row in subject.rows()]


def file_of(subject: Subject) -> Path:
    assert subject.folder is not None
    return subject.folder / journal.NAME


def format_of(folder: Path) -> int:
    """The version that an older program finds."""
    environment = open_read_only(folder, len(NAMES))
    try:
        tables = LogTables(environment, blob_digests, create=False)
        with environment.begin() as txn:
            row = tables.get_meta(txn, IDENTITY, rows.IdentityRow)
        assert row is not None
        return row.format_version
    finally:
        environment.close()


def format_of_open(subject: Subject) -> int:
    log = lmdb(subject)
    with log.environment.begin() as txn:
        row = log.tables.get_meta(txn, IDENTITY, rows.IdentityRow)
    assert row is not None
    return row.format_version
