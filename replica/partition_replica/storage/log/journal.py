"""The journal in front of the log's tables: small batches become durable here with one synchronous
write, where a transaction of LMDB waits for the disk twice. docs/on_disk_format.md has the format.

The file is written from its beginning, record after record, each at a multiple of BLOCK_BYTES. A
transaction of the log's tables takes over all entries of the journal and draws a new epoch, which
ends the validity of all its records. After that, the file is written from its beginning again.

A record is acknowledged when its write has returned, and the next one is written after that. So
only the last record can be torn, and a power failure that tears it loses nothing. If a valid record
follows an invalid one, the invalid one is damage.
"""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.limits import Limits
from partition_replica.errors import Damaged
from partition_replica.storage.files import (
    create_file,
    fatal_on_failure,
    fill_file,
    sync_directory,
    sync_file,
    write_durably,
)

NAME = "journal"

BLOCK_BYTES = 4096
"""Records begin at multiples of it. So the write of a record touches no page of another one."""

RECORD_BYTES_MAX = 256 * 1024
"""The size of a record's payload. Of a larger batch the bytes decide, not the waits for the disk,
and they would be written twice."""

EPOCH_BYTES = 16

_HEADER = struct.Struct(">4s I 16s Q I")
"""Magic, CRC-32, epoch, number of the record within its epoch, size of the payload in bytes. The
checksum covers what follows it: the rest of the header, and the payload."""
_CHECKED = struct.Struct(">16s Q I")
_MAGIC = b"PLJ1"

FILE_BYTES_READ_MAX = 256 * 1024**2
"""A larger file is damaged: no setting allows a journal of this size."""


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """file_bytes: the size of the journal's file. entries_max: entries that are in the journal
    alone. A batch that would exceed one of them is written to the tables, with all that the journal
    has. file_bytes 0: there is no journal."""

    file_bytes: int = 0
    entries_max: int = 256

    @staticmethod
    def of(limits: Limits) -> "JournalLimits":
        """The journal of a replica with these limits."""
        return JournalLimits(limits.log_journal_bytes, limits.log_journal_entries_max)


class Journal:
    """The open journal of a log. Not thread-safe: the log's lock protects it."""

    def __init__(self, directory: Path, file_bytes: int) -> None:
        """Opens the journal, or creates it with `file_bytes` zeros. Raises StorageFailed."""
        path = directory / NAME
        if not path.exists():
            with create_file(path) as file:
                fill_file(file.fileno(), file_bytes, NAME)
                sync_file(file.fileno(), NAME)
            sync_directory(directory)
        with fatal_on_failure("opening the journal"):
            descriptor = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._file_bytes = file_bytes
        self._epoch = b""
        self._number = self._offset = 0

    def restart(self, epoch: bytes) -> None:
        """Begins at the file's beginning. The epoch is durable already."""
        self._epoch, self._number, self._offset = epoch, 0, 0

    def fits(self, size: int) -> bool:
        """Whether there is room for a record with a payload of `size` bytes."""
        return size <= RECORD_BYTES_MAX and self._offset + _padded(size) <= self._file_bytes

    def append(self, record: bytes) -> None:
        """Writes a record for which there is room. It is durable when this returns. Raises
        StorageFailed, after which the journal must not be used."""
        checked = _CHECKED.pack(self._epoch, self._number, len(record))
        crc = zlib.crc32(record, zlib.crc32(checked))
        header = _HEADER.pack(_MAGIC, crc, self._epoch, self._number, len(record))
        padding = bytes(_padded(len(record)) - len(header) - len(record))
        write_durably(self._file.fileno(), (header, record, padding), self._offset, NAME)
        self._offset += _padded(len(record))
        self._number += 1

    @property
    def started(self) -> bool:
        """Whether it has an epoch, so that records can be written."""
        return bool(self._epoch)

    def close(self) -> None:
        self._file.close()


def read_journal(directory: Path, epoch: bytes) -> list[rows.JournalRecord]:
    """Returns the records of `epoch`, in order. Raises Damaged, StorageFailed."""
    path = directory / NAME
    with fatal_on_failure("reading the journal"):
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise Damaged(
                "the log's file `journal` is missing: the volume is damaged; keep it, and let the "
                "operator rebuild this replica from the others"
            ) from None
        if size > FILE_BYTES_READ_MAX:
            raise Damaged(
                f"the log's file `journal` has {size} bytes; allowed are {FILE_BYTES_READ_MAX}: "
                "the volume is damaged; keep it"
            )
        content = memoryview(path.read_bytes())
    found: list[rows.JournalRecord] = []
    offset = 0
    while (record := _record(content, offset, epoch, len(found))) is not None:
        found.append(_decoded(record, len(found)))
        offset += _padded(len(record))
    # Behind the end of all valid records.
    for later in range(offset, len(content), BLOCK_BYTES):
        if _record(content, later, epoch, None) is not None:
            raise _damaged(len(found), "is damaged, and a valid one follows it")
    return found


def _record(
    content: memoryview, offset: int, epoch: bytes, number: int | None
) -> memoryview | None:
    """The payload of a valid record of `epoch` at `offset`; None if there is none. number: the one
    that it must have, None for any."""
    if offset + _HEADER.size > len(content):
        return None
    magic, crc, its_epoch, its_number, size = _HEADER.unpack_from(content, offset)
    if magic != _MAGIC or its_epoch != epoch or size > RECORD_BYTES_MAX:
        return None
    if number is not None and its_number != number:
        return None
    start = offset + _HEADER.size
    payload = content[start : start + size]
    checked = _CHECKED.pack(its_epoch, its_number, size)
    if len(payload) < size or crc != zlib.crc32(payload, zlib.crc32(checked)):
        return None
    return payload


def _decoded(payload: memoryview, number: int) -> rows.JournalRecord:
    record = rows.JournalRecord()
    try:
        record.ParseFromString(bytes(payload))
    except DecodeError as error:
        raise _damaged(number, f"is not a valid JournalRecord: {error}") from error
    return record


def _damaged(number: int, what: str) -> Damaged:
    return Damaged(
        f"record {number} of the log's file `journal` {what}: the volume is damaged; keep it, and "
        "let the operator rebuild this replica from the others"
    )


def _padded(size: int) -> int:
    """The bytes that a record with a payload of `size` bytes takes in the file."""
    return -(-(_HEADER.size + size) // BLOCK_BYTES) * BLOCK_BYTES
