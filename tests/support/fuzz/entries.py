"""Entries of a log that anybody may have sent: likely ones, and ones that validation keeps out."""

from hypothesis import strategies as st
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.validation import check_proposal
from partition_replica.errors import RequestRefused

from tests.support.fuzz.inputs import NUMBERS, messages
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
