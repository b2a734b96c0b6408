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
from partition_replica.ids import LSN, Term
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state import LmdbState

from tests.support.fuzz.entries import BAD_OPERATIONS, BODIES, PAYLOADS, imported, passes
from tests.support.fuzz.inputs import fuzzing
from tests.support.proposals import (
    body,
    copy,
    link,
    opening,
    proposal,
    remove,
    set_key,
)


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
            assert dict(state.list_tree_entries(b"", b"", True, 10**6)[0]) == memory.nodes
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
