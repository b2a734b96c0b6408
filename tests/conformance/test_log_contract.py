"""core.ports.LogStorage, once against the reference and once against LMDB: the seed's behaviour,
and where ours goes further (its authors' cases; docs/ARCHITECTURE.md, The log)."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_replica.core.compaction import CONSUMERS_MAX, Retention
from partition_replica.core.model import (
    Configuration,
    InitStatus,
    LogBatch,
    LogEntry,
    Position,
    SnapshotSwitch,
)
from partition_replica.errors import Cancelled, Compacted, Damaged, Stopping, Unavailable
from partition_replica.ids import LSN, Digest, MemberID, Term
from partition_replica.storage.log import LmdbLog

from tests.support.logs import CLUSTER, MEMBER, Subject, entry, hard
from tests.support.proposals import body, link, payload, proposal

KINDS = ("memory", "lmdb")


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    found = Subject(None if request.param == "memory" else tmp_path / "log")
    yield found
    found.log.close()


def position(index: int, term: int) -> Position:
    return Position(LSN(index), Term(term))


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
    with pytest.raises(Damaged, match="the state is at 6"):
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
    subject.log.stop_replication()
    assert subject.reopen(0) == InitStatus.NEEDS_BACKFILL
    assert subject.log.append(LSN(4), [b"4", b"5"]) == 4
    assert subject.terms() == [1, 1, 1, 0, 0]
    subject.retention = subject.log.retention = Retention(keep_all=True)  # type: ignore[attr-defined]
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
    with pytest.raises(ValueError, match="hole"):
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


def test_a_plain_logs_consumer_hears_of_appends(subject: Subject) -> None:
    """What is durable is committed there."""
    subject.log.bootstrap_plain(CLUSTER)
    subject.initialize(0)
    subject.log.append(None, [b"1"])
    subject.log.append(None, [b"2", b"3"])
    assert subject.told == [(1, 1), (1, 3)]


# --- the plain log ----------------------------------------------------------------------------


def test_compare_and_append(subject: Subject) -> None:
    subject.plain(3)
    for lsn in (2, 3, 5):
        with pytest.raises(ValueError, match=r"append|elsewhere"):
            subject.log.append(LSN(lsn), [b"x"])
    assert subject.indexes() == [1, 2, 3]
    assert subject.log.append(LSN(4), [b"x"]) == 4
    assert subject.log.append(None, [b"y"]) == 5


def test_a_plain_log_takes_nothing_of_rafts_and_the_other_way(subject: Subject) -> None:
    with pytest.raises(ValueError, match="Raft"):
        subject.log.append(None, [b"x"])
    with pytest.raises(ValueError, match="Raft"):
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
    with pytest.raises(ValueError, match="registered already"):
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


# --- pruning, compaction ----------------------------------------------------------------------


def test_a_slow_consumer_holds_the_log_back(subject: Subject) -> None:
    subject.plain(3)
    subject.initialize(0)
    subject.log.register("slow", LSN(1))
    subject.apply(2)
    assert subject.indexes() == [2, 3]
    subject.log.acknowledge("slow", LSN(3))
    subject.trim()
    assert subject.indexes() == [3]


def test_a_hundred_concurrent_appends_with_a_consumer_five_behind(tmp_path: Path) -> None:
    subject = Subject(tmp_path / "log")
    subject.log.bootstrap_plain(CLUSTER)
    subject.initialize(0)
    subject.log.register("behind", LSN(0))
    barrier = threading.Barrier(100)
    lsns: list[int] = []

    def append() -> None:
        barrier.wait()
        lsn = subject.log.append(None, [b"x"])
        lsns.append(lsn)
        if lsn > 5:
            try:
                subject.log.acknowledge("behind", LSN(lsn - 5))
                subject.log.acknowledge("applied", LSN(lsn))
            except ValueError:
                pass  # another thread was further: positions never fall
            subject.trim()

    threads = [threading.Thread(target=append) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lsns) == list(range(1, 101))
    for name, lsn in (("behind", 95), ("applied", 100)):
        if subject.log.positions[name] < lsn:
            subject.log.acknowledge(name, LSN(lsn))
    subject.trim()
    assert subject.indexes() == [96, 97, 98, 99, 100]
    subject.log.close()


def test_an_option_keeps_everything(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, Retention(keep_all=True))
        subject.plain(5)
        subject.initialize(5)
        subject.trim()
        assert subject.indexes() == [1, 2, 3, 4, 5]
        subject.log.close()


def test_a_trail_stays_for_slow_followers(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, Retention(trail_entries=3))
        subject.log.commit(LogBatch([entry(1, i) for i in range(1, 11)], hard(1, 0, 10)))
        subject.initialize(8)
        assert (subject.log.low_water_mark, subject.bounds()) == (9, (6, 10))
        assert subject.indexes() == [6, 7, 8, 9, 10]
        subject.log.close()


def test_a_trail_has_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    """Of entries 1 to 20, ten bytes each, 95 bytes may stay below the mark, and no step is too
    small for that."""
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, Retention(trail_entries=15, trail_bytes=95))
        subject.log.commit(LogBatch([entry(1, i, b"x" * 10) for i in range(1, 21)], hard(1, 0, 20)))
        subject.initialize(0)
        subject.log.acknowledge("applied", LSN(10))
        assert subject.log.compaction_target(100) == 1
        subject.log.acknowledge("applied", LSN(20))
        assert subject.log.compaction_target(100) == 11
        subject.log.hold_snapshot(LSN(15))
        assert subject.log.compaction_target(100) == 6
        subject.log.hold_snapshot(None)
        subject.log.compact(LSN(11))
        assert subject.log.compaction_target(1) is None
        subject.reopen(20)
        assert subject.log.compaction_target(1) is None
        subject.log.close()


def test_files_that_only_the_log_names_count(tmp_path: Path) -> None:
    large = payload(b"z" * 70_000)
    named = body(proposal(1, 1, [link(b"a")], [large])).SerializeToString()
    digest = Digest(large.digest)
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, Retention(trail_entries=100, trail_bytes=70_000))
        bodies = [b"", named, b"", named, b"", b""]
        rows = [entry(1, i, data) for i, data in enumerate(bodies, 1)]
        subject.log.commit(LogBatch(rows, hard(1, 0, 6)))
        subject.initialize(6)
        assert subject.log.compaction_target(1) is None
        lsn = subject.log.last_naming(digest)
        assert lsn == 4
        for _ in range(2):  # once, however often
            subject.log.weigh(lsn, digest, 70_000)
            assert subject.log.compaction_target(100) == 4
        subject.log.compact(LSN(4))
        assert subject.log.compaction_target(1) is None
        assert subject.log.last_naming(Digest(b"\xff" * 32)) is None
        subject.log.close()


def test_a_lost_consumer_does_not_hold_the_log_for_ever(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, Retention(consumer_lag_entries_max=4))
        subject.log.bootstrap_plain(CLUSTER)
        subject.initialize(0)
        subject.log.register("lost", LSN(0))
        subject.log.append(None, [b"x"] * 4)
        subject.apply(4)
        assert subject.indexes() == [1, 2, 3, 4]
        subject.log.append(None, [b"x"])
        subject.apply(5)
        assert subject.indexes() == []
        with pytest.raises(Compacted):
            subject.log.read(LSN(1), LSN(6), None)
        subject.log.close()


def test_a_snapshot_under_way_holds_the_log(subject: Subject) -> None:
    subject.log.commit(LogBatch([entry(1, i) for i in range(1, 11)], hard(1, 0, 10)))
    subject.initialize(0)
    subject.log.hold_snapshot(LSN(4))
    subject.apply(9)
    assert subject.bounds() == (5, 10)
    subject.log.hold_snapshot(None)
    subject.trim()
    assert subject.bounds() == (10, 10)


def test_compaction_stays_below_what_is_applied(subject: Subject) -> None:
    subject.log.commit(LogBatch([entry(1, i) for i in range(1, 6)], hard(1, 0, 5)))
    subject.initialize(3)
    with pytest.raises(ValueError, match="compaction"):
        subject.log.compact(LSN(4))
    subject.log.compact(LSN(1))  # below the boundary: nothing
    assert subject.bounds() == (4, 5)


def test_pruned_entries_release_their_blobs(subject: Subject) -> None:
    large = payload(b"z" * 70_000)
    named = body(proposal(1, 1, [link(b"a")], [large])).SerializeToString()
    subject.log.bootstrap_plain(CLUSTER)
    subject.initialize(0)
    subject.log.append(None, [named, b"", named, b""])
    subject.log.acknowledge("applied", LSN(4))
    subject.log.compact(LSN(4))
    assert subject.log.prune(2) == (2, [])
    assert subject.log.prune(2) == (2, [large.digest])
    assert subject.log.prune(2) == (0, [])
    assert not subject.log.names_blob(large.digest)  # type: ignore[arg-type]


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


# --- replication on and off -------------------------------------------------------------------


def test_backfill_goes_on_where_it_was(subject: Subject) -> None:
    subject.plain(10)
    with pytest.raises(ValueError, match="backfill"):
        subject.log.step_backfill(1)
    first = subject.log.begin_backfill()
    assert (first.term, first.first, first.next, first.target) == (1, 1, 1, 10)
    assert subject.log.step_backfill(4).next == 5
    assert subject.terms() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    with pytest.raises(ValueError, match="backfill"):
        subject.log.finish_backfill(position(10, 1))
    assert subject.reopen(0) == InitStatus.NEEDS_BACKFILL
    # What is written meanwhile has its metadata at once.
    subject.log.append(None, [b"11"])
    assert subject.log.begin_backfill().next == 5
    subject.backfill(11)
    assert subject.terms() == [1] * 11
    assert subject.log.boundary == position(11, 1)
    assert subject.log.hard_state == hard(1, 0, 11)
    subject.log.commit(LogBatch([entry(1, 12)]))


def test_backfilled_terms_never_fall(subject: Subject) -> None:
    """Entries keep the terms they have; the others' is above every term that was saved."""
    subject.log.join(CLUSTER)
    rows = [entry(2, 1), entry(5, 2), entry(5, 3)]
    subject.log.commit(LogBatch(rows, hard(8, 3, 1)))
    subject.log.save_configuration(LSN(0), Configuration(voters=(MEMBER,)))
    subject.log.stop_replication()
    assert subject.log.hard_state.commit == 3
    subject.log.append(None, [b"4"])
    subject.initialize(0)
    subject.backfill(2)
    assert subject.terms() == [2, 5, 5, 9]
    assert subject.log.boundary == position(2, 5)
    assert subject.log.hard_state == hard(9, 0, 4)
    assert [e.term for e in subject.log.entries(LSN(3), LSN(5), None)] == [5, 9]


