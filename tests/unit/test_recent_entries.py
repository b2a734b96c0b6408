"""Entries of the engine, converted once."""

import partition_raft as raft
from partition_replica.engine.entries import ENTRY_OVERHEAD_BYTES, RecentEntries


def entry(index: int, term: int = 1, data: bytes = b"data") -> raft.Entry:
    return raft.Entry(index, term, data, 0, b"context")


def test_a_committed_entry_is_the_one_that_was_written() -> None:
    recent = RecentEntries(1000)
    written = recent.convert([entry(5), entry(6)])
    assert [(e.index, e.term, e.kind, e.data, e.context) for e in written] == [
        (5, 1, 0, b"data", b"context"),
        (6, 1, 0, b"data", b"context"),
    ]
    committed = recent.committed([entry(5), entry(6)])
    assert committed[0] is written[0]
    assert committed[1] is written[1]
    assert recent.committed([entry(5)])[0] is not written[0], "it was given once"


def test_an_overwritten_entry_is_never_given() -> None:
    recent = RecentEntries(1000)
    recent.convert([entry(5), entry(6, data=b"old")])
    recent.convert([entry(6, 2, b"new")])
    assert [e.data for e in recent.committed([entry(5), entry(6, 2, b"new")])] == [b"data", b"new"]


def test_an_entry_of_another_term_is_not_taken_for_it() -> None:
    """It would be there if the engine did not give every entry to be written."""
    recent = RecentEntries(1000)
    recent.convert([entry(5, 1, b"old")])
    assert recent.committed([entry(5, 2, b"new")])[0].data == b"new"


def test_what_does_not_fit_is_converted_again_and_room_is_given_back() -> None:
    recent = RecentEntries(ENTRY_OVERHEAD_BYTES + 10)
    large = recent.convert([entry(1, data=b"x" * 8), entry(2, data=b"y" * 8)])
    assert recent.committed([entry(1, data=b"x" * 8)])[0] is large[0]
    again = recent.committed([entry(2, data=b"y" * 8)])[0]
    assert again == large[1]
    assert again is not large[1]
    (fits,) = recent.convert([entry(3, data=b"z" * 10)])
    assert recent.committed([entry(3, data=b"z" * 10)])[0] is fits


def test_a_received_state_ends_all_of_them() -> None:
    recent = RecentEntries(1000)
    (old,) = recent.convert([entry(5)])
    recent.clear()
    assert recent.committed([entry(5)])[0] is not old
