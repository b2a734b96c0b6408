"""Exactly-once by the state machine: sessions, sequences and the clock by which sessions expire.
One suite against the in-memory reference and LMDB."""

import random
from pathlib import Path

import lmdb
import pytest
from partition_proto.v1 import storage_pb2 as rows
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import SESSIONS_MAX
from partition_replica.core.model import LogEntry, Session
from partition_replica.core.sessions import ELAPSED_MS_MAX, content_digest
from partition_replica.ids import LSN, SessionID, Term
from partition_replica.storage import codec
from partition_replica.storage.session_expiry import SessionExpiry
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_tables import APPLIED

from tests.support import proposals
from tests.support.proposals import delete_key, set_key
from tests.support.session_machines import A, B, Machine, opening, writing
from tests.support.session_machines import machine as machine  # a fixture

# --- sequences --------------------------------------------------------------------------------


def test_a_retry_gets_the_first_tries_lsn_and_term(machine: Machine) -> None:
    """Behind a change of leader, too: the retry's own entry has another term."""
    machine.apply(opening(A), writing(A, 1, term=3))
    (again,) = machine.apply(writing(A, 1, term=5))
    assert again.kind == "duplicate"
    assert again.result is not None
    assert (again.result.lsn, again.result.term) == (2, 3)


def test_a_used_sequence_with_another_content_is_refused(machine: Machine) -> None:
    assert machine.kinds(opening(A), writing(A, 1, b"1"), writing(A, 1, b"2")) == [
        "session_opened",
        "proposal",
        "sequence_reused",
    ]
    assert machine.value() == b"1"


def test_a_failed_precondition_uses_its_sequence(machine: Machine) -> None:
    fails = types.Precondition(key_equals=types.KeyEquals(key=b"none", value=b"x"))
    _, failed, other, same = machine.apply(
        opening(A),
        writing(A, 1, b"1", precondition=fails),
        writing(A, 1, b"2"),
        writing(A, 1, b"1", precondition=fails),
    )
    assert failed.result is not None
    assert failed.result.precondition_failed
    assert other.kind == "sequence_reused"
    assert same.kind == "duplicate"
    assert same.result == failed.result
    assert machine.value() is None


def test_a_sequence_below_the_mark_is_refused_and_has_no_effect(machine: Machine) -> None:
    """A later sequence moved the mark over one that was never written."""
    machine.apply(opening(A), writing(A, 3, b"3", below=3))
    assert machine.kinds(writing(A, 2, b"2"), writing(A, 2, b"2", below=2)) == [
        "sequence_acknowledged",
        "sequence_acknowledged",
    ]
    assert machine.value() == b"3"


def test_sessions_of_one_id_are_never_two(machine: Machine) -> None:
    machine.apply(opening(A), writing(A, 1, b"1"))
    assert machine.kinds(opening(A, ttl_ms=1)) == ["session_exists"]
    assert machine.kinds(writing(A, 1, b"1")) == ["duplicate"]


def test_what_had_no_effect_is_noted_for_an_export(tmp_path: Path) -> None:
    state = Machine(tmp_path / "state")
    assert state.lmdb is not None
    state.apply(
        opening(A), writing(A, 2, below=2), writing(A, 2, b"x"), writing(A, 1), writing(B, 1)
    )
    whole = [lsn for lsn in range(1, 6) if (row := state.lmdb.unapplied(LSN(lsn))) and row.whole]
    assert whole == [3, 4, 5]
    state.lmdb.close()


# --- the clock --------------------------------------------------------------------------------


def test_sessions_expire_by_what_elapsed(machine: Machine) -> None:
    machine.apply(opening(A, ttl_ms=10_000))
    assert machine.kinds(writing(A, 1, elapsed_ms=10_000)) == ["proposal"]
    assert machine.kinds(writing(A, 2, elapsed_ms=10_001)) == ["session_expired"]


@pytest.mark.parametrize("ahead_ms", [3_600_000, -3_600_000])
def test_a_leaders_wall_clock_expires_nothing_and_keeps_nothing_alive(
    machine: Machine, ahead_ms: int
) -> None:
    """One leader's clock was ahead, or behind, for a moment."""
    now = 1_800_000_000_000
    machine.apply(opening(A, time_ms=now), opening(B, time_ms=now + ahead_ms))
    assert machine.kinds(writing(A, 1, elapsed_ms=5_000, time_ms=now + 5_000)) == ["proposal"]
    assert machine.kinds(writing(B, 1, elapsed_ms=5_001, time_ms=now + 10_001)) == [
        "session_expired"
    ]
    assert machine.clock_ms == 10_001


def test_one_entry_moves_the_clock_by_an_hour_at_most(machine: Machine) -> None:
    machine.apply(opening(A, elapsed_ms=(1 << 64) - 1))
    assert machine.clock_ms == ELAPSED_MS_MAX == 3_600_000


