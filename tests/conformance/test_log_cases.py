"""Cases of the seed's log store, log manager and positions that test_log_contract does not have, on
the reference and on LMDB (docs/seed_behaviours.md)."""

import threading
from pathlib import Path
from typing import Any

import lmdb
import pytest
from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import Configuration, InitStatus, LogBatch, Position
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Compacted, Damaged, PruneFailed, Unavailable
from partition_replica.ids import LSN, Term
from partition_replica.storage.log import LmdbLog

from tests.support.log_subjects import subject as subject  # a fixture
from tests.support.logs import CLUSTER, MEMBER, Subject, entry, hard

# --- initialisation ---------------------------------------------------------------------------


def test_a_log_that_was_never_initialised_has_an_empty_state(subject: Subject) -> None:
    log = subject.log
    assert log.status == InitStatus.UNKNOWN
    assert (log.hard_state, log.configuration) == (hard(0, 0, 0), (0, Configuration()))
    assert (log.first_stored, log.last.index, log.low_water_mark) == (1, 0, 1)
    assert subject.rows() == []


@pytest.mark.parametrize(
    ("entries", "applied", "kept"),
    [(2, 0, [1, 2]), (3, 2, [3]), (3, 3, []), (5, 3, [4, 5])],
)
def test_a_start_keeps_what_is_not_applied(
    subject: Subject, entries: int, applied: int, kept: list[int]
) -> None:
    """Applied 0 is a state that has seen nothing: everything is kept."""
    subject.plain(entries)
    subject.reopen(applied)
    assert subject.indexes() == kept
    assert subject.log.first_stored == subject.log.low_water_mark == applied + 1
    assert subject.log.last.index == entries
    # Initialised again it is the same.
    subject.initialize(applied)
    assert subject.indexes() == kept


def test_a_log_that_cannot_be_opened_holds_nothing(tmp_path: Path) -> None:
    """A file stands in its place; when that is gone the same call succeeds."""
    place = tmp_path / "log"
    place.write_bytes(b"")
    with pytest.raises(Damaged, match="has no data file"):
        LmdbLog(place, MEMBER, blob_digests)
    place.unlink()
    log = LmdbLog(place, MEMBER, blob_digests)
    log.close()
    log.close()


def test_a_consumer_is_told_once_after_a_restart(subject: Subject) -> None:
    """By the mark of the moment, and not again once everything is applied."""
    subject.log.bootstrap_standalone(CLUSTER)
    subject.initialize(0)
    subject.log.append(None, [b"1"])
    subject.log.append(None, [b"2"])
    assert subject.told == [(1, 1), (1, 2)]
    subject.log.append(None, [b"3", b"4"])
    subject.reopen(1)
    assert subject.told == [(2, 4)]
    subject.apply(4)
    assert (subject.told, subject.log.low_water_mark, subject.indexes()) == ([(2, 4)], 5, [])


# --- reads ------------------------------------------------------------------------------------


def test_entries_come_with_their_own_content(subject: Subject) -> None:
    subject.initialize(0)
    for lo, hi in ((1, 1), (3, 6)):
        with pytest.raises(Unavailable):
            subject.log.entries(LSN(lo), LSN(hi), None)
    for term, index in ((1, 1), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5), (4, 6)):
        subject.log.commit(LogBatch([entry(term, index, b"%d/%d" % (term, index))]))
    subject.log.commit(LogBatch(hard_state=hard(4, 0, 2)))
    subject.apply(2)
    found = subject.log.entries(LSN(3), LSN(7), None)
    assert [e.data for e in found] == [b"2/3", b"3/4", b"4/5", b"4/6"]
    assert [e.term for e in found] == [subject.log.term(e.index) for e in found]
    assert [e.index for e in subject.log.entries(LSN(4), LSN(6), None)] == [4, 5]
    assert [e.index for e in subject.log.entries(LSN(4), LSN(6), 1)] == [4]
    assert len(subject.log.entries(LSN(3), LSN(7), 10**9)) == 4
    with pytest.raises(Unavailable):  # beyond last + 1
        subject.log.entries(LSN(3), LSN(8), None)


def test_the_last_term_follows_what_is_written_behind_a_pruned_log(subject: Subject) -> None:
    subject.log.commit(LogBatch([entry(3, i) for i in range(1, 5)], hard(4, 0, 4)))
    subject.reopen(4)
    assert subject.indexes() == []
    assert subject.log.term(LSN(4)) == 3
    subject.log.commit(LogBatch([entry(99, 5)], hard(99, 0, 5)))
    subject.apply(5)
    for _ in range(2):
        assert (subject.indexes(), subject.log.last) == ([], Position(LSN(5), Term(99)))
        assert subject.log.term(LSN(5)) == 99
        with pytest.raises(Compacted):
            subject.log.term(LSN(4))
        subject.reopen(5)


# --- pruning ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "applied", "consumer", "kept"),
    [
        (0, 0, None, []),
        (1, 1, None, []),
        (3, 2, 1, [2, 3]),
        (5, 3, None, [4, 5]),
        (5, 1, 5, [2, 3, 4, 5]),  # consumed faster than applied
        (5, 5, 0, [1, 2, 3, 4, 5]),  # nothing acknowledged
    ],
)
def test_pruning(
    subject: Subject, entries: int, applied: int, consumer: int | None, kept: list[int]
) -> None:
    subject.log.bootstrap_standalone(CLUSTER)
    subject.initialize(0)
    if entries:
        subject.log.append(None, [b"%d" % n for n in range(1, entries + 1)])
    if consumer is not None:
        subject.log.register("consumer", LSN(consumer))
    subject.apply(applied)
    assert subject.indexes() == kept
    assert subject.log.first_stored == (kept[0] if kept else entries + 1)
    assert subject.log.last.index == entries


