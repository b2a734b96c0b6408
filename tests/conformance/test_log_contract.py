"""core.ports.LogStorage, once against the reference and once against LMDB: the seed's behaviour,
and where ours goes further (its authors' cases; docs/ARCHITECTURE.md, The log)."""

import threading
from pathlib import Path

import pytest
from partition_replica.core.compaction import CONSUMERS_MAX, LogRetention
from partition_replica.core.model import (
    Configuration,
    InitStatus,
    LogBatch,
    LogEntry,
)
from partition_replica.errors import Cancelled, Compacted, Damaged, Stopping, Unavailable
from partition_replica.ids import LSN, Term

from tests.support.log_subjects import position
from tests.support.log_subjects import subject as subject  # a fixture
from tests.support.logs import CLUSTER, MEMBER, Subject, entry, hard

# --- initialisation ---------------------------------------------------------------------------


def test_a_new_volume_is_unbootstrapped_until_a_hard_state_is_saved(subject: Subject) -> None:
    assert subject.log.status == InitStatus.UNKNOWN
    assert subject.initialize(0) == InitStatus.UNBOOTSTRAPPED
    assert subject.bounds() == (1, 0)
    assert subject.told == []
    assert subject.log.hard_state == hard(0, 0, 0)
    assert subject.log.configuration == (0, Configuration())
    subject.log.commit(LogBatch(hard_state=hard(1, 1, 0)))
    assert subject.reopen(0) == InitStatus.BOOTSTRAPPED
    assert subject.told == []


def test_a_cancelled_or_failed_initialisation_can_be_done_again(subject: Subject) -> None:
    subject.log.commit(LogBatch([entry(1, i) for i in range(1, 6)], hard(1, 0, 5)))
    with pytest.raises(Cancelled):
        subject.initialize(3, lambda: True)
    assert subject.log.status == InitStatus.UNKNOWN
    calls = iter([False, True])
    with pytest.raises(Cancelled):
        subject.initialize(3, lambda: next(calls))
    assert (subject.log.status, subject.told) == (InitStatus.UNKNOWN, [])
    with pytest.raises(Damaged, match="the state is at LSN 6"):
        subject.initialize(6)
    assert subject.log.status == InitStatus.UNKNOWN
    assert subject.initialize(3) == InitStatus.BOOTSTRAPPED
    assert subject.told == [(4, 5)]


def test_a_log_written_without_raft_needs_backfill(subject: Subject) -> None:
    subject.plain(5)
    assert subject.reopen(3) == InitStatus.NEEDS_BACKFILL
    assert subject.bounds() == (4, 5)
    assert subject.told == [(4, 5)]
    subject.backfill(3)
    assert subject.log.status == InitStatus.BOOTSTRAPPED
    found = subject.log.entries(LSN(4), LSN(6), None)
    assert [(e.index, e.data) for e in found] == [(4, b"4"), (5, b"5")]
    assert all(e.term >= 1 for e in found)
    assert subject.log.boundary == position(3, 1)
    assert subject.reopen(3) == InitStatus.BOOTSTRAPPED


def test_raft_on_off_and_on_again(subject: Subject) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, i) for i in (1, 2, 3)], hard(1, 0, 3)))
    subject.log.save_configuration(LSN(1), Configuration(voters=(MEMBER,)))
    subject.log.disable_replication()
    assert subject.reopen(0) == InitStatus.NEEDS_BACKFILL
    assert subject.log.append(LSN(4), [b"4", b"5"]) == 4
    assert subject.terms() == [1, 1, 1, 0, 0]
    subject.retention = subject.log.retention = LogRetention(keep_all=True)  # type: ignore[attr-defined]
    subject.reopen(5)
    subject.backfill(5)
    assert subject.reopen(5) == InitStatus.BOOTSTRAPPED
    assert subject.log.last == position(5, 2)
    assert subject.terms() == [1, 1, 1, 2, 2]
    subject.log.commit(LogBatch([entry(2, 6, b"6")]))
    assert subject.log.entries(LSN(6), LSN(7), None) == [entry(2, 6, b"6")]
    assert subject.log.configuration == (5, Configuration(voters=(MEMBER,)))
    assert subject.log.hard_state == hard(2, 0, 5)