def test_backfill_needs_something_applied(subject: Subject) -> None:
    subject.plain(2)
    subject.initialize(0)
    progress = subject.log.begin_backfill()
    while not progress.complete:
        progress = subject.log.step_backfill(10)
    with pytest.raises(ValueError, match="applied"):
        subject.log.finish_backfill(position(0, 1))
    subject.log.finish_backfill(position(1, 1))


def with_terms(subject: Subject, terms: list[int]) -> None:
    """A plain log whose entries have these terms, 0 for none, and no hard state, as an import's."""
    subject.log.bootstrap_plain(CLUSTER)
    rows = [entry(term, index) for index, term in enumerate(terms, 1)]
    if isinstance(subject.log, LmdbLog):
        with subject.log.environment.begin(write=True) as txn:
            subject.log.tables.put(txn, rows, Term(0))
    else:
        subject.log._rows.update({int(row.index): row for row in rows})  # type: ignore[attr-defined]
    subject.reopen()


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_backfilled_terms_do_not_fall_behind_the_boundary(subject: Subject, steps: int) -> None:
    """Which moved there before its entry had a term."""
    with_terms(subject, [5, 5, 0, 0, 0, 7, 0])
    subject.retention = subject.log.retention = Retention(keep_all=True)  # type: ignore[attr-defined]
    subject.initialize(4)
    subject.log.compact(LSN(4))
    assert subject.log.boundary == position(4, 0)
    progress = subject.log.begin_backfill()
    while not progress.complete:
        progress = subject.log.step_backfill(steps)
        # Wherever it is cut off, it goes on.
        assert subject.reopen(4) == InitStatus.NEEDS_BACKFILL
    assert subject.terms() == [5, 5, 5, 5, 5, 7, 8]
    assert subject.log.boundary == position(4, 5)
    subject.backfill(4)
    assert subject.log.boundary == position(4, 5)
    assert subject.reopen(4) == InitStatus.BOOTSTRAPPED


