"""Segments, runs laid over each other, differences of states, blob lists, manifests."""

import hashlib
from collections.abc import Callable
from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from partition_snapshots.digest import RowDigest, encode_rows
from partition_snapshots.errors import SnapshotDamaged, SourceDamaged, UnsupportedFormat
from partition_snapshots.limits import SEGMENT_BYTES_MAX, SnapshotLimits
from partition_snapshots.manifests import decode_manifest, encode_manifest
from partition_snapshots.merge import batched, combine, difference, overlay
from partition_snapshots.model import Row
from partition_snapshots.segments import (
    HEADER_BYTES,
    SEGMENT_HEADER,
    Change,
    decode_blob_list,
    decode_segment,
    encode_blob_lists,
    encode_run,
    payload_blob,
)

from tests.support.manifests import manifest

PLACES = st.tuples(st.integers(1, 6), st.binary(max_size=3))
STATES = st.dictionaries(PLACES, st.binary(max_size=8), max_size=40)
State = dict[tuple[int, bytes], bytes]


def rows(state: State) -> list[Row]:
    return [(table, key, state[table, key]) for table, key in sorted(state)]


def delta(old: State, new: State) -> list[Change]:
    return list(difference(rows(old), rows(new)))


@given(STATES, STATES)
def test_a_difference_holds_just_what_changed(old: State, new: State) -> None:
    found = delta(old, new)
    assert [change[:2] for change in found] == sorted(
        place for place in old.keys() | new.keys() if old.get(place) != new.get(place)
    )
    for table, key, value in found:
        assert value == new.get((table, key))


@given(st.lists(STATES, min_size=1, max_size=5), st.integers(1, 4))
def test_runs_merge_to_the_last_state(states: list[State], batch_rows: int) -> None:
    first, *_ = states
    deltas = [delta(old, new) for old, new in pairwise(states)]
    merged: list[Change] = []
    for one in deltas:
        merged = list(combine(merged, one))
    found = list(overlay(batched(rows(first), batch_rows), merged))
    assert [] not in found
    assert list(chain.from_iterable(found)) == rows(states[-1])


@given(STATES, STATES, st.integers(64, 200), st.integers(1, 5))
def test_a_run_reads_back(old: State, new: State, segment_bytes: int, batch_rows: int) -> None:
    changes = delta(old, new)
    segments = list(encode_run(changes, segment_bytes))
    assert all(len(data) <= segment_bytes for data, _ in segments)
    assert sum(count for _, count in segments) == len(changes)
    found: list[Change] = []
    for data, count in segments:
        decoder = decode_segment(data, full=False, batch_rows=batch_rows)
        batches = list(decoder)
        assert all(0 < len(batch) <= batch_rows for batch in batches)
        assert decoder.rows == count
        found += chain.from_iterable(batches)
    assert found == changes


@given(STATES)
def test_a_full_runs_segments_are_the_digested_bytes(state: State) -> None:
    digest = RowDigest()
    assert digest.update(rows(state)) == len(encode_rows(rows(state)))
    bodies = b"".join(data[HEADER_BYTES:] for data, _ in encode_run(rows(state), 128))
    assert digest.hexdigest() == hashlib.sha256(bodies).hexdigest()


def test_the_canonical_encoding() -> None:
    assert encode_rows([(1, b"k", b"value"), (6, b"", b"")]) == (
        b"\x01\0\0\0\x01\0\0\0\x05kvalue\x06\0\0\0\0\0\0\0\0"
    )


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ([(1, b"b", b""), (1, b"a", b"")], "order"),
        ([(1, b"b", b""), (1, b"b", b"")], "order"),
        ([(2, b"b", b""), (1, b"c", b"")], "order"),
        ([(1, b"b", b"x" * 200)], "is too large"),
        ([(1, b"k" * 65_001, b"")], "is too large"),
    ],
)
def test_rows_that_no_segment_takes(bad: list[Change], why: str) -> None:
    with pytest.raises(SourceDamaged, match=why):
        list(encode_run(bad, 128 if why != "is too large" or bad[0][2] else 1 << 17))


