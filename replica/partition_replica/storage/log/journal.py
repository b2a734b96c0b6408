"""The journal in front of the log's tables: its file, and the entries that it alone has.

Small batches become durable here with one synchronous write, where a transaction of LMDB waits for
the disk twice. docs/on_disk_format.md has the format.

The file is written from its beginning, record after record, each at a multiple of BLOCK_BYTES. A
transaction of the log's tables takes over all entries of the journal and draws a new epoch, which
ends the validity of all its records. After that, the file is written from its beginning again.

A record is acknowledged when its write has returned, and the next one is written after that. So
only the last record can be torn, and a power failure that tears it loses nothing. If another record
of the epoch follows an invalid one, the invalid one is damage.
"""

import os
import struct
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from google.protobuf.message import DecodeError
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.limits import Limits
from partition_replica.core.model import LogEntry
from partition_replica.errors import Damaged, StorageFailed
from partition_replica.ids import Term
from partition_replica.storage.files import (
    create_file,
    fatal_on_failure,
    fill_file,
    move_file,
    remove_file,
    sync_directory,
    sync_file,
    write_durably,
)

NAME = "journal"
WHAT = "the log's journal"
"""As messages name it."""

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


@dataclass(frozen=True, slots=True)
class JournalLimits:
    """file_bytes: the size of the journal's file. entries_max: entries that are in the journal
    alone. A batch that would exceed one of them is written to the tables, with all that the journal
    has. file_bytes below BLOCK_BYTES: there is no journal."""

    file_bytes: int = 0
    entries_max: int = 256

    @staticmethod
    def of(limits: Limits) -> "JournalLimits":
        """The journal of a replica with these limits."""
        return JournalLimits(limits.log_journal_bytes, limits.log_journal_entries_max)


@dataclass(slots=True)
class Journaled:
    """The entries from LSN `first` on that the journal alone has. Entries are only added: after a
    transaction took them over there is a new object. So a reader that takes this one before it
    begins to read the tables finds each entry here or there."""

    first: int = sys.maxsize
    entries: list[LogEntry] = field(default_factory=list)
    hard_state: bool = False
    """Whether the journal alone has the hard state, too."""
    since: int = 0
    """The last transaction of the tables before the first entry: no other one comes before all are
    taken over."""

    def add(self, entries: Sequence[LogEntry], last_transaction: int) -> None:
        self.entries.extend(entries)
        if self.first == sys.maxsize:
            self.since = last_transaction
            self.first = entries[0].index

    def between(self, lo: int, hi: int) -> list[LogEntry]:
        """Those of [lo, hi)."""
        if hi <= self.first:
            return []
        return self.entries[max(lo - self.first, 0) : hi - self.first]


def with_terms(entries: list[LogEntry], plain_term: Term) -> list[LogEntry]:
    """The entries as the tables return them: those without a term have `plain_term`."""
    if not plain_term:
        return entries
    return [entry if entry.term else replace(entry, term=plain_term) for entry in entries]