def test_a_log_is_compacted_while_it_is_backfilled(subject: Subject) -> None:
    """Its boundary has a term, and there is no hard state before the end."""
    subject.plain(6)
    subject.initialize(0)
    subject.log.begin_backfill()
    subject.log.step_backfill(4)
    subject.apply(3)
    assert subject.log.boundary == position(3, 1)
    assert subject.reopen(5) == InitStatus.NEEDS_BACKFILL
    subject.backfill(5)
    assert subject.log.boundary == position(5, 1)
    assert subject.log.last == position(6, 1)


def test_an_empty_log_is_backfilled_behind_its_first_entry(subject: Subject) -> None:
    """Also one that was begun before: nothing but an entry is missing."""
    subject.log.bootstrap_plain(CLUSTER)
    subject.initialize(0)
    assert subject.log.begin_backfill().complete
    with pytest.raises(ValueError, match="applied"):
        subject.log.finish_backfill(subject.log.backfilled_position(LSN(0)))
    assert subject.reopen(0) == InitStatus.NEEDS_BACKFILL
    subject.log.append(LSN(1), [b""])
    subject.backfill(1)
    # As a group's log begins.
    assert subject.log.boundary == subject.log.last == position(1, 1)
    assert subject.log.hard_state == hard(1, 0, 1)
    assert subject.log.configuration == (1, Configuration(voters=(MEMBER,)))
    assert subject.reopen(1) == InitStatus.BOOTSTRAPPED
    subject.log.commit(LogBatch([entry(1, 2, b"a")], hard(1, 0, 2)))


