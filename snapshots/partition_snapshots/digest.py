"""The canonical digest of rows, and their encoding."""

import hashlib
import struct
from collections.abc import Iterable

from partition_snapshots.model import Row

ROW = struct.Struct(">BII")
"""Table number, key length, value length; then key and value."""


def encode_rows(rows: Iterable[Row]) -> bytes:
    """Rows in their canonical encoding, one after the other."""
    pack = ROW.pack
    parts: list[bytes] = []
    append = parts.append
    for table, key, value in rows:
        append(pack(table, len(key), len(value)))
        append(key)
        append(value)
    return b"".join(parts)


class EncodedRows(list[Row]):
    """Rows in order, and their canonical encoding, which they were decoded from."""

    def __init__(self, rows: Iterable[Row], encoded: memoryview) -> None:
        super().__init__(rows)
        self.encoded = encoded


class RowDigest:
    """SHA-256 of rows, in order, each encoded as table (1 byte), key length and value length (4
    bytes each, big-endian), key, value."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def update(self, rows: Iterable[Row]) -> int:
        """Takes the next rows; a batch of some hundred costs least, and one that is EncodedRows
        next to nothing. Returns their encoded size, in bytes."""
        encoded = rows.encoded if isinstance(rows, EncodedRows) else encode_rows(rows)
        self._hash.update(encoded)
        return len(encoded)

    def update_encoded(self, encoded: bytes | memoryview) -> None:
        """Takes rows that are encoded already."""
        self._hash.update(encoded)

    def hexdigest(self) -> str:
        """64 hex digits, of the rows so far."""
        return self._hash.hexdigest()