class Journal:
    """The open journal of a log. Not thread-safe: the log's lock protects it."""

    def __init__(self, directory: Path, file_bytes: int) -> None:
        """Opens the journal, with a file of at least `file_bytes`: a new file, and the missing part
        of an existing one, are filled with zeros. Raises StorageFailed, and then leaves no new
        file."""
        path = directory / NAME
        if not path.exists():
            _create(directory, file_bytes)
        with fatal_on_failure("opening the journal"):
            descriptor = os.open(path, os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        try:
            size = os.fstat(descriptor).st_size
            if size < file_bytes:
                self._extend(size, file_bytes)
        except BaseException:
            self._file.close()
            raise
        self.file_bytes = file_bytes
        self._epoch = b""
        self._number = self._offset = 0
        self._failed = False

    def _extend(self, size: int, file_bytes: int) -> None:
        descriptor = self._file.fileno()
        try:
            fill_file(descriptor, size, file_bytes, WHAT)
        except BaseException:
            with fatal_on_failure(f"shortening {WHAT}"):
                os.ftruncate(descriptor, size)  # gives the space back
            raise
        sync_file(descriptor, WHAT)

    @property
    def started(self) -> bool:
        """Whether it has an epoch, so that records can be written."""
        return bool(self._epoch)

    def restart(self, epoch: bytes) -> None:
        """Begins at the file's beginning. The epoch is durable already."""
        self._epoch, self._number, self._offset = epoch, 0, 0

    def fits(self, size: int) -> bool:
        """Whether there is room for a record with a payload of `size` bytes."""
        return size <= RECORD_BYTES_MAX and self._offset + _padded(size) <= self.file_bytes

    def append(self, record: bytes) -> None:
        """Writes a record for which there is room. It is durable when this returns. Raises
        StorageFailed, and from then on always: whether the record is there is unknown."""
        if self._failed:
            raise StorageFailed("an earlier write of the journal failed")
        checked = _CHECKED.pack(self._epoch, self._number, len(record))
        crc = zlib.crc32(record, zlib.crc32(checked))
        header = _HEADER.pack(_MAGIC, crc, self._epoch, self._number, len(record))
        padding = bytes(_padded(len(record)) - len(header) - len(record))
        self._failed = True
        write_durably(self._file.fileno(), (header, record, padding), self._offset, WHAT)
        self._failed = False
        self._offset += _padded(len(record))
        self._number += 1

    def close(self) -> None:
        self._file.close()


def _create(directory: Path, file_bytes: int) -> None:
    """Makes the file under another name first: the journal is complete, or not there."""
    new = directory / f"{NAME}.new"
    remove_file(new, WHAT)
    try:
        with create_file(new) as file:
            fill_file(file.fileno(), 0, file_bytes, WHAT)
            sync_file(file.fileno(), WHAT)
    except BaseException:
        remove_file(new, WHAT)
        raise
    move_file(new, directory / NAME, WHAT)
    sync_directory(directory)


def read_journal(directory: Path, epoch: bytes, file_bytes: int) -> list[rows.JournalRecord]:
    """Returns the records of `epoch`, in order. file_bytes: the size that the file had at least
    when the epoch began. Raises Damaged, StorageFailed."""
    path = directory / NAME
    found: list[rows.JournalRecord] = []
    with fatal_on_failure("reading the journal"):
        try:
            file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise Damaged(
                "the log's file `journal` is missing: the volume is damaged; keep it, and let the "
                "operator rebuild this replica from the others"
            ) from None
        with file:
            size = os.fstat(file.fileno()).st_size
            if size < file_bytes:
                raise Damaged(
                    f"the log's file `journal` has {size} bytes, and had {file_bytes}: the volume "
                    "is damaged; keep it, and let the operator rebuild this replica from the others"
                )
            offset = 0
            while (record := _record(file.fileno(), offset, epoch, len(found))) is not None:
                found.append(_decoded(record, len(found)))
                offset += _padded(len(record))
            # A torn write explains one record that is not valid, at this place. A header of the
            # epoch behind it is of a record that was written when this one was durable.
            for later in range(offset + BLOCK_BYTES, size, BLOCK_BYTES):
                if _header(file.fileno(), later, epoch) is not None:
                    raise _damaged(len(found), "is damaged, and another one follows it")
    return found


def _header(descriptor: int, offset: int, epoch: bytes) -> tuple[int, int, int] | None:
    """(checksum, number, size of the payload) of a header of `epoch` at `offset`; None if there is
    none."""
    data = os.pread(descriptor, _HEADER.size, offset)
    if len(data) < _HEADER.size:
        return None
    magic, crc, its_epoch, number, size = _HEADER.unpack(data)
    return (crc, number, size) if magic == _MAGIC and its_epoch == epoch else None


def _record(descriptor: int, offset: int, epoch: bytes, number: int) -> bytes | None:
    """The payload of the valid record with this number at `offset`; None if there is none."""
    found = _header(descriptor, offset, epoch)
    if found is None or found[1] != number or found[2] > RECORD_BYTES_MAX:
        return None
    crc, _, size = found
    payload = os.pread(descriptor, size, offset + _HEADER.size)
    checked = _CHECKED.pack(epoch, number, size)
    if len(payload) < size or crc != zlib.crc32(payload, zlib.crc32(checked)):
        return None
    return payload


def _decoded(payload: bytes, number: int) -> rows.JournalRecord:
    record = rows.JournalRecord()
    try:
        record.ParseFromString(payload)
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
