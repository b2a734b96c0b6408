"""Encodes segments and blob lists, and decodes them from untrusted bytes."""

import struct
from collections.abc import Collection, Iterable, Iterator

from partition_snapshots.digest import ROW, EncodedRows
from partition_snapshots.errors import SnapshotDamaged, SourceDamaged, UnsupportedFormat
from partition_snapshots.limits import KEY_BYTES_MAX, SEGMENT_BYTES_MAX
from partition_snapshots.model import DIGEST_BYTES, TABLE_NUMBERS, Row

Change = tuple[int, bytes, bytes | None]
"""A row of a run: as Row, or with the value None for a deleted row (a tombstone)."""

SEGMENT_HEADER = b"LSSEGM\x00\x02"
SEGMENT_HEADERS = {
    b"LSSEGM\x00\x01": 511,
    SEGMENT_HEADER: KEY_BYTES_MAX,
}
"""The headers that can be read, with the longest key of each version."""

BLOB_LIST_HEADER = b"LSBLOB\x00\x01"
HEADER_BYTES = 8
VERSION_AT = 6

TOMBSTONE = 0x80
"""This bit of a row's table byte is set if the row is deleted."""

BATCH_ROWS = 1024
"""Rows that are decoded at once. As tuples, all rows of a segment could take ten times its size."""

BLOB = struct.Struct(">32sQ")

ROW_CHECKSUM_BYTES = 4
"""The size of the checksum at the start of each row of a replica."""

VARINT_MASK, VARINT_MORE = 0x7F, 0x80
"""Bits of a varint's byte: those of the number, and the one that is set in all bytes but the
last."""

_TABLES = frozenset(TABLE_NUMBERS.values())


def encode_run(changes: Iterable[Change], segment_bytes: int) -> Iterator[tuple[bytes, int]]:
    """Yields (segment, number of rows) of a run, each segment at most segment_bytes. Raises
    SourceDamaged if a row is too large for a segment, or not in order."""
    pack = ROW.pack
    parts: list[bytes] = [SEGMENT_HEADER]
    size, count = HEADER_BYTES, 0
    last: tuple[int, bytes] = (0, b"")
    for table, key, value in changes:
        place = (table, key)
        if place <= last:
            raise SourceDamaged(f"row {key[:64].hex()} of table {table} is not in order")
        last = place
        if value is None:
            header, content = pack(table | TOMBSTONE, len(key), 0), b""
        else:
            header, content = pack(table, len(key), len(value)), value
        need = len(header) + len(key) + len(content)
        if HEADER_BYTES + need > segment_bytes or len(key) > KEY_BYTES_MAX:
            raise SourceDamaged(
                f"row {key[:64].hex()} of table {table} is too large: it has {need} bytes, its key "
                f"{len(key)}; a segment has {segment_bytes}, a key at most {KEY_BYTES_MAX}"
            )
        if size + need > segment_bytes:
            yield b"".join(parts), count
            parts, size, count = [SEGMENT_HEADER], HEADER_BYTES, 0
        parts.append(header)
        parts.append(key)
        parts.append(content)
        size += need
        count += 1
    if count:
        yield b"".join(parts), count


def _check_header(data: bytes, headers: Collection[bytes], what: str) -> bytes:
    """Returns the header. Raises SnapshotDamaged or UnsupportedFormat if it is not in `headers`."""
    if len(data) > SEGMENT_BYTES_MAX:
        raise SnapshotDamaged(f"{what} has more than {SEGMENT_BYTES_MAX} bytes")
    found = data[:HEADER_BYTES]
    if len(found) < HEADER_BYTES or found[:VERSION_AT] not in {h[:VERSION_AT] for h in headers}:
        raise SnapshotDamaged(f"{what} does not begin with a valid header")
    if found not in headers:
        version = int.from_bytes(found[VERSION_AT:], "big")
        raise UnsupportedFormat(
            f"{what} has format version {version}, which this program does not read; use the "
            "program's version that wrote it, or a later one"
        )
    return found


def decode_segment(data: bytes, *, full: bool, batch_rows: int = BATCH_ROWS) -> "Decoder":
    """Returns an iterator over the rows of a segment, in batches. `full`: the segment is of a full
    run, which has no tombstones. This or the iteration raises SnapshotDamaged or
    UnsupportedFormat."""
    header = _check_header(data, SEGMENT_HEADERS, "a segment")
    return Decoder(data, full=full, batch_rows=batch_rows, key_bytes_max=SEGMENT_HEADERS[header])


