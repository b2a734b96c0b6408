"""The log's journal after a power failure, on damaged files and on full disks."""

import asyncio
import errno
import secrets
from pathlib import Path
from typing import Any

import lmdb as lmdb_module
import pytest
from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import LogBatch, Position
from partition_replica.errors import Damaged, DiskFull, PruneFailed, StorageFailed
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus import log_writer
from partition_replica.runtime.consensus.log_writer import LogWriter
from partition_replica.runtime.metrics import Metrics
from partition_replica.storage import files
from partition_replica.storage.log import LmdbLog, journal
from partition_replica.storage.log.journal import BLOCK_BYTES, Journal, JournalLimits, read_journal
from partition_replica.storage.log.tables import LogTables

from tests.support.journals import (
    LARGE,
    append,
    data,
    file_of,
    format_of_open,
)
from tests.support.journals import disk as disk  # a fixture
from tests.support.journals import subject as subject  # a fixture
from tests.support.local_group import eventually
from tests.support.logs import Subject, entry, hard


@pytest.mark.parametrize("torn", ["zeros", "last byte"])
def test_a_torn_record_ends_the_journal(subject: Subject, torn: str) -> None:
    """Its write did not return, so it was promised to nobody."""
    append(subject, b"a")
    append(subject, b"b" * 3 * BLOCK_BYTES)
    subject.kill()
    file = file_of(subject)
    content = bytearray(file.read_bytes())
    if torn == "zeros":
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
        with pytest.raises(Damaged, match=r"record [01] of .* is damaged, and another"):
            subject.reopen()
    file.write_bytes(intact)
    subject.reopen()
    assert len(data(subject)) == 4


@pytest.mark.parametrize("size", [0, BLOCK_BYTES, LARGE.file_bytes - 1])
def test_a_file_that_was_cut_is_damage(subject: Subject, size: int) -> None:
    append(subject, b"a")
    append(subject, b"b")
    subject.kill()
    file = file_of(subject)
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(Damaged, match=f"`journal` has {size} bytes, and had {LARGE.file_bytes}"):
        subject.reopen()


def test_damage_to_several_records_at_the_end_is_found(subject: Subject) -> None:
    """A power failure tears one."""
    for number in range(4):
        append(subject, b"%d" % number)
    subject.kill()
    file = file_of(subject)
    content = bytearray(file.read_bytes())
    for record in (2, 3):
        content[record * BLOCK_BYTES + 40] ^= 1
    file.write_bytes(content)
    with pytest.raises(Damaged, match="record 2 of the log's file `journal` is damaged"):
        subject.reopen()


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
        with pytest.raises(Damaged, match="another one follows it"):
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
        def fill(self, descriptor: int, start: int, end: int) -> None:
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


def test_a_disk_that_is_nearly_full_gets_its_space_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(files.Disk):
        def fill(self, descriptor: int, start: int, end: int) -> None:
            super().fill(descriptor, start, end // 2)
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "disk", Full())
    subject = Subject(tmp_path / "log", journal=LARGE)
    subject.log.commit(LogBatch([entry(1, 1)]))
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == ["data.mdb", "lock.mdb"]
    subject.log.close()


def no_room(*_: object) -> None:
    raise lmdb_module.DiskError("mdb_txn_commit: No space left on device")


