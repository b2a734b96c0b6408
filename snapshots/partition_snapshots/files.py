"""Helpers for files and directories: durable names, complete writes, checked contents."""

import ctypes
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from partition_snapshots.errors import SourceDamaged

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory; a symbolic link is refused."""


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable. Raises OSError."""
    _sync(path, DIRECTORY & ~os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _release(text: str) -> tuple[int, ...]:
    """Parses a kernel release: (5, 10) for "5.10.0-generic"."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


TELLS_FAILURES = _release(os.uname().release) >= (5, 17)
"""Whether syncfs reports failed writes. Linux reports those of contents since 5.8, and those of
names since 5.17. On older kernels, each file and each directory must be synced as well."""


def sync_file(path: Path) -> None:
    """Makes a file's content, or the names in a directory, durable. Raises OSError."""
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


class FileSystem:
    """The file system of a directory. Open it before you write the files to sync. The kernel
    reports a failed write to a descriptor only if that was opened before, only once per descriptor,
    and not in all versions: see `TELLS_FAILURES`."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self.directory = directory
        self._descriptor = os.open(directory, DIRECTORY & ~os.O_NOFOLLOW)

    def sync(self) -> None:
        """Makes everything on the file system durable. Raises OSError, also for a write that failed
        since this was opened."""
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(self._descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        os.close(self._descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of `data`. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def checked_parts(path: Path, size: int, digest: str, part: int) -> Iterator[bytes]:
    """Yields a source's content in parts. Raises SourceDamaged if the file can't be read, or at its
    end if it has another size or SHA-256."""
    done, found = 0, hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as source:
            while chunk := source.read(min(part, size + 1 - done)):
                found.update(chunk)
                done += len(chunk)
                yield chunk
    except OSError as error:
        raise SourceDamaged(
            f"{path} can't be read: {error.strerror or error}; the volume is damaged"
        ) from error
    if done != size or found.hexdigest() != digest:
        raise SourceDamaged(
            f"{path} has {done} bytes and SHA-256 {found.hexdigest()} instead of {size} and "
            f"{digest}; the volume is damaged"
        )


def check_source(path: Path, size: int) -> None:
    """Raises SourceDamaged unless `path` is a regular file of `size` bytes."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError as error:
        raise SourceDamaged(f"{path} is missing; the volume is damaged") from error
    except OSError as error:
        raise SourceDamaged(f"{path} can't be read: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        raise SourceDamaged(f"{path} is not a file of {size} bytes; the volume is damaged")