class Decoder:
    """Iterates over a segment's batches; those of a full run are EncodedRows. `last` is (table,
    key) of the last row yielded so far, `rows` the number of these rows."""

    def __init__(self, data: bytes, *, full: bool, batch_rows: int, key_bytes_max: int) -> None:
        self._data = data
        self._full = full
        self._batch_rows = batch_rows
        self._key_bytes_max = key_bytes_max
        self.last: tuple[int, bytes] = (0, b"")
        self.rows = 0

    def __iter__(self) -> Iterator[list[Change]]:
        data, end, position = self._data, len(self._data), HEADER_BYTES
        unpack, width, tables = ROW.unpack_from, ROW.size, _TABLES
        view = memoryview(data)
        last, key_bytes_max = self.last, self._key_bytes_max
        while position < end:
            start = position
            batch: list[Change] = []
            for _ in range(self._batch_rows):
                if position >= end:
                    break
                if end - position < width:
                    raise SnapshotDamaged("a segment ends inside a row's header")
                table, key_length, value_length = unpack(data, position)
                key_at = position + width
                value_at = key_at + key_length
                position = value_at + value_length
                if position > end or key_length > key_bytes_max:
                    raise SnapshotDamaged("a segment ends inside a row")
                key = data[key_at:value_at]
                value: bytes | None = data[value_at:position]
                if table not in tables:
                    if self._full or table ^ TOMBSTONE not in tables or value_length:
                        raise SnapshotDamaged(f"a segment has a row of table {table}")
                    table, value = table ^ TOMBSTONE, None
                place = (table, key)
                if place <= last:
                    raise SnapshotDamaged("a segment's rows are not in order")
                last = place
                batch.append((table, key, value))
            self.last = last
            self.rows += len(batch)
            # A full run has no tombstones: its changes are rows, in their canonical encoding.
            yield EncodedRows(batch, view[start:position]) if self._full else batch  # type: ignore[arg-type, misc]


def encode_blob_lists(
    blobs: Iterable[tuple[bytes, int]], list_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Yields (blob list, number of entries), each list at most list_bytes. Raises SourceDamaged if
    the blobs are not sorted, or a digest or size is invalid."""
    most = (list_bytes - HEADER_BYTES) // BLOB.size
    parts: list[bytes] = []
    last = b""
    for digest, size in blobs:
        if len(digest) != DIGEST_BYTES or digest <= last or not 0 <= size < 1 << 63:
            raise SourceDamaged(
                f"blob {digest.hex()} of {size} bytes has an invalid digest or size, or is not in "
                "order"
            )
        last = digest
        parts.append(BLOB.pack(digest, size))
        if len(parts) == most:
            yield BLOB_LIST_HEADER + b"".join(parts), len(parts)
            parts = []
    if parts:
        yield BLOB_LIST_HEADER + b"".join(parts), len(parts)


def decode_blob_list(data: bytes) -> list[tuple[bytes, int]]:
    """Returns a blob list's entries (digest, size), sorted. Raises SnapshotDamaged,
    UnsupportedFormat."""
    _check_header(data, {BLOB_LIST_HEADER}, "a blob list")
    if (len(data) - HEADER_BYTES) % BLOB.size:
        raise SnapshotDamaged("a blob list ends inside an entry")
    found: list[tuple[bytes, int]] = list(BLOB.iter_unpack(memoryview(data)[HEADER_BYTES:]))
    last = b""
    for digest, size in found:
        if digest <= last or size >= 1 << 63:
            raise SnapshotDamaged("a blob list is not sorted, or contains an invalid size")
        last = digest
    return found


def payload_blob(row: Row) -> tuple[bytes, int] | None:
    """Returns (digest, size) if a row of table payload names a blob, or None if the content is in
    table content.

    The row is a checksum of 4 bytes and a PayloadRow message (storage.proto): size is field 2,
    inlined is field 3. Raises SnapshotDamaged."""
    _, digest, value = row
    fields = {1: 0, 2: 0, 3: 0}
    position = ROW_CHECKSUM_BYTES
    while position < len(value):
        tag, position = _varint(value, position)
        if tag & 7 or tag >> 3 not in fields:
            raise SnapshotDamaged(f"payload row {digest.hex()} has an unknown field")
        fields[tag >> 3], position = _varint(value, position)
    if len(value) < ROW_CHECKSUM_BYTES or len(digest) != DIGEST_BYTES:
        raise SnapshotDamaged(f"payload row {digest.hex()} is not a valid row")
    return None if fields[3] else (digest, fields[2])


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & VARINT_MASK) << shift
        if byte < VARINT_MORE:
            return value & (1 << 64) - 1, position
    raise SnapshotDamaged("a payload row ends inside a number")
