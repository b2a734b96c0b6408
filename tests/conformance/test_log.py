"""The log in LMDB: what Raft may ask, what it is refused, and what a reopened one says."""

from collections.abc import Iterator
from pathlib import Path

import lmdb
import pytest
from partition_replica.core.model import (
    Configuration,
    HardState,
    LogBatch,
    LogEntry,
    Position,
    StateSwitch,
)
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Compacted, Damaged, Unavailable
from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage.log import LmdbLog

from tests.support.proposals import body, link, payload, proposal

MEMBER = MemberID(7)


def digests(found: LogEntry) -> list[Digest]:
    """Of entries that carry a proposal; the others here carry any bytes."""
    return blob_digests(found) if found.data.startswith(b"\n") else []


def entry(term: int, index: int, data: bytes = b"") -> LogEntry:
    return LogEntry(LSN(index), Term(term), 0, data)


def hard(term: int, vote: int, commit: int) -> HardState:
    return HardState(Term(term), MemberID(vote), LSN(commit))


def terms(log: LmdbLog) -> list[int]:
    first, last = log.boundary.index + 1, log.last.index
    return [e.term for e in log.entries(LSN(first), LSN(last + 1), None)]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LmdbLog]:
    found = LmdbLog(tmp_path / "log", MEMBER, digests)
    yield found
    found.close()


def reopen(log: LmdbLog, tmp_path: Path) -> LmdbLog:
    log.close()
    return LmdbLog(tmp_path / "log", MemberID(99), digests)


def test_a_new_volume(log: LmdbLog, tmp_path: Path) -> None:
    assert log.identity.member_id == MEMBER
    assert log.identity.cluster_id == ""
    assert log.last == log.boundary == Position(LSN(0), Term(0))
    assert log.hard_state == hard(0, 0, 0)
    assert reopen(log, tmp_path).identity.member_id == MEMBER


def test_hard_state_and_configuration_come_back_exactly(log: LmdbLog, tmp_path: Path) -> None:
    log.commit(LogBatch([entry(4, i) for i in range(1, 11)], hard(4, 2, 10)))
    configuration = Configuration((1, 2, 3), (4,), (1, 2), (2,), True)
    log.save_configuration(LSN(9), configuration)
    again = reopen(log, tmp_path)
    assert again.hard_state == hard(4, 2, 10)
    assert again.configuration == (9, configuration)
    with pytest.raises(ValueError, match="older than the saved"):
        again.save_configuration(LSN(8), configuration)
    again.close()


def test_sequential_appends(log: LmdbLog, tmp_path: Path) -> None:
    wanted = [entry(1, 1, b"a"), entry(1, 2, b""), entry(1, 3, b"\0" * 10)]
    for found in wanted:
        log.commit(LogBatch([found]))
    assert log.entries(LSN(1), LSN(4), None) == wanted
    assert log.last == Position(LSN(3), Term(1))
    again = reopen(log, tmp_path)
    assert again.entries(LSN(1), LSN(4), None) == wanted
    again.close()


def test_overwriting_deletes_everything_behind(log: LmdbLog, tmp_path: Path) -> None:
    log.commit(LogBatch([entry(1, 1), entry(1, 2), entry(1, 3)]))
    log.commit(LogBatch([entry(2, 2), entry(2, 3), entry(2, 4)]))
    log.commit(LogBatch([entry(3, 3), entry(3, 4), entry(3, 5)]))
    assert terms(log) == [1, 2, 3, 3, 3]
    log.commit(LogBatch([entry(4, 2)]))
    assert terms(log) == [1, 4]
    again = reopen(log, tmp_path)
    assert terms(again) == [1, 4]
    again.close()


def test_ten_mebibytes_come_back(log: LmdbLog) -> None:
    data = bytes(range(256)) * 40960
    log.commit(LogBatch([entry(1, 1, data)]))
    assert log.entries(LSN(1), LSN(2), None)[0].data == data


@pytest.mark.parametrize(
    "batch",
    [
        LogBatch([entry(1, 5)]),  # a hole
        LogBatch([entry(0, 4)]),  # term 0
        LogBatch([entry(1, 4), entry(1, 6)]),  # a hole inside
        LogBatch([entry(2, 4), entry(1, 5)]),  # a falling term
        LogBatch([entry(2, 2)]),  # at the commit index
        LogBatch([entry(2, 1)]),  # below it
        LogBatch([], hard(1, 0, 9)),  # commit behind the end
        LogBatch([], hard(1, 0, 1)),  # commit falls
        LogBatch([], hard(0, 0, 2)),  # term falls
        LogBatch([entry(1, 4)], hard(1, 0, 9)),  # the whole batch or nothing
    ],
)
def test_what_raft_never_asks_is_refused_and_changes_nothing(
    log: LmdbLog, tmp_path: Path, batch: LogBatch
) -> None:
    log.commit(LogBatch([entry(1, 1), entry(1, 2), entry(1, 3)], hard(1, 0, 2)))
    with pytest.raises(ValueError, match=r"entry|hard state|commit"):
        log.commit(batch)
    for found in (log, reopen(log, tmp_path)):
        assert (found.last, found.hard_state) == (Position(LSN(3), Term(1)), hard(1, 0, 2))
    assert terms(found) == [1, 1, 1]
    found.close()


