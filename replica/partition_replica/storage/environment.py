"""How an LMDB environment is opened. The flags are argued in docs/on_disk_format.md."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import lmdb

from partition_replica.errors import StorageFailed
from partition_replica.storage.files import make_directory, sync_directory

if TYPE_CHECKING:
    Transaction: TypeAlias = lmdb.Transaction[bytes]
    Database: TypeAlias = lmdb._Database
else:  # generic, and visible, in the stubs only
    Transaction = Database = Any

MAP_BYTES = 1 << 40
"""Address space, not disk: fixed and huge, so that it never has to grow under readers."""

READERS_MAX = 126


def open_environment(path: Path, *, metasync: bool, tables: int) -> lmdb.Environment:
    """Opens or creates an environment for writing.

    metasync=False keeps integrity and may lose the last commit in a power failure: only for what
    can be rebuilt.
    """
    make_directory(path)
    with lmdb_failures(f"opening {path.name}"):
        environment = lmdb.Environment(
            str(path),
            map_size=MAP_BYTES,
            subdir=True,
            sync=True,
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
    """Opens a copy that nobody writes: no lock file, no write."""
    with lmdb_failures(f"opening {path.name} to read"):
        return lmdb.Environment(
            str(path), map_size=MAP_BYTES, readonly=True, lock=False, max_dbs=tables, create=False
        )


@contextmanager
def lmdb_failures(what: str) -> Iterator[None]:
    """LMDB's errors where we write are fatal: the transaction is gone, and why is unknown."""
    try:
        yield
    except lmdb.Error as error:
        raise StorageFailed(f"{what}: {error}") from error