def test_holding_for_a_snapshot_waits_for_no_commit(tmp_path: Path) -> None:
    """The event loop does that, and the lock is held through an fsync."""
    subject = Subject(tmp_path / "log")
    subject.plain(3)
    subject.initialize(0)
    holding = threading.Thread(target=subject.log.hold_snapshot, args=(LSN(2),), daemon=True)
    with subject.log._writing:  # type: ignore[attr-defined]
        holding.start()
        holding.join(10)
        assert not holding.is_alive()
        assert subject.log.positions["snapshot"] == 2
    subject.log.close()


def test_the_operators_token_never_falls(subject: Subject) -> None:
    subject.log.save_lease(6, "b")
    subject.log.save_lease(6, "b")
    with pytest.raises(ValueError, match="lease token"):
        subject.log.save_lease(5, "a")
    for _ in range(2):
        assert subject.log.lease_transitions == 6
        subject.reopen()


@pytest.mark.parametrize(
    "configuration",
    [
        Configuration(voters=(7, 8)),
        Configuration(voters=(8,)),
        Configuration(voters=(7,), learners=(8,)),
        Configuration(voters=(7,), voters_outgoing=(7, 8)),
    ],
)
def test_only_a_sole_voter_stops_replication(
    subject: Subject, configuration: Configuration
) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, 1)], hard(1, 0, 1)))
    subject.log.save_configuration(LSN(1), configuration)
    with pytest.raises(ValueError, match="sole voter"):
        subject.log.stop_replication()
    assert not subject.log.identity.unreplicated


def test_a_change_on_its_way_stops_no_replication(subject: Subject) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, 1), LogEntry(LSN(2), Term(1), 2, b"")], hard(1, 0, 1)))
    subject.log.save_configuration(LSN(1), Configuration(voters=(MEMBER,)))
    with pytest.raises(ValueError, match=r"changes the configuration|change of"):
        subject.log.stop_replication()