def test_entries_of_an_earlier_version_set_the_clock_by_their_time(machine: Machine) -> None:
    """As that version applied them; entries of this one go on from there."""
    old = types.EntryBody(open_session=types.OpenSession(time_to_live_ms=10_000), time_ms=50_000)
    machine.apply(old)
    assert (machine.clock_ms, machine.session(1)) == (50_000, Session(10_000, 50_000, 1))
    assert machine.kinds(writing(1, 1, elapsed_ms=10_000)) == ["proposal"]
    assert machine.kinds(writing(1, 2, elapsed_ms=10_001)) == ["session_expired"]


def test_a_state_of_an_earlier_version_keeps_its_sessions(tmp_path: Path) -> None:
    state = LmdbState(tmp_path / "state")
    old = types.EntryBody(open_session=types.OpenSession(time_to_live_ms=10_000), time_ms=50_000)
    state.apply([LogEntry(LSN(1), Term(1), 0, old.SerializeToString())], {})
    state.close()
    # Format 1 has no clock.
    environment = lmdb.open(str(tmp_path / "state"), max_dbs=16)
    with environment.begin(write=True) as txn:
        meta = environment.open_db(b"meta", txn)
        row = codec.unseal_message("meta", APPLIED, txn.get(APPLIED, db=meta), rows.AppliedRow)
        row.ClearField("clock_ms")
        txn.put(APPLIED, codec.seal_message(APPLIED, row), db=meta)
    environment.close()
    state = LmdbState(tmp_path / "state")
    assert state.clock_ms == 50_000
    body = writing(1, 1, elapsed_ms=10_000)
    found = state.apply([LogEntry(LSN(2), Term(1), 0, body.SerializeToString())], {})[0]
    assert found[0].kind == "proposal"
    state.close()


# --- which have expired -----------------------------------------------------------------------


def test_lmdb_forgets_the_sessions_that_the_reference_forgets(tmp_path: Path) -> None:
    """Opened, used, left alone and closed at random, over restarts."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    reference, state = Machine(None), Machine(tmp_path / "state")
    used: list[tuple[int, int]] = []
    for step in range(600):
        kind = rng.random()
        elapsed_ms = rng.choice([0, 1, 500, 3_000])
        if kind < 0.4 or not used:
            session = rng.randrange(1, 1 << 62)
            used.append((session, 0))
            body = opening(session, elapsed_ms=elapsed_ms, ttl_ms=rng.choice([1, 1_000, 20_000]))
        elif kind < 0.9:
            number = rng.randrange(len(used))
            session, sequence = used[number]
            used[number] = (session, sequence + 1)
            body = writing(session, sequence + 1, below=sequence + 1, elapsed_ms=elapsed_ms)
        else:
            close = types.CloseSession(session_id=rng.choice(used)[0])
            body = types.EntryBody(close_session=close, elapsed_ms=elapsed_ms)
        assert reference.kinds(body) == state.kinds(body), f"step {step}"
        if body.HasField("open_session"):
            assert reference.count() == state.count(), f"step {step}"
        if rng.random() < 0.02:
            assert state.lmdb is not None
            state.lmdb.close()
            state.lmdb = LmdbState(tmp_path / "state")
    assert state.lmdb is not None
    for session, _ in used:
        assert reference.session(session) == state.session(session)
    state.lmdb.close()


def test_opening_a_session_looks_at_no_session_that_cannot_have_expired() -> None:
    looked_at: list[int] = []
    sessions = {SessionID(n): Session(10_000, 0, 1) for n in range(1, SESSIONS_MAX + 1)}
    expiry = SessionExpiry()
    expiry.load(sessions.items())

    def get(session: SessionID) -> Session | None:
        looked_at.append(session)
        return sessions.get(session)

    for clock_ms in range(0, 10_001, 10):
        assert expiry.expired(clock_ms, get) == []
    assert looked_at == []
    # Used since: each is looked at once, and put back with its true moment.
    active = {s: Session(10_000, 5_000, 1) for s in sessions}
    active[SessionID(7)] = sessions[SessionID(7)]
    sessions = active
    assert expiry.expired(10_001, get) == [7]
    assert expiry.expired(15_000, get) == []
    assert len(looked_at) == SESSIONS_MAX


def test_the_most_sessions_are_open_at_once_and_one_that_expires_makes_room(
    machine: Machine,
) -> None:
    for first in range(0, SESSIONS_MAX, 512):
        machine.apply(*(opening(A + n) for n in range(first, first + 512)))
    assert machine.kinds(opening(B)) == ["sessions_full"]
    machine.apply(writing(A + 1, 1, elapsed_ms=10_000))
    assert machine.kinds(opening(B, elapsed_ms=1)) == ["session_opened"]
    assert machine.count() == 2


def test_a_digest_names_a_content_whatever_its_session() -> None:
    one = proposals.proposal(A, 1, [set_key(b"k", b"v")])
    other = proposals.proposal(B, 7, [set_key(b"k", b"v")], below=7)
    assert content_digest(one) == content_digest(other)
    assert content_digest(one) != content_digest(proposals.proposal(A, 1, [delete_key(b"k")]))
