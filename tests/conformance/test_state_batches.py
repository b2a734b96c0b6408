"""How entries are batched changes nothing: the same rows, byte by byte, results and released
blobs as with one entry per transaction."""

import itertools
import os
import random
from pathlib import Path

import pytest
from partition_proto.v1 import storage_pb2 as rows
from partition_replica.core.model import Applied, LogEntry, ProposalResult, Session, TreeEntry
from partition_replica.ids import LSN, Digest, SessionID, Term
from partition_replica.storage import state_view
from partition_replica.storage.session_expiry import SessionExpiry
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_tables import TABLES
from partition_replica.storage.state_view import LmdbView

from tests.support.random_entries import RandomEntries

SEEDS = 4
ENTRIES = 300


def seeds() -> list[int]:
    """BATCH_SEED names one; otherwise they are drawn anew, and are part of the tests' names."""
    if "BATCH_SEED" in os.environ:
        return [int(os.environ["BATCH_SEED"])]
    return [random.SystemRandom().randrange(10**9) for _ in range(SEEDS)]


@pytest.mark.parametrize("overlay", [0, 3, state_view.OVERLAY_ROWS_MAX])
def test_batches_of_any_size_write_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlay: int
) -> None:
    for seed in seeds():
        print(f"BATCH_SEED={seed}")  # pytest shows it if the test fails
        monkeypatch.setattr(state_view, "OVERLAY_ROWS_MAX", overlay)
        found = both(tmp_path / str(seed), seed)
        # The random entries get everywhere, or the comparison would be of little.
        assert {applied.kind for applied in found} >= {
            "proposal",
            "duplicate",
            "sequence_acknowledged",
            "session_expired",
            "session_exists",
            "session_closed",
            "imported",
        }


def both(folder: Path, seed: int) -> list[Applied]:
    """Applies a series in random batches and one by one; returns the results."""
    folder.mkdir()
    batched, single = LmdbState(folder / "batched"), LmdbState(folder / "single")
    draw = random.Random(seed)
    bodies = itertools.islice(RandomEntries(seed), ENTRIES)
    entries = [
        LogEntry(LSN(lsn), Term(1), 0, body.SerializeToString() if body else b"")
        for lsn, body in enumerate(bodies, 1)
    ]
    results: list[Applied] = []
    try:
        while entries:
            count = draw.choice([1, 2, 7, 40, 150])
            batch, entries = entries[:count], entries[count:]
            found, released = batched.apply(batch, {})
            steps = [single.apply([entry], {}) for entry in batch]
            assert found == [applied for step in steps for applied in step[0]]
            gone = {digest for step in steps for digest in step[1]}
            assert released == sorted(d for d in gone if not single.names_blob(d))
            assert raw_rows(batched) == raw_rows(single)
            results += found
    finally:
        batched.close()
        single.close()
    return results


def raw_rows(state: LmdbState) -> dict[str, list[tuple[bytes, bytes]]]:
    with state.environment.begin() as txn:
        return {name: list(txn.cursor(getattr(state.tables, name))) for name in TABLES}


# --- the view itself --------------------------------------------------------------------------

SESSION = SessionID(7)


class Written:
    """A view in a transaction of a new state."""

    def __init__(self, folder: Path) -> None:
        self.state = LmdbState(folder / "state")
        self._txn = self.state.environment.begin(write=True)
        self.view = LmdbView(self._txn, self.state.tables, rows.AppliedRow(), SessionExpiry())

    def end(self) -> dict[str, list[tuple[bytes, bytes]]]:
        self.view.flush()
        self._txn.commit()
        found = raw_rows(self.state)
        self.state.close()
        return found


def result(lsn: int) -> ProposalResult:
    return ProposalResult(LSN(lsn), Term(1))


def test_a_result_that_follows_a_drop_stays(tmp_path: Path) -> None:
    written = Written(tmp_path)
    view = written.view
    view.put_session(SESSION, Session(10_000, 0, 1))
    for sequence in (1, 5, 9):
        view.put_result(SESSION, sequence, result(sequence))
    view.drop_results_below(SESSION, 8)
    assert view.get_result(SESSION, 5) is None
    view.put_result(SESSION, 3, result(30))
    assert view.get_result(SESSION, 3) == result(30)
    assert view.get_result(SESSION, 5) is None
    found = [key[-1] for key, _ in written.end()["result"]]
    assert found == [3, 9]


def test_a_session_that_comes_back_has_no_earlier_results(tmp_path: Path) -> None:
    written = Written(tmp_path)
    view = written.view
    for stored in (True, False):
        view.put_session(SESSION, Session(10_000, 0, 1))
        view.put_result(SESSION, 4, result(4))
        if stored:
            view.flush()
        view.delete_session(SESSION)
        view.put_session(SESSION, Session(10_000, 0, 1))
        assert view.get_result(SESSION, 4) is None
        view.put_result(SESSION, 1, result(11))
        view.delete_session(SESSION)
    view.put_session(SESSION, Session(10_000, 5, 1))
    tables = written.end()
    assert tables["result"] == []
    assert len(tables["session"]) == 1


def test_the_expiry_sees_sessions_of_the_batch(tmp_path: Path) -> None:
    written = Written(tmp_path)
    view = written.view
    view.put_session(SESSION, Session(10, 0, 1))
    view.put_session(SessionID(8), Session(10_000, 0, 1))
    assert view.session_count() == 2
    view.put_session(SESSION, Session(10, 500, 1))
    assert view.expired_sessions(505) == []
    assert view.expired_sessions(511) == [SESSION]
    view.delete_session(SESSION)
    assert view.session_count() == 1
    written.end()


def test_children_of_the_batch_keep_their_directory(tmp_path: Path) -> None:
    written = Written(tmp_path)
    view = written.view
    view.put_tree_entry(b"d", TreeEntry(True, 0o755))
    view.put_tree_entry(b"d/x", TreeEntry(True, 0o755))
    assert view.has_children(b"d")
    view.delete_tree_entry(b"d/x")
    assert not view.has_children(b"d")
    assert written.end()["tree"] != []


def test_a_row_that_is_written_and_deleted_leaves_nothing(tmp_path: Path) -> None:
    written = Written(tmp_path)
    view, digest = written.view, Digest(b"\1" * 32)
    view.put_value(b"k", b"v")
    view.delete_value(b"k")
    assert view.get_value(b"k") is None
    view.add_payload_reference(digest, 3, b"abc")
    view.drop_payload_reference(digest)
    assert all(not found for found in written.end().values())
    assert view.released == set()


def test_many_rows_are_written_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_view, "OVERLAY_ROWS_MAX", 10)
    written = Written(tmp_path)
    kept: list[int] = []
    for number in range(100):
        written.view.put_value(b"%03d" % number, b"v")
        written.view.spill()
        kept.append(written.view.rows_kept)
    assert max(kept) == 10
    assert min(kept) == 0
    assert len(written.end()["value"]) == 100
