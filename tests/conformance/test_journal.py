"""The log's journal: what is read of it after a kill, a power failure, damage; what it refuses."""

import asyncio
import errno
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from partition_replica.core.model import LogBatch, LogEntry, Position, StateSwitch
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Damaged, StorageFailed
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus import log_writer
from partition_replica.runtime.consensus.log_writer import LogWriter
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage import files
from partition_replica.storage.log import LmdbLog, journal
from partition_replica.storage.log.journal import BLOCK_BYTES, Journal, read_journal

from tests.support.journals import (
    LARGE,
    Disk,
    append,
    data,
    file_of,
    format_of,
    lmdb,
    transactions,
)
from tests.support.journals import disk as disk  # a fixture
from tests.support.journals import subject as subject  # a fixture
from tests.support.local_group import eventually
from tests.support.log_script import NAMED
from tests.support.logs import MEMBER, Subject, entry, hard


def test_a_small_batch_is_one_write_and_no_transaction(subject: Subject, disk: Disk) -> None:
    before = transactions(subject)
    append(subject, b"a", b"b")
    subject.log.commit(LogBatch([entry(1, 4, b"c")], hard(1, 7, 3)))
    assert (disk.journal_writes, transactions(subject)) == (2, before)
    assert data(subject) == [b"first", b"a", b"b", b"c"]
    assert (subject.log.last, subject.log.hard_state) == (Position(LSN(4), Term(1)), hard(1, 7, 3))


@pytest.mark.parametrize(
    "batch",
    [
        LogBatch([entry(1, 3, NAMED)]),
        LogBatch([entry(1, 3, b"x" * (journal.RECORD_BYTES_MAX + 1))]),
        LogBatch([entry(2, 2, b"other")]),
        LogBatch(hard_state=hard(5, 9, 2)),
        LogBatch([entry(1, 3 + n) for n in range(LARGE.entries_max)]),
    ],
    ids=["names a blob", "large", "overwrites", "hard state alone", "too many entries"],
)
def test_other_batches_take_what_the_journal_has_along(
    subject: Subject, disk: Disk, batch: LogBatch
) -> None:
    append(subject, b"journaled")
    before = transactions(subject)
    subject.log.commit(batch)
    assert (disk.journal_writes, transactions(subject)) == (1, before + 1)
    assert subject.log.journaled_count == 0
    rows, last, state = subject.rows(), subject.log.last, subject.log.hard_state
    subject.kill()
    subject.reopen()
    assert (subject.rows(), subject.log.last, subject.log.hard_state) == (rows, last, state)


def test_a_snapshot_leaves_nothing_in_the_journal(subject: Subject) -> None:
    append(subject, b"older than the snapshot")
    switch = StateSwitch(Position(LSN(9), Term(2)), subject.log.configuration[1], 2)
    subject.log.commit(LogBatch(snapshot=switch))
    subject.kill()
    subject.reopen()
    assert (subject.rows(), subject.log.last) == ([], Position(LSN(9), Term(2)))


def test_a_killed_process_leaves_it_to_the_next_one(subject: Subject) -> None:
    append(subject, b"a")
    subject.log.commit(LogBatch([entry(3, 3, b"b")], hard(3, 9, 2)))
    subject.kill()
    assert format_of(file_of(subject).parent) == 2
    subject.reopen()
    assert data(subject) == [b"first", b"a", b"b"]
    assert (subject.log.last.term, subject.log.hard_state) == (3, hard(3, 9, 2))
    assert subject.log.journaled_count == 0


def test_a_clean_end_leaves_a_log_that_older_versions_open(subject: Subject) -> None:
    append(subject, b"a")
    subject.log.close()
    assert format_of(file_of(subject).parent) == 1
    subject.reopen()
    assert data(subject) == [b"first", b"a"]


def test_reading_alone_changes_nothing(subject: Subject) -> None:
    append(subject, b"a")
    subject.kill()
    folder = file_of(subject).parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    log = LmdbLog(folder, MEMBER, blob_digests, read_only=True)
    assert [row.data for row in log.read(LSN(1), LSN(3), None)] == [b"first", b"a"]
    assert [row.data for row in log.read_back(LSN(1), LSN(2), 9, 9999)] == [b"a", b"first"]
    assert (log.term(LSN(2)), [row.data for row in log.journaled]) == (1, [b"a"])
    log.close()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    subject.reopen()


