"""Copies the state from a read transaction while the state changes, and inspects copies."""

import fcntl
import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lmdb

from partition_replica.core.model import Position
from partition_replica.errors import Cancelled, StorageFailed
from partition_replica.ids import LSN, Digest, Term
from partition_replica.storage.environment import (
    DATA_FILE,
    Transaction,
    lmdb_failures,
    open_read_only,
    reading,
)
from partition_replica.storage.files import (
    create_directory,
    create_file,
    full_disk_refuses,
    sync_directory,
    sync_file,
    write_file,
)
from partition_replica.storage.state_tables import TABLES, Tables, iterate_blobs, read_applied

PIPE_BYTES = PART_BYTES = 1024**2
"""The largest pipe that Linux allows without a privilege, by default."""


@dataclass(frozen=True, slots=True)
class CopiedFile:
    """A copy's data.mdb: size in bytes, SHA-256."""

    size: int
    digest: bytes


class FrozenState:
    """A state at one position, in a read transaction. Keep it short: LMDB cannot reuse pages
    meanwhile, so the file grows with every write. It may move to another thread (py-lmdb opens
    every environment with NOTLS), but only one may use it at a time."""

    def __init__(
        self,
        environment: lmdb.Environment,
        txn: Transaction,
        position: Position,
        time_ms: int,
        clock_ms: int,
        closed: Callable[[], None],
    ) -> None:
        self._environment = environment
        self._txn = txn
        self.position = position
        self.time_ms = time_ms
        self.clock_ms = clock_ms
        self._closed: Callable[[], None] | None = closed
        self._given_up = False

    def give_up(self) -> None:
        """Cancels a copy in progress: it writes no more and raises Cancelled. Thread-safe."""
        self._given_up = True

    def check_wanted(self) -> None:
        """Raises Cancelled after `give_up`. Also for work on the finished copy."""
        if self._given_up:
            raise Cancelled("the copy of the state was cancelled")

    def copy(self, directory: Path, *, durably: bool = True) -> CopiedFile:
        """Writes a compacted copy to `directory`/data.mdb. LMDB does it without the GIL. Raises
        DiskFull, StorageFailed, Damaged, Cancelled; the caller then removes the directory."""
        # A full disk does not affect other data: only the copy is incomplete.
        what = "a copy of the state"
        found = hashlib.sha256()
        size = 0
        with full_disk_refuses(what):
            create_directory(directory)
            with create_file(directory / DATA_FILE) as file:
                # One thread compacts, the other one hashes.
                threads = ThreadPoolExecutor(2, "state-copy")
                with threads, self._compacted(threads) as parts:
                    for part in parts:
                        self.check_wanted()
                        hashed = _begin(threads, partial(found.update, part))
                        write_file(file, part, what)
                        hashed.result()
                        size += len(part)
                if durably:
                    sync_file(file.fileno(), what)
            if durably:
                sync_directory(directory)
        return CopiedFile(size, found.digest())

    @contextmanager
    def _compacted(self, threads: ThreadPoolExecutor) -> Iterator[Iterator[memoryview]]:
        """The compacted copy in parts, each valid until the next one is taken.

        LMDB compacts in one thread and writes in another. Both wait for each other after every row
        that has pages of its own. If LMDB is given a path, each of these writes goes directly to
        the disk. So it is given a pipe, and we write the data in larger parts.
        """
        reading, writing = os.pipe()
        with suppress(OSError):  # only an optimization
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

        def write() -> None:
            try:
                with lmdb_failures("copy of the state"):
                    self._environment.copyfd(writing, compact=True, txn=self._txn)
            finally:
                os.close(writing)

        with os.fdopen(reading, "rb", buffering=0) as pipe:
            try:
                compacting = _begin(threads, write)
            except StorageFailed:
                os.close(writing)
                raise
            try:
                yield _parts(pipe)
            finally:
                # Read the pipe to its end, also after an error, although that takes as long as the
                # rest of the copy: LMDB waits for the signal of a broken pipe, which Python
                # ignores.
                for _ in _parts(pipe):
                    pass
                wait([compacting])
        compacting.result()

    def close(self) -> None:
        """Releases the pages. Closing twice is fine."""
        closed, self._closed = self._closed, None
        if closed is not None:
            self._txn.abort()
            closed()


def _begin(threads: ThreadPoolExecutor, work: Callable[[], None]) -> Future[None]:
    """Submits work. Raises StorageFailed if the system cannot create a thread."""
    try:
        return threads.submit(work)
    except RuntimeError as error:
        raise StorageFailed(f"no thread for a copy of the state: {error}") from error


def _parts(pipe: io.FileIO) -> Iterator[memoryview]:
    """Reads a pipe in parts of PART_BYTES."""
    buffer = memoryview(bytearray(PART_BYTES))
    while True:
        filled = 0
        while filled < PART_BYTES and (count := pipe.readinto(buffer[filled:])):
            filled += count
        if filled:
            yield buffer[:filled]
        if filled < PART_BYTES:
            return


def inspect_copy(
    directory: Path, *, pause: Callable[[], None] | None = None
) -> tuple[Position, list[tuple[Digest, int]]]:
    """Returns the position of a copied state, and the (digest, size) of the blobs that it names.

    `pause` is called every few rows, for example to yield to other threads (`give_way`). If it
    raises, the reading ends. Raises Damaged, StorageFailed.
    """
    environment = open_read_only(directory, len(TABLES))
    try:
        tables = Tables(environment, create=False)
        applied = read_applied(environment, tables)
        with reading(environment, "a copied state") as txn:
            blobs = list(iterate_blobs(txn, tables, pause))
    finally:
        environment.close()
    return Position(LSN(applied.index), Term(applied.term)), blobs


GIVE_WAY_S = 0.0002


def give_way() -> None:
    """Yields the GIL to other threads. Without it, a thread that only computes delays each return
    of another thread from LMDB by 5 ms."""
    time.sleep(GIVE_WAY_S)
