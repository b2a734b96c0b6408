"""The state machine: one suite against the in-memory reference and LMDB, then hypothesis with the
reference as the model."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import LogEntry, TreeEntry
from partition_replica.errors import NotFound
from partition_replica.ids import LSN, Digest, SessionID, Term
from partition_replica.storage.state import LmdbState

from tests.support.proposals import (
    body,
    copy,
    delete_key,
    link,
    mkdir,
    opening,
    payload,
    proposal,
    remove,
    set_key,
)
from tests.support.state_machines import Machine, outcomes
from tests.support.state_machines import machine as machine  # a fixture

DONE, EXISTS, NO_SOURCE, NO_PARENT, NOT_EMPTY = (
    types.OUTCOME_APPLIED,
    types.OUTCOME_DESTINATION_EXISTS,
    types.OUTCOME_SOURCE_NOT_FOUND,
    types.OUTCOME_PARENT_NOT_FOUND,
    types.OUTCOME_DIRECTORY_NOT_EMPTY,
)


def test_keys(machine: Machine) -> None:
    machine.apply(opening(), body(proposal(1, 1, [set_key(b"a", b"1"), set_key(b"b", b"")])))
    machine.apply(body(proposal(1, 2, [delete_key(b"a"), delete_key(b"nothing")])))
    assert machine.values() == {b"b": b""}


def test_tree_outcomes_are_total(machine: Machine) -> None:
    machine.apply(opening())
    content = [payload(b"one", 0o600)]
    found = machine.apply(
        body(proposal(1, 1, [link(b"d/f"), mkdir(b"d"), link(b"d/f"), link(b"d/f")], content)),
        body(
            proposal(1, 2, [mkdir(b"d"), mkdir(b"d/f"), mkdir(b"x/y"), remove(b"d"), remove(b"q")])
        ),
        body(proposal(1, 3, [copy(b"d/f", b"g"), copy(b"no", b"h"), copy(b"d", b"i")])),
        body(proposal(1, 4, [remove(b"d/f"), remove(b"d"), mkdir(b"g/sub")])),
    )
    assert [list(outcomes(f)) for f in found] == [
        [NO_PARENT, DONE, DONE, EXISTS],
        [EXISTS, EXISTS, NO_PARENT, NOT_EMPTY, NO_SOURCE],
        [DONE, NO_SOURCE, NO_SOURCE],
        [DONE, DONE, NO_PARENT],
    ]
    digest = Digest(content[0].digest)
    assert machine.nodes() == {b"g": TreeEntry(False, 0o600, 3, digest)}
    assert machine.content(digest) == b"one"
    machine.apply(body(proposal(1, 5, [remove(b"g")])))
    assert machine.content(digest) is None


def test_a_proposal_takes_effect_once(machine: Machine) -> None:
    first = body(proposal(1, 1, [set_key(b"k", b"1")]))
    machine.apply(opening(), first, body(proposal(1, 2, [set_key(b"k", b"2")])))
    again = machine.apply(first)[0]
    assert again.kind == "duplicate"
    assert again.result is not None
    assert again.result.lsn == 2
    assert machine.value(b"k") == b"2"


def test_acknowledged_results_are_forgotten_and_written_no_second_time(machine: Machine) -> None:
    first = body(proposal(1, 1, [set_key(b"k", b"1")]))
    machine.apply(opening(), first, body(proposal(1, 2, [set_key(b"k", b"2")], below=2)))
    again = machine.apply(first)[0]
    assert (again.kind, again.result) == ("sequence_acknowledged", None)
    assert machine.value(b"k") == b"2"


def test_unknown_closed_and_expired_sessions_have_no_effect(machine: Machine) -> None:
    write = [set_key(b"k", b"1")]
    assert machine.apply(body(proposal(9, 1, write)))[0].kind == "session_expired"
    machine.apply(opening(time_to_live_ms=10_000, time_ms=1000))
    late = machine.apply(body(proposal(2, 1, write), time_ms=11_001))[0]
    assert late.kind == "session_expired"
    machine.apply(opening(time_ms=11_001))
    close = types.EntryBody(close_session=types.CloseSession(session_id=4), time_ms=11_001)
    found = machine.apply(close, body(proposal(4, 1, write), time_ms=11_001))
    assert [f.kind for f in found] == ["session_closed", "session_expired"]
    assert machine.values() == {}


def test_activity_keeps_a_session_alive(machine: Machine) -> None:
    machine.apply(opening(time_to_live_ms=10_000, time_ms=0))
    for sequence in range(1, 5):
        write = proposal(1, sequence, [set_key(b"k", b"%d" % sequence)], below=sequence)
        assert machine.apply(body(write, time_ms=9_000 * sequence))[0].kind == "proposal"
    assert machine.value(b"k") == b"4"


def test_preconditions_decide_all_or_nothing(machine: Machine) -> None:
    equals = types.Precondition(key_equals=types.KeyEquals(key=b"k", value=b"1"))
    absent = types.Precondition(key_absent=b"k")
    no_path = types.Precondition(path_absent=b"d")
    machine.apply(opening())
    found = machine.apply(
        body(proposal(1, 1, [set_key(b"k", b"1")], preconditions=[absent, no_path])),
        body(proposal(1, 2, [set_key(b"k", b"2"), mkdir(b"d")], preconditions=[equals, absent])),
        body(proposal(1, 3, [mkdir(b"d")], preconditions=[equals])),
        body(proposal(1, 4, [set_key(b"k", b"3")], preconditions=[no_path])),
    )
    failed = [f.result.precondition_failed for f in found if f.result]
    assert failed == [False, True, False, True]
    assert machine.value(b"k") == b"1"


def test_empty_entries_and_unknown_bodies_do_nothing(machine: Machine) -> None:
    found = machine.apply(None, types.EntryBody(time_ms=5))
    assert [f.kind for f in found] == ["empty", "empty"]


def test_a_reopened_state_is_what_it_was(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "state")
    assert machine.lmdb is not None
    machine.apply(opening(), body(proposal(1, 1, [set_key(b"k", b"1"), mkdir(b"d")])))
    machine.lmdb.close()
    state = LmdbState(tmp_path / "state")
    assert (state.applied.index, state.time_ms) == (2, 1000)
    assert state.get_value(b"k") == (b"1", 2)
    with pytest.raises(ValueError, match="cannot be applied after"):
        state.apply([LogEntry(LSN(4), Term(1), 0, b"")], {})
    state.close()


LONG = [b"p" * 508, b"p" * 508 + b"/q", b"p" * 508 + b"/q/r", b"p" * 508 + b"/q" * 300]
"""Paths about the border behind which a path is stored in parts, each in the one before it but the
last, which is far below."""

PATHS = st.sampled_from([b"a", b"a/b", b"a/b/c", b"a-b", b"d", b"d/e", *LONG])
KEYS = st.sampled_from(
    [b"k1", b"k2", b"\xff", b"k" * 510, b"k" * 511, b"k" * 510 + b"\0", b"k" * 1000, b"k" * 65_000]
)
CONTENTS = [payload(b"one"), payload(b"two", 0o700)]
OPERATIONS: st.SearchStrategy[types.Operation] = st.one_of(
    st.builds(set_key, KEYS, st.binary(max_size=3)),
    st.builds(delete_key, KEYS),
    st.builds(mkdir, PATHS),
    st.builds(link, PATHS, st.sampled_from([1, 2])),
    st.builds(copy, PATHS, PATHS),
    st.builds(remove, PATHS),
)
PROPOSALS = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3]),
        st.integers(1, 6),
        st.lists(OPERATIONS, max_size=5),
        st.integers(0, 4000),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=PROPOSALS, cut=st.integers(1, 10))
def test_lmdb_is_the_reference(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[int, int, list[types.Operation], int]],
    cut: int,
) -> None:
    """The same bodies, in batches of any size, give the same results and the same tables."""
    model = Machine(None)
    real = Machine(tmp_path_factory.mktemp("state") / "state")
    assert real.lmdb is not None
    time_ms = 1000
    bodies = [opening(10_000, time_ms), opening(10_000, time_ms)]
    for session, sequence, operations, later in steps:
        time_ms += later
        acknowledged = max(1, sequence - 2)
        found = proposal(session, sequence, operations, CONTENTS, below=acknowledged)
        bodies.append(body(found, time_ms))
    expected = model.apply(*bodies)
    results = []
    try:
        for start in range(0, len(bodies), cut):
            results += real.apply(*bodies[start : start + cut])
        assert results == expected
        compare(real.lmdb, model)
    finally:
        real.lmdb.close()


def compare(real: LmdbState, model: Machine) -> None:
    """What a state answers and what the model does."""
    assert paged_keys(real) == sorted(model.values().items())
    for path in [b"", *model.nodes()]:
        for recursive in (True, False):
            assert below(real, path, recursive) == expected_below(model, path, recursive)
    for path, node in model.nodes().items():
        assert real.get_tree_entry(path)[0] == node
    for content in CONTENTS:
        assert real.content(content.digest) == model.content(content.digest)
    assert dict(sessions(real)) == {
        s: row for s, row in model.memory.sessions.items() if row is not None
    }


def expected_below(model: Machine, path: bytes, recursive: bool) -> list[bytes]:
    prefix = path + b"/" if path else b""
    inside = sorted(other for other in model.nodes() if other.startswith(prefix))
    return [other for other in inside if recursive or b"/" not in other[len(prefix) :]]


def below(state: LmdbState, path: bytes, recursive: bool) -> list[bytes]:
    """The paths that a directory's pages, of two each, list."""
    if path and not getattr(state.get_tree_entry(path)[0], "directory", False):
        with pytest.raises(NotFound):
            state.list_tree_entries(path, b"", recursive, 2)
        return []
    found: list[bytes] = []
    while page := state.list_tree_entries(path, found[-1] if found else b"", recursive, 2)[0]:
        found += [name for name, _ in page]
    return found


