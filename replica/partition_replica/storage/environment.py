"""How an LMDB environment is opened. The flags are argued in docs/on_disk_format.md."""

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
"""Of a data file: a meta page that says something else is damaged."""

UNWRITTEN_PAGES_MAX = 1 << 18
"""Pages behind the end of a file that may be free: more than a transaction can hold."""


def open_environment(
    path: Path, *, metasync: bool, tables: int, sync: bool = True
) -> lmdb.Environment:
    """Opens or creates an environment for writing.

    metasync=False keeps integrity and may lose the last commit in a power failure: only for what
    can be rebuilt. sync=False: nothing is durable before an explicit sync, and a power failure may
    leave anything: only for what is staged. Raises Damaged, StorageFailed.
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
        # A reader that died with its process would keep pages from being reused for ever.
        environment.reader_check()
    sync_directory(path)
    return environment


def open_read_only(path: Path, tables: int) -> lmdb.Environment:
    """Opens a copy that nobody writes: no lock file, no write. Raises Damaged, StorageFailed."""
    check_length(path)
    with lmdb_failures(f"opening {path.name} to read"):
        return lmdb.Environment(
            str(path), map_size=MAP_BYTES, readonly=True, lock=False, max_dbs=tables, create=False
        )


def open_beside(path: Path, tables: int) -> lmdb.Environment:
    """Opens one that another process writes, to read it. The other must run `reader_check` when
    this process has ended: one that died keeps pages from being reused. Raises Damaged,
    StorageFailed."""
    # Its length was checked by who writes it, and changes while we would look.
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
    """Handles by name. Without `create`, one of `later`, which earlier versions did not have, is
    None where it is not there; Damaged, by the lmdb.NotFoundError, for any other."""
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
    """Makes an empty environment, whole or not at all: so that one without its file, or with an
    empty one, is a damaged one, and is never taken for a new one."""
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
    """Raises Damaged for an environment whose file lacks pages that are in use: LMDB would map it,
    and reading them would end the process by a signal.

    A file that is shorter than its last page is not damaged by that: pages which a transaction took
    and gave back are not written. They are in the free list, which is read for such a file only.
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
                raise _cut(path, "ends inside a page that is in use") from error


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
        f"ends at page {pages}, and page {min(missing, default=pages)} of {meta.last_page} is in "
        "use",
    )


def _free_list(descriptor: int, size: int, meta: "_Meta") -> Iterator[tuple[int, ...]]:
    """The numbers of free pages, as far as the file goes. Raises struct.error, OverflowError."""
    pages = size // meta.page_bytes
    todo = [meta.free_root]
    for _ in range(pages):  # a page comes once: more would be a circle
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
            yield struct.unpack(f"<{length // 8}Q", row)[1:]  # their count, then they


class _Meta:
    """What one of the two meta pages says."""

    def __init__(self, page: bytes, path: Path) -> None:
        magic, version = _META.unpack_from(page)
        if (magic, version) != (_MAGIC, _VERSION):
            raise _cut(path, "has a meta page that is none")
        self.page_bytes, _, self.free_root = _DATABASE.unpack_from(page, _META.size)
        if not PAGE_BYTES_MIN <= self.page_bytes <= PAGE_BYTES_MAX:
            raise _cut(path, f"has pages of {self.page_bytes} bytes")
        self.last_page, self.transaction = _META_END.unpack_from(
            page, _META.size + 2 * _DATABASE.size
        )


def _cut(path: Path, what: str) -> Damaged:
    return Damaged(
        f"{path.name}/{DATA_FILE} {what}: the volume is damaged; keep it, and let the operator "
        "rebuild this replica from the others"
    )


DAMAGE = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError)
"""What LMDB raises for pages that it can't make sense of."""


@contextmanager
def reading(environment: lmdb.Environment, what: str) -> Iterator[Transaction]:
    """A read transaction. Raises Damaged, StorageFailed."""
    with lmdb_failures(f"reading {what}"), environment.begin() as txn:
        yield txn


@contextmanager
def lmdb_failures(what: str) -> Iterator[None]:
    """LMDB's errors where we write are fatal: the transaction is gone, and why is unknown. Pages
    that it can't make sense of are damage."""
    try:
        yield
    except DAMAGE as error:
        raise Damaged(f"{what}: {error}: the volume is damaged; keep it") from error
    except lmdb.Error as error:
        raise StorageFailed(f"{what}: {error}") from error