@pytest.mark.parametrize("torn", ["cut", "zeros", "last byte"])
def test_a_torn_record_ends_the_journal(subject: Subject, torn: str) -> None:
    """Its write did not return, so it was promised to nobody."""
    append(subject, b"a")
    append(subject, b"b" * 3 * BLOCK_BYTES)
    subject.kill()
    file = file_of(subject)
    content = bytearray(file.read_bytes())
    if torn == "cut":
        content = content[: 2 * BLOCK_BYTES + 100]
    elif torn == "zeros":
        content[2 * BLOCK_BYTES : 3 * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    else:
        content[BLOCK_BYTES * 4 + 30] ^= 1
    file.write_bytes(content)
    subject.reopen()
    assert data(subject) == [b"first", b"a"]


def test_damage_in_front_of_a_valid_record_is_found(subject: Subject) -> None:
    """It was acknowledged: to leave it out would lose it silently."""
    append(subject, b"a")
    append(subject, b"b" * 3 * BLOCK_BYTES)
    append(subject, b"c")
    subject.kill()
    file = file_of(subject)
    intact = file.read_bytes()
    for position in (40, BLOCK_BYTES + 8, 2 * BLOCK_BYTES):
        content = bytearray(intact)
        content[position] ^= 1
        file.write_bytes(content)
        with pytest.raises(Damaged, match=r"record [01] of the log's file `journal` is damaged"):
            subject.reopen()
    file.write_bytes(intact)
    subject.reopen()
    assert len(data(subject)) == 4


def test_a_record_that_does_not_continue_the_tables_is_damage(subject: Subject) -> None:
    append(subject, b"a")
    assert isinstance(subject.log, LmdbLog)
    assert subject.log._journal is not None
    record = journal.rows.JournalRecord(first=7)
    record.entries.add(term=1)
    subject.log._journal.append(record.SerializeToString())
    subject.kill()
    with pytest.raises(Damaged, match=r"does not continue its tables: entry 7 after 2"):
        subject.reopen()


def test_a_missing_file_is_damage(subject: Subject) -> None:
    append(subject, b"a")
    subject.kill()
    file_of(subject).unlink()
    with pytest.raises(Damaged, match="`journal` is missing"):
        subject.reopen()


def test_records_from_before_a_checkpoint_are_not_read_again(subject: Subject) -> None:
    append(subject, b"a")
    append(subject, b"b")
    subject.log.checkpoint()
    subject.log.commit(LogBatch([entry(2, 3, b"other")], hard(2, 7, 1)))  # overwrites b
    subject.kill()
    subject.reopen()
    assert data(subject) == [b"first", b"a", b"other"]


@pytest.mark.parametrize("guessed", [False, True])
def test_content_cannot_pose_as_a_record(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guessed: bool
) -> None:
    """A client chooses the bytes that lie in the file behind the last record. It does not know the
    epoch, which is drawn at random each time: were it guessed, its bytes would count."""
    epoch = secrets.token_bytes(16)
    if guessed:
        monkeypatch.setattr(secrets, "token_bytes", lambda _: epoch)
    forged = Journal(_made(tmp_path / "forged"), 1024**2)
    forged.restart(epoch)
    for _ in range(2):  # the second one has the number behind the true record's
        forged.append(journal.rows.JournalRecord(first=99).SerializeToString())
    block = (tmp_path / "forged" / journal.NAME).read_bytes()[BLOCK_BYTES : 2 * BLOCK_BYTES]
    forged.close()
    # One of the copies lies at the beginning of a block.
    for shift in range(4030, 4060):
        append(subject, bytes(shift) + block * 2)
    subject.log.checkpoint()
    append(subject, b"short")
    subject.kill()
    if guessed:
        with pytest.raises(Damaged, match="a valid one follows it"):
            subject.reopen()
        return
    subject.reopen()
    assert data(subject)[-1] == b"short"
    assert len(data(subject)) == 32


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_without_room_for_the_file_there_is_no_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full(files.Disk):
        def fill(self, descriptor: int, size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "disk", Full())
    subject = Subject(tmp_path / "log", journal=LARGE)
    for number in range(1, 4):
        subject.log.commit(LogBatch([entry(1, number)]))
    assert subject.log.journaled_count == 0
    assert "too full for the log's journal" in caplog.text
    subject.log.close()
    monkeypatch.undo()
    subject.reopen()
    assert len(subject.rows()) == 3
    subject.log.commit(LogBatch([entry(1, 4)]))
    subject.log.commit(LogBatch([entry(1, 5)]))
    assert subject.log.journaled_count == 1
    subject.log.close()


def test_a_write_that_fails_is_fatal(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    append(subject, b"kept")

    class Broken(files.Disk):
        def write_durably(self, descriptor: int, parts: Any, offset: int) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "disk", Broken())
        with pytest.raises(StorageFailed, match=r"writing journal: .*Input/output error"):
            append(subject, b"not acknowledged")
    assert data(subject) == [b"first", b"kept"]
    subject.kill()
    subject.reopen()
    assert data(subject) == [b"first", b"kept"]


def test_a_write_that_is_cut_short_goes_on(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(files.Disk):
        def write_durably(self, descriptor: int, parts: Any, offset: int) -> int:
            return super().write_durably(descriptor, (b"".join(parts)[:1000],), offset)

    with monkeypatch.context() as patch:
        patch.setattr(files, "disk", Slow())
        append(subject, b"x" * 9000)
    subject.kill()
    subject.reopen()
    assert data(subject) == [b"first", b"x" * 9000]


def test_a_refused_batch_leaves_the_log_as_it_was(subject: Subject, disk: Disk) -> None:
    append(subject, b"a")
    for batch in (
        LogBatch([entry(1, 4)]),
        LogBatch([entry(0, 3)]),
        LogBatch([entry(1, 3)], hard(0, 7, 1)),
        LogBatch([entry(1, 3)], hard(1, 7, 4)),
    ):
        with pytest.raises(ValueError, match=r"gap|term 0|below the saved one|above the last LSN"):
            subject.log.commit(batch)
    assert (disk.journal_writes, data(subject)) == (1, [b"first", b"a"])


def test_readers_see_each_entry_once_while_others_write(subject: Subject) -> None:
    """Checkpoints and overwriting move entries between journal and tables under the readers."""
    over = threading.Event()
    failures: list[BaseException] = []
    reads = [0, 0]

    def read(number: int) -> None:
        try:
            while not over.is_set():
                last = subject.log.last.index
                found = subject.log.read(LSN(1), LSN(last + 1), None)
                assert [row.index for row in found] == list(range(1, last + 1))
                terms = [row.term for row in found]
                assert terms == sorted(terms)
                assert subject.log.term(LSN(last)) >= terms[-1]
                reads[number] += 1
        except BaseException as error:  # told to the test
            failures.append(error)

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    try:
        term = 1
        for step in range(400):
            last = subject.log.last.index
            if step % 23 == 22:
                term += 1  # the last two go, and two of a new term take their place
                subject.log.commit(LogBatch([entry(term, last - 1), entry(term, last)]))
            elif step % 7 == 6:
                subject.log.checkpoint()
            else:
                subject.log.commit(LogBatch([entry(term, last + 1), entry(term, last + 2)]))
            if failures:
                break
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert not failures, failures
    assert min(reads) > 0


def test_entries_are_pruned_out_of_the_journal(subject: Subject) -> None:
    append(subject, b"a")
    append(subject, b"b")
    subject.log.acknowledge("applied", LSN(3))
    subject.log.compact(LSN(3))
    append(subject, b"c")
    assert subject.log.prune(10)[0] == 3
    append(subject, b"d")
    subject.kill()
    subject.reopen(3)
    assert (subject.log.first_stored, data(subject)) == (4, [b"c", b"d"])


def test_sizes_in_the_journal_count_for_the_trail(subject: Subject) -> None:
    retention = subject.log.retention  # type: ignore[attr-defined]
    assert retention.trail_bytes > 1 << 60
    append(subject, *(b"x" * 100 for _ in range(5)))
    log = lmdb(subject)
    with log.environment.begin(buffers=True) as txn:
        assert list(log._sizes(txn, 1, 7)) == [5, *[100] * 5]


@pytest.fixture
def writer(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Any], LogWriter]]:
    monkeypatch.setattr(log_writer, "CHECKPOINT_AFTER_S", 0.05)
    made: list[LogWriter] = []

    def make(loop: Any) -> LogWriter:
        found = LogWriter(
            subject.log,
            loop,
            Metrics(),
            persisted=lambda *_: None,
            failed=lambda error: pytest.fail(str(error)),
        )
        found.start()
        made.append(found)
        return found

    yield make
    for found in made:
        found.close()


