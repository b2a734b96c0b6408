"""Decoders of stored snapshots: bytes of a store that anybody may have written to. Each answers, or
raises what it says; the same bytes get the same answer; memory is bounded by the input's size."""

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from partition_snapshots.digest import encode_rows
from partition_snapshots.errors import SnapshotDamaged, UnsupportedFormat
from partition_snapshots.manifests import (
    decode_format,
    decode_manifest,
    encode_format,
)
from partition_snapshots.s3_uploads import parse_uploads
from partition_snapshots.segments import (
    SEGMENT_HEADER,
    decode_blob_list,
    decode_segment,
    payload_blob,
)

from tests.support.fuzz.inputs import WIRE, damaged, fuzzing, outcome
from tests.support.fuzz.snapshots import BLOB_LISTS, SEGMENTS, manifests

DECODERS: dict[str, tuple[st.SearchStrategy[bytes], Callable[[bytes], object]]] = {
    "full segment": (SEGMENTS, lambda data: list(decode_segment(data, full=True))),
    "delta segment": (SEGMENTS, lambda data: list(decode_segment(data, full=False))),
    "blob list": (BLOB_LISTS, decode_blob_list),
    "manifest": (manifests(), lambda data: decode_manifest(data, "one")),
    "format": (st.just(encode_format("c")), decode_format),
    "payload row": (WIRE, lambda data: payload_blob((3, b"d" * 32, b"\0\0\0\0" + data))),
    "uploads": (
        st.just(b"<Upload><Key>a</Key><UploadId>b</UploadId></Upload>"),
        parse_uploads,
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_answers_or_says_why(name: str) -> None:
    whole, decode = DECODERS[name]

    @fuzzing
    @given(st.one_of(whole, damaged(whole), st.binary(max_size=200)))
    @example(b"")
    def run(data: bytes) -> None:
        found = outcome(decode, data)
        assert not isinstance(found, type) or found in (SnapshotDamaged, UnsupportedFormat), found
        assert repr(outcome(decode, data)) == repr(found)

    run()


@fuzzing
@given(st.one_of(SEGMENTS, damaged(SEGMENTS)), st.booleans())
def test_what_a_segment_decodes_to_is_what_it_says(data: bytes, full: bool) -> None:
    """Whatever is accepted is in order, and encodes to the same bytes."""
    found = outcome(lambda data: [r for b in decode_segment(data, full=full) for r in b], data)
    if isinstance(found, list):
        places = [row[:2] for row in found]
        assert places == sorted(set(places))
        assert all(1 <= table <= 6 for table, _ in places)
        back = encode_rows((t | (0x80 if v is None else 0), k, v or b"") for t, k, v in found)
        assert SEGMENT_HEADER + back == data


@pytest.mark.parametrize(
    ("name", "data", "most"),
    [
        ("delta segment", SEGMENT_HEADER + b"\x01" + b"\xff" * 8, 64 << 10),
        ("delta segment", SEGMENT_HEADER + bytes((4 << 20) - 8), 64 << 10),
        ("manifest", b"[" * (1 << 20), 8 << 20),
        ("manifest", b'{"a":' * (1 << 18), 64 << 20),
        ("manifest", b"9" * (1 << 20), 8 << 20),
        ("uploads", b"<Upload>" * (1 << 16), 8 << 20),
    ],
)
def test_bombs(name: str, data: bytes, most: int) -> None:
    decode = DECODERS[name][1]
    tracemalloc.start()
    try:
        found = outcome(decode, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found in (SnapshotDamaged, []), found
    assert peak <= most, peak


def test_tiny_rows_are_not_all_tuples_at_once() -> None:
    """A segment of 60,000 rows, batch by batch, in a fraction of what its tuples would take."""
    rows = [(1, number.to_bytes(3, "big"), b"") for number in range(60_000)]
    data = SEGMENT_HEADER + encode_rows(rows)
    del rows
    tracemalloc.start()
    try:
        count = sum(len(batch) for batch in decode_segment(data, full=True))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 60_000
    assert peak < 1 << 20, peak
