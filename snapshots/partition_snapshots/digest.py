"""The canonical digest of rows, and their encoding."""

import hashlib
import struct
from collections.abc import Iterable

from partition_snapshots.model import Row

ROW = struct.Struct(">BII")
"""Table number, key length, value length; then key and value."""


def encode_rows(rows: Iterable[Row]) -> bytes:
    """Returns the canonical encoding of rows, one after the other."""
    pack = ROW.pack
    parts: list[bytes] = []
    append = parts.append
    for table, key, value in rows:
        append(pack(table, len(key), len(value)))
        append(key)
        append(value)
    return b"".join(parts)


class EncodedRows(list[Row]):
    """Rows in order, and the canonical encoding from which they were decoded."""

    def __init__(self, rows: Iterable[Row], encoded: memoryview) -> None:
        super().__init__(rows)
        self.encoded = encoded


class RowDigest:
    """SHA-256 of rows, in order, each encoded as table (1 byte), key length and value length (4
    bytes each, big-endian), key, value."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, rows: Iterable[Row]) -> int:
        """Adds the next rows. Returns their encoded size, in bytes. Batches of some hundred rows
        cost least; EncodedRows cost almost nothing, because they are not encoded again."""
        encoded = rows.encoded if isinstance(rows, EncodedRows) else encode_rows(rows)
        self._hash.update(encoded)
        return len(encoded)

    def update_encoded(self, encoded: bytes | memoryview) -> None:
        """Adds rows in their canonical encoding."""
        self._hash.update(encoded)

    def hexdigest(self) -> str:
        """Returns the digest of the rows so far, as 64 hex digits."""
        return self._hash.hexdigest()