def test_a_snapshot_replaces_everything(subject: Subject) -> None:
    subject.log.join(CLUSTER)
    subject.log.commit(LogBatch([entry(1, 1), entry(1, 2)], hard(1, 0, 1)))
    subject.initialize(1)
    switch = SnapshotSwitch(position(50, 3), Configuration((1, 2)), 4)
    subject.log.commit(LogBatch(snapshot=switch))
    for _ in range(2):
        assert subject.bounds() == (51, 50)
        assert subject.log.last == subject.log.boundary == position(50, 3)
        assert subject.log.identity.state_generation == 4
        assert subject.log.configuration == (50, Configuration((1, 2)))
        assert subject.log.hard_state == hard(3, 0, 50)
        assert subject.log.first_stored == 51
        subject.reopen(50)
    subject.log.commit(LogBatch([entry(3, 51)]))
    assert subject.log.last == position(51, 3)
    assert subject.log.identity.member_id == MemberID(7)


# --- a log that begins behind a state that was taken over ----------------------------------------


def test_a_group_begins_behind_a_restored_state(subject: Subject) -> None:
    voters = Configuration(voters=(MEMBER,))
    for wrong in (position(0, 1), position(5, 0)):
        with pytest.raises(ValueError, match=r"\(1, 1\)"):
            subject.log.bootstrap(CLUSTER, voters, wrong)
    subject.log.bootstrap(CLUSTER, voters, position(40, 3))
    with pytest.raises(ValueError, match="new"):
        subject.log.bootstrap(CLUSTER, voters, position(41, 3))
    for reopened in (False, True):
        if reopened:
            assert subject.reopen(40) == InitStatus.BOOTSTRAPPED
        log = subject.log
        assert log.identity.cluster_id == CLUSTER
        assert log.boundary == log.last == position(40, 3)
        assert (log.first_stored, log.committed, log.term(LSN(40))) == (41, 40, 3)
        assert log.hard_state == hard(3, 0, 40)
        assert log.configuration == (40, voters)
        assert log.low_water_mark == 41
    with pytest.raises(Compacted):
        subject.log.entries(LSN(40), LSN(41), None)
    with pytest.raises(Damaged, match="the state is at 39"):
        subject.reopen(39)
    subject.reopen(40)
    subject.log.commit(LogBatch([entry(4, 41, b"a")], hard(4, MEMBER, 41)))
    assert subject.indexes() == [41]


@pytest.mark.parametrize("term", [0, 6])
def test_a_plain_log_begins_behind_a_restored_state(subject: Subject, term: int) -> None:
    subject.log.bootstrap_plain(CLUSTER, position(40, term))
    with pytest.raises(ValueError, match="new"):
        subject.log.bootstrap_plain(CLUSTER)
    for reopened in (False, True):
        if reopened:
            assert subject.reopen(40) == InitStatus.NEEDS_BACKFILL
        log = subject.log
        assert log.identity.unreplicated
        assert log.boundary == log.last == position(40, term)
        assert (log.first_stored, log.committed) == (41, 40)
        assert log.configuration == (40, Configuration(voters=(MEMBER,)))
        assert log.hard_state == hard(term, 0, 40 if term else 0)
    assert subject.log.append(LSN(41), [b"a", b"b"]) == 41
    with pytest.raises(ValueError, match="truncation"):
        subject.log.truncate_from(LSN(40))
    assert subject.reopen(42) == InitStatus.NEEDS_BACKFILL
    subject.backfill(42)
    # Terms go on from the one before, so that they never fall.
    assert subject.log.last == position(42, term + 1)
    assert subject.reopen(42) == InitStatus.BOOTSTRAPPED


def test_a_plain_log_without_entries_behind_a_restored_state_is_backfilled(
    subject: Subject,
) -> None:
    subject.log.bootstrap_plain(CLUSTER, position(40, 0))
    subject.reopen(40)
    subject.backfill(40)
    assert subject.reopen(40) == InitStatus.BOOTSTRAPPED
    assert subject.log.boundary == subject.log.last == position(40, 1)
    subject.log.commit(LogBatch([entry(1, 41, b"a")], hard(1, 0, 41)))
    assert subject.indexes() == [41]