def row(table: int, key: bytes, value: bytes, *, value_length: int | None = None) -> bytes:
    length = len(value) if value_length is None else value_length
    return bytes([table]) + len(key).to_bytes(4, "big") + length.to_bytes(4, "big") + key + value


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", SnapshotDamaged),
        (b"LSSEGM", SnapshotDamaged),
        (b"LSBLOB\0\1", SnapshotDamaged),
        (b"LSSEGM\0\3", UnsupportedFormat),
        (b"LSSEGM\0\0", UnsupportedFormat),
        (b"LSSEGM\0\1" + row(1, b"k" * 512, b""), SnapshotDamaged),
        (SEGMENT_HEADER + b"\1\0\0", SnapshotDamaged),
        (SEGMENT_HEADER + row(1, b"k", b"", value_length=1), SnapshotDamaged),
        (SEGMENT_HEADER + row(1, b"k", b"", value_length=2**32 - 1), SnapshotDamaged),
        (SEGMENT_HEADER + row(0, b"k", b""), SnapshotDamaged),
        (SEGMENT_HEADER + row(7, b"k", b""), SnapshotDamaged),
        (SEGMENT_HEADER + row(0x80, b"k", b""), SnapshotDamaged),
        (SEGMENT_HEADER + row(0x81, b"k", b"v"), SnapshotDamaged),
        (SEGMENT_HEADER + row(1, b"b", b"") + row(1, b"a", b""), SnapshotDamaged),
        (SEGMENT_HEADER + row(1, b"b", b"") * 2, SnapshotDamaged),
        (SEGMENT_HEADER + row(1, b"k" * 65_001, b""), SnapshotDamaged),
        (SEGMENT_HEADER + bytes(SEGMENT_BYTES_MAX), SnapshotDamaged),
    ],
)
def test_segments_that_are_none(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        list(decode_segment(data, full=False))


@pytest.mark.parametrize(("header", "longest"), [(b"LSSEGM\0\1", 511), (SEGMENT_HEADER, 65_000)])
def test_segments_of_each_format_are_read(header: bytes, longest: int) -> None:
    key = b"k" * longest
    assert list(decode_segment(header + row(1, key, b"v"), full=True)) == [[(1, key, b"v")]]


def test_a_full_run_has_no_tombstones() -> None:
    data = SEGMENT_HEADER + row(0x81, b"k", b"")
    assert list(decode_segment(data, full=False)) == [[(1, b"k", None)]]
    with pytest.raises(SnapshotDamaged, match="table 129"):
        list(decode_segment(data, full=True))


@given(st.dictionaries(st.binary(min_size=32, max_size=32), st.integers(0, 2**63 - 1)))
def test_blob_lists_read_back(blobs: dict[bytes, int]) -> None:
    lists = list(encode_blob_lists(sorted(blobs.items()), 8 + 3 * 40))
    assert all(len(data) <= 128 for data, _ in lists)
    assert [b for data, _ in lists for b in decode_blob_list(data)] == sorted(blobs.items())


@pytest.mark.parametrize(
    "blobs",
    [
        [(b"b" * 32, 1), (b"a" * 32, 1)],
        [(b"b" * 32, 1), (b"b" * 32, 1)],
        [(b"b" * 31, 1)],
        [(b"b" * 32, -1)],
    ],
)
def test_blobs_that_no_list_takes(blobs: list[tuple[bytes, int]]) -> None:
    with pytest.raises(SourceDamaged):
        list(encode_blob_lists(blobs, 4096))


@pytest.mark.parametrize(
    ("message", "blob"),
    [
        (b"", (b"d" * 32, 0)),
        (b"\x08\x01\x10\x80\x01", (b"d" * 32, 128)),
        (b"\x08\x01\x10\x05\x18\x01", None),
        (b"\x10\x05\x18\x00", (b"d" * 32, 5)),
    ],
)
def test_payload_rows(message: bytes, blob: tuple[bytes, int] | None) -> None:
    assert payload_blob((3, b"d" * 32, b"\0\0\0\0" + message)) == blob


@pytest.mark.parametrize("message", [b"\x10", b"\x10" + b"\xff" * 11, b"\x22\x00", b"\x0d\0\0\0\0"])
def test_payload_rows_that_are_none(message: bytes) -> None:
    with pytest.raises(SnapshotDamaged):
        payload_blob((3, b"d" * 32, b"\0\0\0\0" + message))


def test_a_manifest_reads_back() -> None:
    data = encode_manifest(manifest())
    assert decode_manifest(data, "one") == manifest()
    assert manifest().incremental
    with pytest.raises(SnapshotDamaged, match="belongs to another snapshot"):
        decode_manifest(data, "two")


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"lsn": 7', '"lsn": 8'),
        lambda text: text.replace('"lsn": 7', '"lsn": 7.0'),
        lambda text: text.replace('"lsn": 7', '"lsn": 7, "lsn": 7'),
        lambda text: text.replace('"lsn": 7', '"lsn": NaN'),
        lambda text: text.replace('"lsn": 7', '"lsn": ' + "9" * 5000),
        lambda text: text.replace('"uid": "u"', '"uid": "\\ud800"'),
        lambda _: "[" * 100_000,
        lambda _: "{}",
        lambda _: "[]",
        lambda text: text[:-5],
    ],
)
def test_manifests_that_are_none(change: Callable[[str], str]) -> None:
    with pytest.raises((SnapshotDamaged, UnsupportedFormat)):
        decode_manifest(change(encode_manifest(manifest()).decode()).encode(), "one")


@pytest.mark.parametrize(
    "wrong",
    [{"segment_bytes": 10}, {"segment_bytes": SEGMENT_BYTES_MAX + 1}, {"runs_max": 9},
     {"streams_max": 0}, {"retries": -1}],
)  # fmt: skip
def test_limits_that_contradict_the_format(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SnapshotLimits(**wrong)  # type: ignore[arg-type]