def test_a_consumer_that_acknowledges_one_by_one(subject: Subject) -> None:
    subject.log.bootstrap_standalone(CLUSTER)
    subject.initialize(0)
    subject.log.register("consumer", LSN(0))
    for lsn in (1, 2):
        subject.log.append(None, [b"%d" % lsn])
        subject.apply(lsn)
        assert subject.indexes() == [lsn]
        subject.log.acknowledge("consumer", LSN(lsn))
        subject.trim()
        assert subject.log.first_stored == lsn + 1
    assert subject.told == [(1, 1), (2, 2)]


def test_appends_go_on_while_a_consumer_is_busy(subject: Subject) -> None:
    subject.log.bootstrap_standalone(CLUSTER)
    subject.initialize(0)
    subject.log.register("consumer", LSN(0))
    for lsn in (1, 2, 3):
        subject.log.append(None, [b"x"])
        subject.apply(lsn)
        assert subject.indexes() == list(range(1, lsn + 1))
    subject.log.acknowledge("consumer", LSN(3))
    subject.trim()
    assert (subject.indexes(), subject.log.low_water_mark) == ([], 4)


def test_a_failed_deletion_is_told_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing changes, no hole comes, appends go on, and a restart prunes all."""
    subject = Subject(tmp_path / "log")
    subject.plain(5)
    subject.initialize(0)
    log: Any = subject.log
    log.acknowledge("applied", LSN(4))
    log.compact(LSN(4))

    def fail(*_: object) -> None:
        raise lmdb.Error("the test's failure")

    with monkeypatch.context() as patch:
        patch.setattr(log.tables, "delete", fail)
        for _ in range(2):
            with pytest.raises(PruneFailed, match="entries 1 to 3 could not be deleted"):
                log.prune(3)
        assert subject.indexes() == [1, 2, 3, 4, 5]
        assert log.append(LSN(6), [b"6"]) == 6
    assert log.prune(3)[0] == 3
    assert subject.indexes() == [4, 5, 6]
    subject.reopen(6)
    assert subject.indexes() == []
    subject.log.close()


def test_closing_waits_for_a_step_of_pruning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = Subject(tmp_path / "log")
    subject.plain(4)
    subject.initialize(0)
    log: Any = subject.log
    log.acknowledge("applied", LSN(2))
    log.compact(LSN(2))
    delete = log.tables.delete
    inside, go_on = threading.Event(), threading.Event()

    def slowly(*arguments: object) -> object:
        inside.set()
        assert go_on.wait(30)
        return delete(*arguments)

    monkeypatch.setattr(log.tables, "delete", slowly)
    pruning = threading.Thread(target=log.prune, args=(10,))
    pruning.start()
    assert inside.wait(30)
    closing = threading.Thread(target=log.close)
    closing.start()
    go_on.set()
    for thread in (pruning, closing):
        thread.join(30)
        assert not thread.is_alive()
    subject.reopen()
    assert subject.log.first_stored == 3
    subject.log.close()


# --- truncation, positions --------------------------------------------------------------------


def test_truncations_from_one_lsn_at_once_are_one(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "log")
    subject.plain(4)
    subject.initialize(0)
    failed: list[BaseException] = []

    def work() -> None:
        try:
            subject.log.truncate_from(LSN(3))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (failed, subject.indexes()) == ([], [1, 2])
    subject.log.close()


def test_the_mark_is_the_lowest_position(subject: Subject) -> None:
    subject.plain(5)
    subject.initialize(0)
    subject.log.acknowledge("applied", LSN(5))
    steps = (("one", 4), ("two", 3), ("three", 2))
    for name, lsn in steps:
        subject.log.register(name, LSN(lsn))
        assert subject.log.low_water_mark == lsn + 1
    subject.log.hold([LSN(1)])
    assert subject.log.low_water_mark == 2
    assert subject.log.positions == {"applied": 5, **dict(steps), "snapshot": 1}
    subject.log.hold([])
    for name, lsn, mark in (("three", 5, 4), ("two", 5, 5), ("one", 5, 6)):
        subject.log.acknowledge(name, LSN(lsn))
        assert subject.log.low_water_mark == mark
    for _ in range(2):  # one of them, again and again
        subject.log.acknowledge("one", LSN(5))
    with pytest.raises(KeyError):
        subject.log.acknowledge("nobody", LSN(1))
    assert "nobody" not in subject.log.positions


def test_a_registration_reads_on_where_the_log_was_kept_whole(tmp_path: Path) -> None:
    """The switch for debugging keeps entries that every position has passed."""
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, LogRetention(keep_all=True))
        subject.plain(3)
        subject.reopen(3)
        assert subject.indexes() == [1, 2, 3]
        subject.log.register("late", LSN(0))
        subject.log.close()


# --- configurations ---------------------------------------------------------------------------


def test_an_older_configuration_does_not_replace_a_newer_one(subject: Subject) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, i) for i in range(1, 6)], hard(1, 0, 5)))
    newer, older = Configuration(voters=(1, 2)), Configuration(voters=(1,))
    subject.log.save_configuration(LSN(5), newer)
    with pytest.raises(ValueError, match="older than the saved one"):
        subject.log.save_configuration(LSN(4), older)
    for _ in range(2):
        assert subject.log.configuration == (5, newer)
        subject.reopen(0)
