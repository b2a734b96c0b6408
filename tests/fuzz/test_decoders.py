"""Each decoder answers, or raises what it says; the same bytes get the same answer; and no input,
however it is made, costs more memory than its size allows."""

import json
import subprocess
import sys
from collections import defaultdict

import partition_raft as raft
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from partition_proto.v1 import seed_pb2
from partition_replica.core.limits import PATH_BYTES_MAX
from partition_replica.core.paths import check_path, parent
from partition_replica.errors import Damaged, ImportRefused, InvalidArgument
from partition_replica.ids import LSN, Term
from partition_replica.offline.seed import layout
from partition_replica.storage import codec

from tests.support.fuzz.bombs import BOMBS, bound, unbound
from tests.support.fuzz.decoders import DECODERS, entry
from tests.support.fuzz.grammar import MESSAGE, inputs_of
from tests.support.fuzz.inputs import (
    delimited,
    fuzzing,
    messages,
    outcome,
)

REFUSED_MESSAGES = [
    b"\x0b" * 1000,
    b"\x7b\x7b",
    delimited(7, b"\x23\x24"),
    b"\x3a\xff\xff\xff\xff\x0f",
]


@pytest.mark.parametrize("name", DECODERS)
@fuzzing
@example(data=b"")
@example(data=b"\x0b" * 500)
@example(data=b"\xff" * 12)
@example(data=b"\x0a\xff\xff\xff\xff\x0f")
@given(data=st.data())
def test_a_decoder_answers_or_refuses(name: str, data: st.DataObject | bytes) -> None:
    found = data if isinstance(data, bytes) else data.draw(inputs_of(name), label="input")
    decoder = DECODERS[name]
    bound(len(found))
    try:
        first = outcome(decoder.decode, found)
    finally:
        unbound()
    if isinstance(first, type):
        assert issubclass(first, decoder.raises), first
    assert outcome(decoder.decode, found) == first


@pytest.mark.parametrize("data", REFUSED_MESSAGES)
def test_messages_that_no_member_sends_are_refused(data: bytes) -> None:
    with pytest.raises(raft.InvalidMessage):
        raft.Message.decode(data)


@fuzzing
@given(MESSAGE)
def test_a_message_comes_back(data: bytes) -> None:
    """What was decoded is what is encoded, entries and snapshot with it."""
    found = DECODERS["Message"].decode
    try:
        first = found(data)
    except raft.InvalidMessage:
        return
    assert isinstance(first, tuple)
    assert found(first[-1]) == first


@fuzzing
@example(table="value", key=b"", row=b"", payload=b"")
@given(
    st.sampled_from(["value", "raft"]), st.binary(max_size=9), st.binary(max_size=40), st.binary()
)
def test_a_row_is_what_was_sealed_or_damaged(
    table: str, key: bytes, row: bytes, payload: bytes
) -> None:
    assert codec.unseal(table, key, codec.seal(key, payload)) == payload
    try:
        assert codec.seal(key, codec.unseal(table, key, row)) == row
    except Damaged as error:
        assert key.hex() in str(error)


@fuzzing
@example(term=1, kind=0, context=b"", data=b"")
@given(
    st.integers(0, (1 << 64) - 1), st.sampled_from([0, 1, 2]), st.binary(max_size=9), st.binary()
)
def test_an_entry_comes_back(term: int, kind: int, context: bytes, data: bytes) -> None:
    found = entry(data, kind, context)
    payload = codec.encode_raft(found, Term(term))
    again = codec.decode_raft(LSN(1), payload, data if kind == 0 else b"")
    assert (again.term, again.kind, again.data, again.context) == (term, kind, data, context)
    assert codec.decode_term(payload) == term


@fuzzing
@example(payload=bytes(9) + b"\0\0\0\x05abcd")
@given(
    st.builds(
        lambda head, n, rest: head + bytes([0, 0, 0, n]) + rest,
        st.binary(min_size=9, max_size=9),
        st.integers(0, 9),
        st.binary(max_size=9),
    )
)
def test_a_raft_row_that_is_cut_is_damaged(payload: bytes) -> None:
    try:
        found = codec.decode_raft(LSN(1), payload, b"")
    except Damaged:
        assert len(payload) < 13 + payload[12]
        return
    assert found.context == payload[13 : 13 + payload[12]]
    assert len(found.context) == payload[12]


@fuzzing
@example(path=b"..")
@example(path=b"a/..")
@example(path=b"a//b")
@example(path=b"x" * PATH_BYTES_MAX)
@given(
    st.one_of(
        st.binary(max_size=600),
        st.binary(min_size=PATH_BYTES_MAX - 1, max_size=PATH_BYTES_MAX + 1),
        st.lists(st.sampled_from([b"a", b".", b"..", b"", b"\0", b"\xff", b"...", b"a b"])).map(
            b"/".join
        ),
    )
)
def test_a_path_that_passes_stays_in_the_tree(path: bytes) -> None:
    """On a POSIX file system: each component is a name, so none leads up, or to a root."""
    try:
        check_path(path)
    except InvalidArgument:
        return
    assert 1 <= len(path) <= PATH_BYTES_MAX
    assert b"\0" not in path
    assert not {b"", b".", b".."} & set(path.split(b"/"))
    if parent(path):
        check_path(parent(path))


@fuzzing
@given(messages(seed_pb2.Manifest), st.integers(0, 3))
def test_a_manifest_that_is_taken_comes_back(message: seed_pb2.Manifest, payloads: int) -> None:
    """Its operations encode to one with the same operations, and to the same bytes where it says
    so."""
    content = message.SerializeToString()
    try:
        found = layout.parse_manifest(LSN(1), content, payloads)
    except ImportRefused:
        return
    again = layout.encode_manifest(found.operations)
    assert found.verbatim == (again != content)
    assert layout.parse_manifest(LSN(1), again, payloads).operations == found.operations


@fuzzing
@example(name="0000000000000")
@example(name="zzzzzzzzzzzzz")
@example(name="０００００００００００００1")
@given(st.one_of(st.text(max_size=14), st.from_regex(r"[0-9a-zA-Z]{13}", fullmatch=True)))
def test_a_name_is_an_entry_s_or_refused(name: str) -> None:
    try:
        lsn = layout.parse_entry_name(name)
    except ImportRefused:
        return
    assert layout.entry_name(lsn) == name


# --- memory -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bombs() -> dict[str, dict[str, str]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz.bombs"],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for line in done.stdout.splitlines():
        name, bomb, what = json.loads(line)
        found[name][bomb] = what
    return found


@pytest.mark.parametrize("name", DECODERS)
def test_bombs_do_no_harm(bombs: dict[str, dict[str, str]], name: str) -> None:
    assert set(bombs[name]) == set(BOMBS)
    harm = {bomb: what for bomb, what in bombs[name].items() if what not in ("decoded", "refused")}
    assert not harm


def test_a_message_of_empty_entries_is_refused(bombs: dict[str, dict[str, str]]) -> None:
    assert bombs["Message"]["empty 7"] == "refused"
