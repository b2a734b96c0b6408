"""How an LMDB environment is opened. The flags are argued in docs/on_disk_format.md."""

import errno
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import lmdb

from partition_replica.errors import Damaged, StorageFailed
from partition_replica.storage.files import (
    empty_directory,
    fatal_on_failure,
    move_file,
    sync_directory,
    sync_file,
)

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[bytes]
    Database: TypeAlias = lmdb._Database
else:  # generic, and visible, in the stubs only
    Transaction = Database = Any

MAP_BYTES = 1 << 40
"""Address space, not disk: fixed and huge, so that it never has to grow under readers."""

READERS_MAX = 126

DATA_FILE = "data.mdb"

# LMDB's file format, data version 1, as far as `check_length` reads it (lmdb's mdb.c).
_META = struct.Struct("<16x II 8x 8x")  # page header; magic, version; address, size of the map
_DATABASE = struct.Struct("<I H 2x 8x 8x 8x 8x Q")  # two of them; md_pad, md_flags, md_root
_META_END = struct.Struct("<Q Q")  # last page, transaction
_PAGE = struct.Struct("<8x 2x H H H")  # flags, lower, upper
_NODE = struct.Struct("<H H H H")  # low and high half of the size, flags, size of the key
_MAGIC, _VERSION = 0xBEEFC0DE, 1
_BRANCH, _OVERFLOWN = 0x01, 0x01

PAGE_BYTES_MIN, PAGE_BYTES_MAX = 256, 65536
"""The page sizes of LMDB: a meta page with another size is damaged."""

UNWRITTEN_PAGES_MAX = 1 << 18
"""The maximum number of free pages after the end of a file: more than a transaction can use."""


def open_environment(
    path: Path, *, metasync: bool, tables: int, sync: bool = True
) -> lmdb.Environment:
    """Opens or creates an environment for writing.

    metasync=False: a power failure may lose the last commit, without damage; only for data that can
    be rebuilt. sync=False: nothing is durable before an explicit sync, and a power failure may
    damage the file; only for staged data. Raises Damaged, StorageFailed.
    """
    if not path.exists():
        _create(path)
    check_length(path)
    with lmdb_failures(f"opening {path.name}"):
        environment = lmdb.Environment(
            str(path),
            map_size=MAP_BYTES,
            subdir=True,
            sync=sync,
            metasync=metasync,
            writemap=False,
            readahead=False,
            meminit=False,
            max_readers=READERS_MAX,
            max_dbs=tables,
            mode=0o600,
        )
        # Else a reader whose process died would prevent the reuse of pages for ever.
        environment.reader_check()
    sync_directory(path)
    return environment


def open_read_only(path: Path, tables: int) -> lmdb.Environment:
    """Opens an environment that no process writes, without a lock file. Raises Damaged,
    StorageFailed."""
    check_length(path)
    with lmdb_failures(f"opening {path.name} to read"):
        return lmdb.Environment(
            str(path), map_size=MAP_BYTES, readonly=True, lock=False, max_dbs=tables, create=False
        )


def open_beside(path: Path, tables: int) -> lmdb.Environment:
    """Opens an environment for reading while another process writes it. The other process must run
    `reader_check` after this one has ended, because a dead reader prevents the reuse of pages.
    Raises Damaged, StorageFailed."""
    # Without check_length: the writer has checked the file, and its length changes meanwhile.
    with lmdb_failures(f"opening {path.name} to read"):
        return lmdb.Environment(
            str(path), map_size=MAP_BYTES, readonly=True, max_dbs=tables, create=False
        )


def open_tables(
    environment: lmdb.Environment,
    names: Iterable[str],
    *,
    create: bool,
    later: frozenset[str] = frozenset(),
) -> dict[str, Any]:
    """Opens tables; returns their handles by name. Without `create`, the handle of a missing table
    in `later`, the tables that earlier versions did not have, is None. Raises Damaged for any other
    missing table."""
    found: dict[str, Any] = {}
    with lmdb_failures("opening tables"):
        for name in names:
            try:
                found[name] = environment.open_db(name.encode(), create=create)
            except lmdb.NotFoundError as error:
                if name not in later:
                    raise Damaged(
                        f"the table {name} is missing: the volume is damaged; keep it"
                    ) from error
                found[name] = None
    return found


def _create(path: Path) -> None:
    """Creates an empty environment atomically. So an environment without its file, or with an empty
    one, is damaged, and never mistaken for a new one."""
    new = path.with_name(f"{path.name}.new")
    empty_directory(new)
    with lmdb_failures(f"creating {path.name}"):
        lmdb.Environment(str(new), map_size=MAP_BYTES, mode=0o600).close()
    with fatal_on_failure(f"opening {path.name}"):
        descriptor = os.open(new / DATA_FILE, os.O_RDONLY)
    try:
        sync_file(descriptor, path.name)
    finally:
        os.close(descriptor)
    sync_directory(new)
    move_file(new, path, path.name)
    sync_directory(path.parent)