def test_reads(log: LmdbLog) -> None:
    with pytest.raises(Unavailable):
        log.entries(LSN(1), LSN(3), None)
    switch = StateSwitch(Position(LSN(2), Term(1)), Configuration((7,)), 2)
    log.commit(LogBatch(snapshot=switch))
    log.commit(LogBatch([entry(t, i, b"x" * 100) for i, t in ((3, 2), (4, 3), (5, 4), (6, 4))]))
    assert [e.index for e in log.entries(LSN(3), LSN(7), None)] == [3, 4, 5, 6]
    assert [e.index for e in log.entries(LSN(3), LSN(7), 250)] == [3, 4]
    assert [e.index for e in log.entries(LSN(3), LSN(7), 1)] == [3]  # at least one
    assert log.entries(LSN(5), LSN(5), None) == []
    for index in (1, 2):
        with pytest.raises(Compacted, match="begins at 3"):
            log.entries(LSN(index), LSN(7), None)
    assert [log.term(LSN(i)) for i in range(2, 7)] == [1, 2, 3, 4, 4]
    with pytest.raises(Compacted):
        log.term(LSN(1))
    with pytest.raises(Unavailable):
        log.term(LSN(7))


def test_a_snapshot_replaces_the_log(log: LmdbLog, tmp_path: Path) -> None:
    large = payload(b"x" * 70_000)
    named = body(proposal(1, 1, [link(b"a")], [large])).SerializeToString()
    log.commit(LogBatch([entry(1, 1, named), entry(1, 2)], hard(1, 0, 1)))
    assert log.names_blob(large.digest)  # type: ignore[arg-type]
    switch = StateSwitch(Position(LSN(50), Term(3)), Configuration((1, 2)), 4)
    released = log.commit(LogBatch(snapshot=switch))
    assert released == [large.digest]
    again = reopen(log, tmp_path)
    assert again.boundary == again.last == Position(LSN(50), Term(3))
    assert again.identity.state_generation == 4
    assert again.configuration == (50, Configuration((1, 2)))
    assert again.hard_state.commit == 50
    assert again.term(LSN(50)) == 3
    again.commit(LogBatch([entry(3, 51)]))
    assert again.last.index == 51
    again.close()


def test_overwritten_entries_release_their_blobs_unless_named_again(log: LmdbLog) -> None:
    large = payload(b"y" * 70_000)
    named = body(proposal(1, 1, [link(b"a")], [large])).SerializeToString()
    log.commit(LogBatch([entry(1, 1), entry(1, 2, named), entry(1, 3, named)]))
    assert log.commit(LogBatch([entry(2, 3)])) == []
    assert log.commit(LogBatch([entry(3, 2, named)])) == []
    assert log.commit(LogBatch([entry(4, 2)])) == [large.digest]


def test_bootstrap_and_join(log: LmdbLog, tmp_path: Path) -> None:
    log.bootstrap(ClusterID("c"), Configuration((7,)))
    again = reopen(log, tmp_path)
    assert again.boundary == Position(LSN(1), Term(1))
    assert (again.identity.cluster_id, again.hard_state) == ("c", hard(1, 0, 1))
    again.close()


@pytest.mark.parametrize("table", [b"raft", b"manifest", b"meta"])
def test_damaged_rows_are_named(log: LmdbLog, tmp_path: Path, table: bytes) -> None:
    log.commit(LogBatch([entry(1, i, b"data") for i in range(1, 4)], hard(1, 0, 2)))
    log.close()
    flip(tmp_path / "log", table)
    with pytest.raises(Damaged, match=f"table {table.decode()} fails its checksum"):
        again = LmdbLog(tmp_path / "log", MEMBER, digests)
        again.entries(LSN(1), LSN(4), None)


@pytest.mark.parametrize("table", [b"raft", b"manifest"])
def test_a_hole_is_found_at_start(log: LmdbLog, tmp_path: Path, table: bytes) -> None:
    log.commit(LogBatch([entry(1, i) for i in range(1, 6)]))
    log.close()
    environment = lmdb.open(str(tmp_path / "log"), max_dbs=8)
    with environment.begin(write=True) as txn:
        txn.delete((3).to_bytes(8, "big"), db=environment.open_db(table, txn))
    environment.close()
    with pytest.raises(Damaged, match=r"is missing|has no raft row"):
        LmdbLog(tmp_path / "log", MEMBER, digests)


def flip(path: Path, table: bytes) -> None:
    """One bit of the last row of a table."""
    environment = lmdb.open(str(path), max_dbs=8)
    with environment.begin(write=True) as txn:
        database = environment.open_db(table, txn)
        cursor = txn.cursor(database)
        assert cursor.last()
        key, row = bytes(cursor.key()), bytearray(cursor.value())
        row[-1] ^= 1
        txn.put(key, bytes(row), db=database)
    environment.close()