def test_a_start_on_a_full_disk_keeps_the_journal(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    append(subject, b"a", b"b")
    subject.kill()

    with monkeypatch.context() as patch:
        patch.setattr(LogTables, "put", no_room)
        subject.reopen()
        assert data(subject) == [b"first", b"a", b"b"]
        assert format_of_open(subject) == 2
    assert "the disk has no room" in caplog.text
    append(subject, b"c")  # there is room again
    assert data(subject) == [b"first", b"a", b"b", b"c"]
    assert subject.log.journaled_count == 0
    append(subject, b"d")
    subject.kill()
    subject.reopen()
    assert data(subject) == [b"first", b"a", b"b", b"c", b"d"]


def test_a_short_file_is_filled_when_it_is_opened(subject: Subject) -> None:
    """It was made for a smaller setting."""
    append(subject, b"a")
    subject.log.close()
    subject.journal = JournalLimits(LARGE.file_bytes * 2, LARGE.entries_max)
    subject.reopen()
    append(subject, b"b")
    assert file_of(subject).stat().st_size == LARGE.file_bytes * 2


def test_a_journal_too_small_for_a_record_is_none(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "log", journal=JournalLimits(BLOCK_BYTES - 1))
    for number in (1, 2, 3):
        subject.log.commit(LogBatch([entry(1, number)]))
    assert not file_of(subject).exists()
    assert format_of_open(subject) == 1
    subject.log.close()


def test_a_write_that_fails_is_fatal(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    append(subject, b"kept")

    class Broken(files.Disk):
        def write_durably(self, descriptor: int, parts: Any, offset: int) -> int:
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(files, "disk", Broken())
        with pytest.raises(StorageFailed, match=r"writing the log's journal: .*Input/output error"):
            append(subject, b"not acknowledged")
    with pytest.raises(StorageFailed, match="an earlier write of the journal failed"):
        append(subject, b"neither")
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


def test_a_record_of_another_epoch_is_no_record(tmp_path: Path) -> None:
    opened = Journal(tmp_path, 1024**2)
    one, other = b"1" * 16, b"2" * 16
    opened.restart(one)
    for number in range(3):
        opened.append(journal.rows.JournalRecord(first=number).SerializeToString())
    assert [record.first for record in read_journal(tmp_path, one, 0)] == [0, 1, 2]
    opened.restart(other)
    opened.append(journal.rows.JournalRecord(first=9).SerializeToString())
    assert [record.first for record in read_journal(tmp_path, other, 0)] == [9]
    opened.close()


def test_the_end_of_the_file_is_the_end_of_the_journal(tmp_path: Path) -> None:
    opened = Journal(tmp_path, 2 * BLOCK_BYTES)
    opened.restart(b"1" * 16)
    assert opened.fits(2 * BLOCK_BYTES - 36)
    assert not opened.fits(2 * BLOCK_BYTES - 35)
    opened.append(b"")
    opened.append(b"")
    assert not opened.fits(0)
    assert len(read_journal(tmp_path, b"1" * 16, 0)) == 2
    opened.close()


async def test_an_idle_log_waits_for_room(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is lost meanwhile, so the process need not end."""
    monkeypatch.setattr(log_writer, "CHECKPOINT_AFTER_S", 0.01)
    monkeypatch.setattr(log_writer, "CHECKPOINT_AGAIN_S", 0.01)
    failures: list[BaseException] = []
    writer = LogWriter(
        subject.log,
        asyncio.get_running_loop(),
        Metrics(),
        persisted=lambda *_: None,
        failed=failures.append,
    )
    append(subject, b"a")
    with monkeypatch.context() as patch:
        patch.setattr(LogTables, "put", no_room)
        with pytest.raises(DiskFull, match="no room for the entries of the log's journal"):
            subject.log.checkpoint()
        with pytest.raises(PruneFailed, match="nothing is deleted"):
            subject.log.acknowledge("applied", LSN(1))
            subject.log.retention = LogRetention()  # type: ignore[attr-defined]
            subject.log._boundary = Position(LSN(1), Term(1))  # type: ignore[attr-defined]
            subject.log.prune(1)
        writer.start()

        async def warned() -> bool:
            return caplog.text.count("no room for the entries") > 2

        await eventually(warned, "it has tried again", 10.0)

    async def empty() -> bool:
        return subject.log.journaled_count == 0

    await eventually(empty, "the journal is empty", 10.0)
    writer.close()
    assert failures == []


def test_a_longer_file_for_which_there_is_no_room_stays_as_it_was(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(subject, b"a")
    subject.log.close()

    class Full(files.Disk):
        def fill(self, descriptor: int, start: int, end: int) -> None:
            super().fill(descriptor, start, (start + end) // 2)
            raise OSError(errno.ENOSPC, "No space left on device")

    subject.journal = JournalLimits(LARGE.file_bytes * 2, LARGE.entries_max)
    subject.reopen()
    with monkeypatch.context() as patch:
        patch.setattr(files, "disk", Full())
        append(subject, b"b")
    assert file_of(subject).stat().st_size == LARGE.file_bytes
    assert data(subject) == [b"first", b"a", b"b"]