@pytest.mark.parametrize(
    ("entries", "committed", "applied", "bounds", "told"),
    [(3, 3, 3, (4, 3), (4, 3)), (5, 3, 2, (3, 5), (3, 3))],
)
def test_a_reopened_log_notifies_its_consumer_once(
    subject: Subject,
    entries: int,
    committed: int,
    applied: int,
    bounds: tuple[int, int],
    told: tuple[int, int],
) -> None:
    rows = [entry(1, i) for i in range(1, entries + 1)]
    subject.log.commit(LogBatch(rows, hard(1, 0, committed)))
    subject.reopen(applied)
    assert subject.bounds() == bounds
    assert subject.told == [told]


def test_initial_state_comes_back_exactly(subject: Subject) -> None:
    subject.log.commit(LogBatch([entry(4, i) for i in range(1, 11)], hard(4, 2, 10)))
    configuration = Configuration(voters=(1, 2, 3), learners=(4,))
    subject.log.save_configuration(LSN(10), configuration)
    subject.reopen(0)
    assert subject.log.hard_state == hard(4, 2, 10)
    assert subject.log.configuration == (10, configuration)


# --- insert and overwrite ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inserts", "terms"),
    [
        ([[(1, 1)], [(1, 2)], [(1, 3)]], [1, 1, 1]),
        ([[(1, 1)], [(2, 1)]], [2]),
        (
            [[(1, 1), (1, 2), (1, 3)], [(2, 2), (2, 3), (2, 4)], [(3, 3), (3, 4), (3, 5)]],
            [1, 2, 3, 3, 3],
        ),
        ([[(1, 1), (1, 2), (2, 1)]], [2]),
    ],
)
def test_inserts(subject: Subject, inserts: list[list[tuple[int, int]]], terms: list[int]) -> None:
    for rows in inserts:
        subject.log.commit(LogBatch([entry(t, i, b"%d/%d" % (t, i)) for t, i in rows]))
    assert subject.terms() == terms
    subject.reopen(0)
    assert subject.terms() == terms
    assert [e.data for e in subject.rows()] == [b"%d/%d" % (t, i) for i, t in enumerate(terms, 1)]


def test_ten_mebibytes_come_back(subject: Subject) -> None:
    data = bytes(range(256)) * 40_960
    subject.log.commit(LogBatch([entry(1, 1, data)]))
    subject.reopen()
    assert subject.rows() == [entry(1, 1, data)]


@pytest.mark.parametrize(
    "batch",
    [
        LogBatch([entry(1, 5)]),
        LogBatch([entry(0, 4)]),
        LogBatch([entry(2, 4), entry(1, 5)]),
        LogBatch([entry(2, 2)]),  # at the commit index (part 2, 1)
        LogBatch([entry(2, 1)]),
        LogBatch([], hard(1, 0, 9)),
        LogBatch([], hard(1, 0, 1)),
        LogBatch([], hard(0, 0, 2)),
        LogBatch([entry(1, 4)], hard(1, 0, 9)),
    ],
)
def test_what_raft_never_asks_changes_nothing(subject: Subject, batch: LogBatch) -> None:
    subject.log.commit(LogBatch([entry(1, 1), entry(1, 2), entry(1, 3)], hard(1, 0, 2)))
    with pytest.raises(ValueError, match=r"entry|hard state|commit"):
        subject.log.commit(batch)
    subject.reopen()
    assert (subject.terms(), subject.log.hard_state) == ([1, 1, 1], hard(1, 0, 2))


def test_index_five_on_an_empty_log_is_an_error(subject: Subject) -> None:
    with pytest.raises(ValueError, match="gap"):
        subject.log.commit(LogBatch([entry(1, 5)]))
    assert subject.bounds() == (1, 0)


# --- reads ------------------------------------------------------------------------------------


def seven(subject: Subject) -> None:
    """Survivors: 3@2, 4@3, 5@4, 6@4."""
    subject.initialize(0)
    for term, index in ((1, 1), (1, 2), (2, 3), (2, 4), (3, 4), (4, 5), (4, 6)):
        subject.log.commit(LogBatch([entry(term, index, b"x" * 10)]))
    subject.log.commit(LogBatch(hard_state=hard(4, 0, 2)))
    subject.apply(2)


