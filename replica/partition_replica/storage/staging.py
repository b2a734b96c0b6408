"""A file that arrives in parts."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partition_replica.errors import PayloadMismatch
from partition_replica.storage.files import (
    create_file,
    full_disk_refuses,
    make_directory,
    remove_file,
    sync_directory,
    sync_file,
    write_file,
)


class StagedFile:
    """Below staging/, in a directory of its own. It counts when it is whole (`check`) and durable
    (`make_durable`); one that broke off goes on at `received`, as long as the process lives."""

    def __init__(self, directory: Path, name: str, size: int, digest: bytes) -> None:
        """The directory must not exist, or be empty. Raises DiskFull, StorageFailed."""
        self.directory = directory
        self.received = 0
        self.complete = False
        self.broken = False
        """A write or a sync failed, so what is on the disk is not known: good for `remove` only,
        whoever heard of the failure."""

        self._path = directory / name
        self._size = size
        self._digest = digest
        self._hash = hashlib.sha256()
        with full_disk_refuses("a snapshot"):
            make_directory(directory)
            self._file = create_file(self._path)

    @property
    def lacks(self) -> int:
        """Bytes that are to come."""
        return self._size - self.received

    def append(self, chunk: bytes) -> None:
        """Raises PayloadMismatch for more bytes than announced, DiskFull, StorageFailed; then it is
        good for `remove` only."""
        with self._breaking(), full_disk_refuses("a snapshot"):
            if self.received + len(chunk) > self._size:
                raise PayloadMismatch(f"more than the announced {self._size} bytes came")
            write_file(self._file, chunk, "a snapshot")
        self._hash.update(chunk)
        self.received += len(chunk)

    def check(self) -> None:
        """Raises PayloadMismatch where it is not what was announced."""
        if self.received != self._size or self._hash.digest() != self._digest:
            raise PayloadMismatch(
                f"{self.received} of the announced {self._size} bytes came, or their SHA-256 is "
                f"not the announced {self._digest.hex()}"
            )

    def make_durable(self) -> None:
        """With its name. Again does nothing. Raises DiskFull, StorageFailed."""
        if self.complete:
            return
        # The system tells of a failed write once: a second sync would succeed.
        with self._breaking(), full_disk_refuses("a snapshot"):
            sync_file(self._file.fileno(), "a snapshot")
            self._file.close()
            sync_directory(self.directory)
        self.complete = True

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.broken = True
            raise

    def remove(self) -> None:
        """Forgets it, and its directory. Does nothing for what was moved away."""
        self._file.close()
        if remove_file(self._path, "a staged snapshot"):
            self.directory.rmdir()
