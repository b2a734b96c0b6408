"""Durable files: everything that calls fsync outside of LMDB."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partition_replica.errors import StorageFailed


@contextmanager
def fatal_on_failure(what: str) -> Iterator[None]:
    """A failed write can't be retried: the kernel may have dropped the pages and said so once."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{what}: {error}") from error


def sync_file(descriptor: int, what: str) -> None:
    with fatal_on_failure(f"fsync of {what}"):
        os.fsync(descriptor)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    with fatal_on_failure(f"fsync of directory {path.name}"):
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_directory(path: Path) -> None:
    """Creates one directory, durably; that it exists already is fine."""
    with fatal_on_failure(f"creating directory {path.name}"):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            return
    sync_directory(path.parent)


def empty_directory(path: Path) -> None:
    """Removes what an earlier process left in a directory of temporary files."""
    make_directory(path)
    with fatal_on_failure(f"emptying {path.name}"):
        for child in path.iterdir():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()


class VolumeLock:
    """An exclusive flock on the volume: taken before anything else of it is opened."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor = -1

    def try_acquire(self) -> bool:
        """False where another process holds it."""
        with fatal_on_failure("opening the volume's lock file"):
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