def test_entries(subject: Subject) -> None:
    with pytest.raises(Unavailable):
        subject.log.entries(LSN(1), LSN(1), None)
    seven(subject)
    found = subject.log.entries(LSN(3), LSN(7), None)
    assert [(e.index, e.term) for e in found] == [(3, 2), (4, 3), (5, 4), (6, 4)]
    with pytest.raises(Compacted):
        subject.log.entries(LSN(1), LSN(6), None)
    with pytest.raises(Unavailable):
        subject.log.entries(LSN(3), LSN(9), None)
    # Bytes, not entries; at least one (part 2, 3).
    assert [len(subject.log.entries(LSN(3), LSN(7), n)) for n in (0, 1, 20, 29, 40)] == [
        1,
        1,
        2,
        2,
        4,
    ]


def test_term(subject: Subject) -> None:
    assert subject.log.term(LSN(0)) == 0
    with pytest.raises(Unavailable):
        subject.log.term(LSN(1))
    seven(subject)
    with pytest.raises(Compacted):
        subject.log.term(LSN(1))
    with pytest.raises(Unavailable):
        subject.log.term(LSN(7))
    # The boundary's term answers (part 2, 4), and is there after a restart.
    for _ in range(2):
        assert [subject.log.term(LSN(i)) for i in range(2, 7)] == [1, 2, 3, 4, 4]
        subject.reopen(2)


def test_the_last_term_is_the_last_entrys(subject: Subject) -> None:
    """Not the hard state's, even where everything is pruned (part 2, 5)."""
    subject.log.commit(LogBatch([entry(2, 1), entry(3, 2)], hard(9, 0, 2)))
    subject.reopen(2)
    assert subject.bounds() == (3, 2)
    assert subject.log.last == position(2, 3)
    assert subject.log.term(LSN(2)) == 3


# --- hard state and notifications -------------------------------------------------------------


def test_the_consumer_hears_of_commits_never_of_appends(subject: Subject) -> None:
    subject.initialize(0)
    subject.log.commit(LogBatch([entry(1, 1), entry(1, 2), entry(1, 3)]))
    assert subject.told == []
    for index in (1, 2, 3):
        subject.log.commit(LogBatch(hard_state=hard(1, 0, index)))
    assert subject.told == [(1, 1), (1, 2), (1, 3)]
    subject.log.commit(LogBatch(hard_state=hard(1, 0, 3)))
    assert len(subject.told) == 3


def test_the_mark_moves_with_what_is_applied(subject: Subject) -> None:
    subject.initialize(0)
    subject.log.commit(LogBatch([entry(1, 1), entry(1, 2), entry(1, 3)], hard(1, 0, 1)))
    subject.log.acknowledge("applied", LSN(1))
    assert subject.log.low_water_mark == 2
    for index in (2, 3):
        subject.log.commit(LogBatch(hard_state=hard(1, 0, index)))
    assert subject.told == [(1, 1), (2, 2), (2, 3)]
    subject.log.acknowledge("applied", LSN(3))
    assert subject.log.low_water_mark == 4
    assert len(subject.told) == 3


def test_a_standalone_logs_consumer_hears_of_appends(subject: Subject) -> None:
    """What is durable is committed there."""
    subject.log.bootstrap_standalone(CLUSTER)
    subject.initialize(0)
    subject.log.append(None, [b"1"])
    subject.log.append(None, [b"2", b"3"])
    assert subject.told == [(1, 1), (1, 3)]


# --- the standalone log -----------------------------------------------------------------------


def test_compare_and_append(subject: Subject) -> None:
    subject.plain(3)
    for lsn in (2, 3, 5):
        with pytest.raises(ValueError, match=r"append|elsewhere"):
            subject.log.append(LSN(lsn), [b"x"])
    assert subject.indexes() == [1, 2, 3]
    assert subject.log.append(LSN(4), [b"x"]) == 4
    assert subject.log.append(None, [b"y"]) == 5