async def test_an_idle_log_makes_a_checkpoint(
    subject: Subject, writer: Callable[[Any], LogWriter]
) -> None:
    """So that other processes find everything in the tables, and a restart reads little."""
    found = writer(asyncio.get_running_loop())
    for number in (2, 3):
        found.write(number, LogBatch([LogEntry(LSN(number), Term(1), 0, b"x")]))

    async def empty() -> bool:
        return subject.log.last.index == 3 and subject.log.journaled_count == 0

    await eventually(empty, "the journal is empty", 10.0)
    assert found._queue.empty()


def test_a_record_of_another_epoch_is_no_record(tmp_path: Path) -> None:
    opened = Journal(tmp_path, 1024**2)
    one, other = b"1" * 16, b"2" * 16
    opened.restart(one)
    for number in range(3):
        opened.append(journal.rows.JournalRecord(first=number).SerializeToString())
    assert [record.first for record in read_journal(tmp_path, one)] == [0, 1, 2]
    opened.restart(other)
    opened.append(journal.rows.JournalRecord(first=9).SerializeToString())
    assert [record.first for record in read_journal(tmp_path, other)] == [9]
    opened.close()


def test_the_end_of_the_file_is_the_end_of_the_journal(tmp_path: Path) -> None:
    opened = Journal(tmp_path, 2 * BLOCK_BYTES)
    opened.restart(b"1" * 16)
    assert opened.fits(2 * BLOCK_BYTES - 36)
    assert not opened.fits(2 * BLOCK_BYTES - 35)
    opened.append(b"")
    opened.append(b"")
    assert not opened.fits(0)
    assert len(read_journal(tmp_path, b"1" * 16)) == 2
    opened.close()
