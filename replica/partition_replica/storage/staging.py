"""A staged file that is received in parts."""

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
    """A file below staging/, in a directory of its own. It is valid once it is complete (`check`)
    and durable (`make_durable`). An interrupted transfer may resume at offset `received` while the
    process lives."""

    def __init__(self, directory: Path, name: str, size: int, digest: bytes) -> None:
        """The directory must not exist, or be empty. Raises DiskFull, StorageFailed."""
        self.directory = directory
        self.received = 0
        self.complete = False
        self.broken = False
        """A write or an fsync failed, so the file's content on the disk is unknown. Only `remove`
        is allowed, also for a caller that did not receive the error."""

        self._path = directory / name
        self._size = size
        self._digest = digest
        self._hash = hashlib.sha256()
        with full_disk_refuses("a transferred state"):
            make_directory(directory)
            self._file = create_file(self._path)

    @property
    def lacks(self) -> int:
        """The number of bytes not received yet."""
        return self._size - self.received

    def append(self, chunk: bytes) -> None:
        """Raises PayloadMismatch for more bytes than announced, DiskFull, StorageFailed. After an
        error, only `remove` is allowed."""
        with self._breaking(), full_disk_refuses("a transferred state"):
            if self.received + len(chunk) > self._size:
                raise PayloadMismatch(f"received more than the announced {self._size} bytes")
            write_file(self._file, chunk, "a transferred state")
        self._hash.update(chunk)
        self.received += len(chunk)

    def check(self) -> None:
        """Raises PayloadMismatch if size or SHA-256 differ from the announced ones."""
        if self.received != self._size or self._hash.digest() != self._digest:
            raise PayloadMismatch(
                f"received {self.received} of the announced {self._size} bytes, or their SHA-256 "
                f"is not the announced {self._digest.hex()}"
            )

    def make_durable(self) -> None:
        """Makes content and name durable, once. Raises DiskFull, StorageFailed."""
        if self.complete:
            return
        # The kernel reports a failed write only once: a second fsync would succeed.
        with self._breaking(), full_disk_refuses("a transferred state"):
            sync_file(self._file.fileno(), "a transferred state")
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
        """Removes the file and its directory, unless they were moved away."""
        self._file.close()
        if remove_file(self._path, "a transferred state"):
            self.directory.rmdir()
