"""Durable files: all fsyncs outside of LMDB."""

import errno
import fcntl
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from partition_snapshots import files
from partition_snapshots.files import FileSystem

from partition_replica.errors import DiskFull, StorageFailed

FULL = (errno.ENOSPC, errno.EDQUOT)

FILL_BYTES = 1024**2
"""Zeros per write of `fill_file`."""


class Disk:
    """The calls that change the disk, outside of LMDB. A test replaces them to record them and to
    simulate a power failure (tests/support/power_loss.py)."""

    def create(self, path: Path) -> io.FileIO:
        """Creates a file and opens it for writing. Raises FileExistsError."""
        return path.open("xb", buffering=0)

    def write(self, file: io.FileIO, data: memoryview) -> int:
        """Writes a part of the data; returns the number of bytes written."""
        return file.write(data) or 0

    def fill_from(self, file: io.FileIO, move: Callable[[int], None]) -> None:
        """Has `move` write to the file's descriptor."""
        move(file.fileno())

    def fill(self, descriptor: int, start: int, end: int) -> None:
        """Writes zeros to [start, end) of a file. Space that is only reserved would be slower: the
        first write to each part of it changes the file system's metadata, too."""
        while start < end:
            start += os.pwrite(descriptor, bytes(min(FILL_BYTES, end - start)), start)

    def write_durably(self, descriptor: int, parts: Sequence[bytes], offset: int) -> int:
        """Writes a part of the data to a file that was opened with O_DSYNC: what is written is
        durable. Returns the number of bytes written."""
        return os.pwritev(descriptor, parts, offset)

    def sync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_file_system(self, file_system: FileSystem) -> None:
        file_system.sync()

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def remove(self, path: Path) -> None:
        path.unlink()

    def remove_tree(self, path: Path) -> None:
        shutil.rmtree(path)


disk = Disk()


@contextmanager
def fatal_on_failure(what: str) -> Iterator[None]:
    """Turns an OSError into StorageFailed. A failed write or fsync must not be retried: the kernel
    may have dropped the pages, and it reports the error only once."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{what}: {error}") from error


@contextmanager
def full_disk_refuses(what: str) -> Iterator[None]:
    """Turns StorageFailed into DiskFull if the disk is full. Only for staged files: the caller
    abandons the file, and no other data is affected."""
    try:
        yield
    except StorageFailed as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL:
            raise DiskFull(
                f"the volume is too full for {what}: free space or grow the volume"
            ) from error
        raise


def create_file(path: Path) -> io.FileIO:
    with fatal_on_failure(f"creating {path.name}"):
        return disk.create(path)


def write_file(file: io.FileIO, data: bytes | memoryview, what: str) -> None:
    """Writes all data; it is not durable until `sync_file`."""
    view = memoryview(data)
    with fatal_on_failure(f"writing {what}"):
        while view:
            view = view[disk.write(file, view) :]


def fill_from(file: io.FileIO, move: Callable[[int], None], what: str) -> None:
    """Has `move` write to a file's descriptor, at its position; not durable until `sync_file`."""
    with fatal_on_failure(f"writing {what}"):
        disk.fill_from(file, move)


def fill_file(descriptor: int, start: int, end: int, what: str) -> None:
    """Writes zeros to [start, end) of a file; not durable until `sync_file`."""
    with fatal_on_failure(f"writing {what}"):
        disk.fill(descriptor, start, end)


def write_durably(descriptor: int, parts: Sequence[bytes], offset: int, what: str) -> None:
    """Writes all parts, one after the other, to a file that was opened with O_DSYNC. They are
    durable when this returns."""
    with fatal_on_failure(f"writing {what}"):
        written = disk.write_durably(descriptor, parts, offset)
        size = sum(map(len, parts))
        while written < size:  # a full disk or a signal may cut a write short
            rest = b"".join(parts)[written:]
            written += disk.write_durably(descriptor, (rest,), offset + written)


def sync_file(descriptor: int, what: str) -> None:
    with fatal_on_failure(f"fsync of {what}"):
        disk.sync(descriptor)


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable."""
    with fatal_on_failure(f"fsync of directory {path.name}"):
        disk.sync_directory(path)


def open_file_system(directory: Path) -> FileSystem:
    """Opens the file system of a directory. It must be open before the files to sync are written,
    because it reports only the write errors that occur later."""
    with fatal_on_failure(f"opening {directory.name}"):
        return FileSystem(directory)


def sync_file_system(file_system: FileSystem, what: str, written: Iterable[Path] = ()) -> None:
    """Makes all files of the file system durable, contents and names. It is faster than an fsync
    per file and directory if there are many small files. `written`: the files or directories to
    fsync one by one on a system whose sync does not report write errors."""
    with fatal_on_failure(f"sync of {what}"):
        disk.sync_file_system(file_system)
        if not files.TELLS_FAILURES:
            for path in written:
                files.sync_file(path)


def create_directory(path: Path) -> None:
    """Creates a directory; it is not durable until `sync_directory` of its parent."""
    with fatal_on_failure(f"creating directory {path.name}"):
        disk.make_directory(path)


def make_directory(path: Path) -> None:
    """Creates a directory, durably, if it does not exist."""
    with fatal_on_failure(f"creating directory {path.name}"), suppress(FileExistsError):
        disk.make_directory(path)
    # Also if it exists: the process that created it may have ended before its fsync.
    sync_directory(path.parent)


def move_file(source: Path, target: Path, what: str) -> None:
    """Renames atomically and replaces the target; not durable until `sync_directory`."""
    with fatal_on_failure(f"renaming {what} into place"):
        disk.replace(source, target)


def remove_file(path: Path, what: str) -> bool:
    """Removes a file; returns False if it does not exist. A power failure may bring it back."""
    with fatal_on_failure(f"removing {what}"):
        try:
            disk.remove(path)
        except FileNotFoundError:
            return False
        return True


def empty_directory(path: Path) -> None:
    """Creates a directory, or removes everything from it."""
    make_directory(path)
    with fatal_on_failure(f"emptying {path.name}"):
        for child in path.iterdir():
            if child.is_dir() and not child.is_symlink():
                disk.remove_tree(child)
            else:
                disk.remove(child)


class VolumeLock:
    """An exclusive flock on the volume. It must be acquired before other files are opened."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "lock"
        self._descriptor = -1

    def try_acquire(self) -> bool:
        """Returns False if another process holds the lock."""
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
