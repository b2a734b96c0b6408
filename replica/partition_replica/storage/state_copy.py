"""Copies of the state: made of a read transaction while the state goes on, and looked into."""

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

import lmdb

from partition_replica.core.model import Position
from partition_replica.errors import DiskFull, StorageFailed
from partition_replica.ids import LSN, Digest, Term
from partition_replica.storage.environment import (
    DATA_FILE,
    Transaction,
    lmdb_failures,
    open_read_only,
    reading,
)
from partition_replica.storage.files import (
    fatal_on_failure,
    full_disk_refuses,
    sync_directory,
    sync_file,
)
from partition_replica.storage.state_tables import TABLES, Tables, iterate_blobs, read_applied


class FrozenState:
    """A state at one position, in a read transaction: LMDB keeps every page that it names, and the
    file grows by what is written meanwhile, so it is short. May move to another thread (py-lmdb
    opens every environment with NOTLS), but is used by one at a time."""

    def __init__(
        self,
        environment: lmdb.Environment,
        txn: Transaction,
        position: Position,
        time_ms: int,
        closed: Callable[[], None],
    ) -> None:
        self._environment = environment
        self._txn = txn
        self.position = position
        self.time_ms = time_ms
        self._closed: Callable[[], None] | None = closed

    def copy(self, directory: Path) -> None:
        """Writes `directory`/data.mdb, compacted, durably; LMDB does it without the GIL. Raises
        DiskFull, StorageFailed; what is there then is the caller's to remove."""
        # Nothing of the volume is in doubt where there is no room: only the copy is short.
        what = "a copy of the state"
        with full_disk_refuses(what):
            with fatal_on_failure(f"making a directory for {what}"):
                directory.mkdir(mode=0o700)
            try:
                with lmdb_failures("copy of the state"):
                    self._environment.copy(str(directory), compact=True, txn=self._txn)
            except StorageFailed as error:
                if _full(error.__cause__):
                    raise DiskFull(f"the volume has no room for {what}") from error
                raise
            with fatal_on_failure(f"opening {what}"):
                file = (directory / DATA_FILE).open("rb")
            with file:
                sync_file(file.fileno(), what)
            sync_directory(directory)

    def close(self) -> None:
        """Lets go of the pages. Closing twice is fine."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._txn.abort()
            closed()


def _full(cause: BaseException | None) -> bool:
    """LMDB has a class for a full disk, and none for a quota."""
    quota = isinstance(cause, lmdb.Error) and os.strerror(errno.EDQUOT) in str(cause)
    return quota or isinstance(cause, lmdb.DiskError)


def inspect_copy(
    directory: Path, *, beside: bool = False
) -> tuple[Position, list[tuple[Digest, int]]]:
    """What a copied state is: its position, and the (digest, size) of the blobs it names. beside:
    other threads work meanwhile; they are given way to after every few rows.

    Raises Damaged, StorageFailed.
    """
    environment = open_read_only(directory, len(TABLES))
    try:
        tables = Tables(environment, create=False)
        applied = read_applied(environment, tables)
        with reading(environment, "a copied state") as txn:
            blobs = list(iterate_blobs(txn, tables, give_way if beside else None))
    finally:
        environment.close()
    return Position(LSN(applied.index), Term(applied.term)), blobs


GIVE_WAY_S = 0.001


def give_way() -> None:
    """Python runs one thread at a time, and one that only computes keeps the others waiting for 5
    ms each time that they come back from a call of LMDB; one that sleeps doesn't."""
    time.sleep(GIVE_WAY_S)
