"""The log's journal: what is written there, when the tables take it over, and what readers see."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from partition_replica.core.model import LogBatch, LogEntry, Position, StateSwitch
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Unavailable
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus import log_writer
from partition_replica.runtime.consensus.log_writer import LogWriter
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage.log import LmdbLog, journal
from partition_replica.storage.log.tables import LogTables

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


def test_entries_that_overwrite_those_of_the_same_batch(subject: Subject) -> None:
    """The writer joins what a deposed leader wrote, and what the new leader sent it."""
    batch = LogBatch([entry(1, 2), entry(1, 3), entry(2, 2, b"new")], hard(2, 9, 1))
    subject.log.commit(batch)
    assert data(subject) == [b"first", b"new"]
    subject.kill()
    subject.reopen()
    assert (data(subject), subject.log.hard_state) == ([b"first", b"new"], hard(2, 9, 1))


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


@pytest.mark.parametrize(("lo", "hi"), [(1, 4), (1, 6)])
def test_a_read_is_not_begun_again_because_others_write(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, lo: int, hi: int
) -> None:
    """Else a reader of many entries never ends while checkpoints come."""
    append(subject, b"a", b"b", b"c")
    subject.log.checkpoint()
    append(subject, b"d", b"e")
    entries, begun = LogTables.entries, 0

    def slowly(tables: LogTables, txn: Any, lo: int, hi: int) -> Iterator[LogEntry]:
        nonlocal begun
        begun += 1
        for found in entries(tables, txn, lo, hi):
            if begun < 5:  # each entry takes as long as a transaction
                writing = threading.Thread(target=write)
                writing.start()
                writing.join()
            yield found

    def write() -> None:
        append(subject, b"more")
        subject.log.checkpoint()

    monkeypatch.setattr(LogTables, "entries", slowly)
    found = subject.log.read(LSN(lo), LSN(hi), None)
    assert [row.index for row in found] == list(range(lo, hi))
    assert begun == 1


def test_a_read_between_a_commit_and_its_end_is_of_one_moment(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LMDB has published the transaction, and the log does not know yet that it has returned."""
    append(subject, b"a", b"b", b"c")  # 2 to 4
    subject.log.checkpoint()
    append(subject, b"d", b"e")
    taken_over = LmdbLog._taken_over
    found: list[list[int]] = []

    def read() -> None:
        try:
            found.append([row.term for row in subject.log.read(LSN(1), LSN(7), None)])
        except Unavailable:  # once the log knows that it has become shorter
            found.append([])

    reader = threading.Thread(target=read)

    def late(log: LmdbLog, epoch: bytes) -> None:
        reader.start()
        reader.join(0.2)
        taken_over(log, epoch)

    monkeypatch.setattr(LmdbLog, "_taken_over", late)
    # The end of the tables is where it was: 3 and 4 are overwritten, and 5 and 6 are gone.
    subject.log.commit(LogBatch([entry(2, 3), entry(2, 4)]))
    reader.join()
    assert found in ([[]], [[1, 1, 2, 2]])


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