def paged_keys(state: LmdbState) -> list[tuple[bytes, bytes]]:
    found, start = state.list_values(b"", b"", 2, 10**6)[:2]
    while start:
        more, start, _ = state.list_values(start, b"", 2, 10**6)
        found += more
    return found


def sessions(state: LmdbState) -> Iterator[tuple[SessionID, object]]:
    for number in (1, 2, 3):
        row, _ = state.get_session(SessionID(number), 1)
        if row is not None:
            yield SessionID(number), row


def test_listing_a_directory_skips_what_is_below(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "state")
    assert machine.lmdb is not None
    names = [b"a", b"a/x", b"a/x/y", b"a-b", b"a0", b"b"]
    random.Random(1).shuffle(names)
    machine.apply(opening())
    machine.apply(body(proposal(1, 1, [mkdir(name) for name in sorted(names)])))

    assert below(machine.lmdb, b"", False) == [b"a", b"a-b", b"a0", b"b"]
    assert below(machine.lmdb, b"a", False) == [b"a/x"]
    assert below(machine.lmdb, b"", True) == sorted(names)
    machine.lmdb.close()


def test_a_tree_as_deep_as_a_path_may_be(machine: Machine) -> None:
    """2,048 directories, each in the one before, and a file below them; then from the inside out
    they go again."""
    paths = [b"/".join([b"d"] * depth) for depth in range(1, 2049)]
    assert len(paths[-1]) == 4095
    made = machine.apply(opening(), body(proposal(1, 1, [mkdir(path) for path in paths])))[1]
    assert outcomes(made) == b""
    assert sorted(machine.nodes()) == paths
    if machine.lmdb:
        assert below(machine.lmdb, paths[1000], False) == [paths[1001]]
        assert below(machine.lmdb, paths[2040], True) == paths[2041:]
    refused = machine.apply(body(proposal(1, 2, [remove(path) for path in paths[:-1]])))[0]
    assert set(outcomes(refused)) == {NOT_EMPTY}
    gone = machine.apply(body(proposal(1, 3, [remove(path) for path in reversed(paths)])))[0]
    assert outcomes(gone) == b""
    assert machine.nodes() == {}


def test_a_wide_directory_with_a_long_path(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "state")
    assert machine.lmdb is not None
    names = [b"n" * 255, b"n" * 255 + b"/" + b"m" * 252]
    names.append(names[-1] + b"/x")
    inside = [names[-1] + b"/%03d" % number for number in range(300)]
    deeper = [path + b"/" + b"y" * 250 for path in inside[::7]]
    beside = [names[-1] + b"-", names[-1] + b"0"]
    steps = [mkdir(path) for path in names + inside + deeper + beside]
    machine.apply(opening(), body(proposal(1, 1, steps)))
    assert below(machine.lmdb, names[-1], False) == inside
    assert below(machine.lmdb, names[-1], True) == sorted(inside + deeper)
    assert below(machine.lmdb, names[1], False) == [names[-1], *beside]
    assert below(machine.lmdb, b"", False) == names[:1]
    machine.lmdb.close()