def check_length(path: Path) -> None:
    """Raises Damaged if the environment's file lacks pages that are in use: LMDB would map the
    file, and reading these pages would end the process by a signal.

    A file may legitimately end before its last page: LMDB does not write pages that a transaction
    allocated and freed. They are in the free list, which is read for such files only.
    """
    file = path / DATA_FILE
    with fatal_on_failure(f"reading {path.name}"):
        if not file.exists():
            raise _cut(path, "has no data file")
        with file.open("rb", buffering=0) as opened:
            descriptor = opened.fileno()
            try:
                _check_length(descriptor, os.fstat(descriptor).st_size, path)
            except (struct.error, OverflowError) as error:
                raise _cut(path, "is truncated inside a page that is in use") from error


def _check_length(descriptor: int, size: int, path: Path) -> None:
    first = _Meta(os.pread(descriptor, 4096, 0), path)
    second = _Meta(os.pread(descriptor, 4096, first.page_bytes), path)
    meta = max(first, second, key=lambda found: found.transaction)
    pages = size // meta.page_bytes
    if pages > meta.last_page:
        return
    missing: set[int] = set()
    if meta.last_page - pages < UNWRITTEN_PAGES_MAX:
        missing = set(range(pages, meta.last_page + 1))
        for freed in _free_list(descriptor, size, meta):
            missing.difference_update(freed)
        if not missing:
            return
    raise _cut(
        path,
        f"is truncated: it has {pages} pages, and page {min(missing, default=pages)} of "
        f"{meta.last_page} is in use",
    )


def _free_list(descriptor: int, size: int, meta: "_Meta") -> Iterator[tuple[int, ...]]:
    """The numbers of free pages, from the part of the free list that is in the file. Raises
    struct.error, OverflowError."""
    pages = size // meta.page_bytes
    todo = [meta.free_root]
    for _ in range(pages):  # each page occurs once: this ends a cycle
        page = todo.pop() if todo else pages
        if page >= pages:
            return
        data = os.pread(descriptor, meta.page_bytes, page * meta.page_bytes)
        flags, lower, _ = _PAGE.unpack_from(data)
        for (pointer,) in struct.iter_unpack("<H", data[_PAGE.size : lower]):
            low, high, more, key = _NODE.unpack_from(data, pointer)
            if flags & _BRANCH:
                todo.append(low | high << 16 | more << 32)
                continue
            start, length = pointer + _NODE.size + key, low | high << 16
            row = data[start : start + length]
            if more & _OVERFLOWN:
                (overflow,) = struct.unpack_from("<Q", data, start)
                start = overflow * meta.page_bytes + _PAGE.size
                row = os.pread(descriptor, min(length, size), start)
            yield struct.unpack(f"<{length // 8}Q", row)[1:]  # after their count


class _Meta:
    """The content of one of the two meta pages."""

    def __init__(self, page: bytes, path: Path) -> None:
        magic, version = _META.unpack_from(page)
        if (magic, version) != (_MAGIC, _VERSION):
            raise _cut(path, "has no valid meta page")
        self.page_bytes, _, self.free_root = _DATABASE.unpack_from(page, _META.size)
        if not PAGE_BYTES_MIN <= self.page_bytes <= PAGE_BYTES_MAX:
            raise _cut(path, f"has an invalid page size of {self.page_bytes} bytes")
        self.last_page, self.transaction = _META_END.unpack_from(
            page, _META.size + 2 * _DATABASE.size
        )


def _cut(path: Path, what: str) -> Damaged:
    return Damaged(
        f"{path.name}/{DATA_FILE} {what}: the volume is damaged; keep it, and let the operator "
        "rebuild this replica from the others"
    )


def lacks_room(error: StorageFailed) -> bool:
    """Whether LMDB failed because the disk or the quota is full: the transaction is undone."""
    cause = error.__cause__
    full = isinstance(cause, lmdb.DiskError) or os.strerror(errno.EDQUOT) in str(cause)
    return isinstance(cause, lmdb.Error) and full


DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError)
"""LMDB's errors for damaged pages."""


@contextmanager
def reading(environment: lmdb.Environment, what: str) -> Iterator[Transaction]:
    """A read transaction. Raises Damaged, StorageFailed."""
    with lmdb_failures(f"reading {what}"), environment.begin() as txn:
        yield txn


@contextmanager
def lmdb_failures(what: str) -> Iterator[None]:
    """Turns LMDB's errors into Damaged, for damaged pages, and StorageFailed. Both are fatal: a
    failed transaction is lost, for an unknown reason."""
    try:
        yield
    except DAMAGE as error:
        raise Damaged(f"{what}: {error}: the volume is damaged; keep it") from error
    except lmdb.Error as error:
        raise StorageFailed(f"{what}: {error}") from error