def test_a_standalone_log_takes_nothing_of_rafts_and_the_other_way(subject: Subject) -> None:
    with pytest.raises(ValueError, match=r"replicated log|log is replicated"):
        subject.log.append(None, [b"x"])
    with pytest.raises(ValueError, match=r"replicated log|log is replicated"):
        subject.log.truncate_from(LSN(1))
    subject.plain(2)
    for row in (entry(1, 3), LogEntry(LSN(3), Term(0), 1, b""), entry(0, 2)):
        with pytest.raises(ValueError, match=r"entry"):
            subject.log.commit(LogBatch([row]))
    assert subject.indexes() == [1, 2]


def test_truncation(subject: Subject) -> None:
    subject.plain(5)
    subject.initialize(2)
    with pytest.raises(ValueError, match="truncation"):
        subject.log.truncate_from(LSN(2))
    assert subject.log.truncate_from(LSN(6)) == []
    assert subject.indexes() == [3, 4, 5]
    subject.log.truncate_from(LSN(4))
    assert subject.indexes() == [3]
    subject.log.truncate_from(LSN(3))
    assert subject.bounds() == (3, 2)
    subject.reopen(2)
    assert subject.log.append(LSN(3), [b"again"]) == 3


def test_concurrent_truncations_and_appends_leave_a_whole_log(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "log")
    subject.plain(50)
    subject.initialize(10)

    def work(number: int) -> None:
        for lsn in range(50, 11, -number):
            subject.log.truncate_from(LSN(lsn))
            subject.log.append(None, [b"x"])

    threads = [threading.Thread(target=work, args=(n,)) for n in (3, 4, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    subject.reopen(10)
    assert subject.indexes() == list(range(11, subject.log.last.index + 1))
    subject.log.close()


def test_positions(subject: Subject) -> None:
    subject.plain(5)
    subject.initialize(5)
    subject.log.append(None, [b"6", b"7"])
    subject.log.register("slow", LSN(5))
    with pytest.raises(ValueError, match="already registered"):
        subject.log.register("slow", LSN(5))
    with pytest.raises(KeyError):
        subject.log.acknowledge("nobody", LSN(5))
    with pytest.raises(KeyError):
        subject.log.unregister("nobody")
    for name in ("", "applied", "committed", "snapshot", "Upper", "a" * 64, "-a", "a/b"):
        with pytest.raises(ValueError, match="consumer name"):
            subject.log.register(name, LSN(5))
    with pytest.raises(Compacted):
        subject.log.register("late", LSN(4))
    with pytest.raises(ValueError, match=r"cannot be|out of range"):
        subject.log.register("far", LSN(8))
    subject.log.register("fast", LSN(7))
    assert subject.log.low_water_mark == 6
    subject.log.acknowledge("applied", LSN(7))
    assert subject.log.low_water_mark == 6
    subject.log.acknowledge("slow", LSN(6))
    subject.log.acknowledge("slow", LSN(6))
    # Never regress (part 2, 16), never pass what there is.
    for lsn in (5, 8):
        with pytest.raises(ValueError, match="position"):
            subject.log.acknowledge("slow", LSN(lsn))
    subject.reopen(7)
    assert subject.log.positions == {"applied": 7, "slow": 6, "fast": 7}
    subject.log.unregister("slow")
    assert subject.log.low_water_mark == 8


def test_consumers_are_bounded(subject: Subject) -> None:
    subject.plain(1)
    for number in range(CONSUMERS_MAX):
        subject.log.register(f"c{number}", LSN(1))
    with pytest.raises(ValueError, match=r"many|64"):
        subject.log.register("one-more", LSN(1))


# --- close ------------------------------------------------------------------------------------


def test_closed_logs_refuse(subject: Subject) -> None:
    subject.plain(2)
    subject.log.close()
    subject.log.close()
    for call in (
        lambda: subject.log.append(None, [b"x"]),
        lambda: subject.log.prune(1),
        lambda: subject.log.read(LSN(1), LSN(2), None),
        lambda: subject.log.initialize(LSN(0)),
        lambda: subject.log.begin_backfill(),
    ):
        with pytest.raises(Stopping):
            call()
