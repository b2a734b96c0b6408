"""Pruning and compaction of both logs: what holds entries back, and which blobs go with them."""

import threading
from pathlib import Path

import pytest
from partition_replica.core.compaction import LogRetention
from partition_replica.core.model import (
    LogBatch,
)
from partition_replica.errors import Compacted
from partition_replica.ids import LSN, Digest

from tests.support.log_subjects import subject as subject  # a fixture
from tests.support.logs import CLUSTER, Subject, entry, hard
from tests.support.proposals import body, link, payload, proposal

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
    subject.log.bootstrap_standalone(CLUSTER)
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
        subject = Subject(folder, LogRetention(keep_all=True))
        subject.plain(5)
        subject.initialize(5)
        subject.trim()
        assert subject.indexes() == [1, 2, 3, 4, 5]
        subject.log.close()


def test_a_trail_stays_for_slow_followers(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, LogRetention(trail_entries=3))
        subject.log.commit(LogBatch([entry(1, i) for i in range(1, 11)], hard(1, 0, 10)))
        subject.initialize(8)
        assert (subject.log.low_water_mark, subject.bounds()) == (9, (6, 10))
        assert subject.indexes() == [6, 7, 8, 9, 10]
        subject.log.close()


def test_a_trail_has_no_more_bytes_than_it_may(tmp_path: Path) -> None:
    """Of entries 1 to 20, ten bytes each, 95 bytes may stay below the mark, and no step is too
    small for that."""
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, LogRetention(trail_entries=15, trail_bytes=95))
        subject.log.commit(LogBatch([entry(1, i, b"x" * 10) for i in range(1, 21)], hard(1, 0, 20)))
        subject.initialize(0)
        subject.log.acknowledge("applied", LSN(10))
        assert subject.log.compaction_target(100) == 1
        subject.log.acknowledge("applied", LSN(20))
        assert subject.log.compaction_target(100) == 11
        subject.log.hold([LSN(15)])
        assert subject.log.compaction_target(100) == 6
        subject.log.hold([])
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
        subject = Subject(folder, LogRetention(trail_entries=100, trail_bytes=70_000))
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
        subject = Subject(folder, LogRetention(consumer_lag_entries_max=4))
        subject.log.bootstrap_standalone(CLUSTER)
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


def test_a_hold_that_is_too_far_behind_takes_no_other_with_it(tmp_path: Path) -> None:
    for folder in (None, tmp_path / "log"):
        subject = Subject(folder, LogRetention(consumer_lag_entries_max=4))
        subject.log.bootstrap_standalone(CLUSTER)
        subject.initialize(0)
        subject.log.append(None, [b"x"] * 10)
        subject.log.hold([LSN(1), LSN(7), LSN(8)])
        assert subject.log.positions["snapshot"] == 1
        subject.apply(10)
        assert subject.indexes() == [8, 9, 10]
        subject.log.hold([LSN(1), LSN(8)])
        subject.trim()
        assert subject.indexes() == [9, 10]
        subject.log.close()


def test_a_snapshot_under_way_holds_the_log(subject: Subject) -> None:
    subject.log.commit(LogBatch([entry(1, i) for i in range(1, 11)], hard(1, 0, 10)))
    subject.initialize(0)
    subject.log.hold([LSN(4)])
    subject.apply(9)
    assert subject.bounds() == (5, 10)
    subject.log.hold([])
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
    subject.log.bootstrap_standalone(CLUSTER)
    subject.initialize(0)
    subject.log.append(None, [named, b"", named, b""])
    subject.log.acknowledge("applied", LSN(4))
    subject.log.compact(LSN(4))
    assert subject.log.prune(2) == (2, [])
    assert subject.log.prune(2) == (2, [large.digest])
    assert subject.log.prune(2) == (0, [])
    assert not subject.log.names_blob(large.digest)  # type: ignore[arg-type]
