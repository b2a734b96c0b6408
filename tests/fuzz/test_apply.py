"""Applying is total: whatever passed validation has an effect that is defined on any state, in
memory and in LMDB alike, and nothing of it is ever raised."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.apply import apply_body
from partition_replica.core.model import LogEntry
from partition_replica.core.validation import check_proposal
from partition_replica.errors import RequestRefused
from partition_replica.ids import LSN, Term
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state import LmdbState

from tests.fuzz.inputs import NUMBERS, fuzzing, messages
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

PATHS = st.sampled_from(
    [
        *(b"a", b"a/b", b"a/b/c", b"a-b", b"d", b"\xff\xfe", b"x" * 255),
        *(b"a/" * half + b"a" for half in (254, 255, 2047)),  # 509, 511 and 4,095 bytes
    ]
)
KEYS = st.sampled_from([b"k", b"\0", b"k" * 510, b"k" * 511, b"k" * 65_000])
PAYLOADS = [payload(b"one"), payload(b""), payload(b"x" * 70_000, 0o777)]
OPERATIONS = st.one_of(
    st.builds(set_key, KEYS, st.binary(max_size=9)),
    st.builds(delete_key, KEYS),
    st.builds(mkdir, PATHS, st.integers(0, 0o777)),
    st.builds(link, PATHS, st.integers(1, 3)),
    st.builds(copy, PATHS, PATHS),
    st.builds(remove, PATHS),
)
# What validation has to keep out: an apply that met one of these would raise.
BAD_OPERATIONS = [
    link(b"a", 0),
    link(b"a", 4),
    types.Operation(create_hard_link=types.CreateHardLink(destination_path=b"a")),
    set_key(b"", b""),
    set_key(b"k" * 65_001, b""),
    delete_key(b""),
    mkdir(b""),
    mkdir(b"x" * 256),
    mkdir(b"x/" * 2048 + b"x"),
    copy(b"", b"a"),
    remove(b""),
    types.Operation(),
]
BAD = [[operation] for operation in BAD_OPERATIONS]
SESSIONS = st.one_of(st.integers(1, 4), NUMBERS)


@st.composite
def likely(draw: st.DrawFn) -> types.EntryBody:
    """A proposal that is likely to pass, and to meet a session."""
    sequence = draw(st.one_of(st.integers(1, 6), NUMBERS))
    found = proposal(
        draw(SESSIONS),
        sequence,
        draw(st.lists(OPERATIONS, max_size=6)) + draw(st.sampled_from([[], [], [], *BAD])),
        PAYLOADS,
        below=max(0, sequence - draw(st.integers(0, 3))),
        preconditions=draw(st.lists(messages(types.Precondition), max_size=1)),
    )
    return body(found, draw(NUMBERS))


def imported(operations: list[types.Operation]) -> types.EntryBody:
    return types.EntryBody(imported=types.ImportedEntry(payloads=PAYLOADS, operations=operations))


BODIES = st.one_of(
    likely(),
    st.builds(opening, st.one_of(st.just(600_000), NUMBERS), NUMBERS),
    st.builds(
        lambda n, t: types.EntryBody(close_session=types.CloseSession(session_id=n), time_ms=t),
        SESSIONS,
        NUMBERS,
    ),
    st.builds(imported, st.lists(OPERATIONS, max_size=4)),
    messages(types.EntryBody).filter(lambda found: not found.HasField("imported")),
    st.just(types.EntryBody()),
)


def passes(found: types.EntryBody) -> bool:
    """As the leader decides; only proposals are looked at."""
    if not found.HasField("proposal"):
        return True
    try:
        check_proposal(found.proposal)
    except RequestRefused:
        return False
    return True


@fuzzing
@example(bodies=[opening(), body(proposal(1, 1 << 63, [link(b"a", 3)], PAYLOADS, below=1 << 63))])
@example(bodies=[opening((1 << 64) - 1, (1 << 64) - 1), opening(0, 0)])
@example(bodies=[imported([link(b"x", 1), copy(b"x", b"y"), remove(b"x"), remove(b"y")])])
@example(bodies=[body(proposal(1, 1, [operation], PAYLOADS)) for operation in BAD_OPERATIONS])
@example(bodies=[body(proposal(1, 1, [link(b"a")])), body(proposal(1, 1, [link(b"a", 0)]))])
@given(bodies=st.lists(BODIES, max_size=12))
def test_what_passed_validation_applies(bodies: list[types.EntryBody]) -> None:
    taken = [opening(), *(found for found in bodies if passes(found))]
    entries = [
        LogEntry(LSN(n), Term(1), 0, found.SerializeToString()) for n, found in enumerate(taken, 1)
    ]
    memory = MemoryView()
    expected = [
        apply_body(memory, entry.index, entry.term, found if entry.data else None)
        for entry, found in zip(entries, taken, strict=True)
    ]
    folder = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=folder if folder.is_dir() else None) as found:
        state = LmdbState(Path(found) / "state")
        try:
            assert state.apply(entries, {})[0] == expected
            assert dict(state.list_values(b"", b"", 10**6, 10**9)[0]) == memory.values
            assert dict(state.list_nodes(b"", b"", True, 10**6)[0]) == memory.nodes
            assert state.session_count() == len(memory.sessions)
            assert state.time_ms == memory.time_ms
        finally:
            state.close()


@pytest.mark.parametrize("sequence", [1, 1 << 63])
def test_results_go_with_their_session(sequence: int) -> None:
    last = body(proposal(1, sequence, [set_key(b"k", b"v")], below=sequence))
    assert passes(last)
    memory = MemoryView()
    close = types.EntryBody(close_session=types.CloseSession(session_id=1))
    for index, found in enumerate([opening(), last, close], 1):
        apply_body(memory, LSN(index), Term(1), found)
    assert memory.sessions == {}
    assert memory.results == {}
