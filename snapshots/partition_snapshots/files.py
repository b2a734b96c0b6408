"""Files and directories: durable names, whole writes, contents that are checked."""

import ctypes
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from partition_snapshots.errors import SourceDamaged

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a directory that is no symbolic link."""


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
    """(5, 10) of "5.10.0-generic"."""
    found = re.match(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


TELLS_FAILURES = _release(os.uname().release) >= (5, 17)
"""Whether a sync of a file system tells of what could not be written: of contents from Linux 5.8
on, of names from 5.17. Where it doesn't, each file and each directory has to be synced, too."""


def sync_file(path: Path) -> None:
    """Makes a file's content, or the names in a directory, durable. Raises OSError."""
    _sync(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


class FileSystem:
    """The file system that a directory is on. Open it before what is to be synced is written: the
    system tells a descriptor of those failures of writing that came after its opening, each
    descriptor once, and not on every kernel: see `TELLS_FAILURES`."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self.directory = directory
        self._descriptor = os.open(directory, DIRECTORY & ~os.O_NOFOLLOW)

    def sync(self) -> None:
        """Makes everything on it durable. Raises OSError, also for what failed before this."""
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(self._descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def close(self) -> None:
        os.close(self._descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Writes all of it. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def checked_parts(path: Path, size: int, digest: str, part: int) -> Iterator[bytes]:
    """A source's content in parts. Raises SourceDamaged where it can't be read, and at its end
    where it is not of that size and SHA-256."""
    done, found = 0, hashlib.sha256()
    try:
        with path.open("rb", buffering=0) as source:
            while chunk := source.read(min(part, size + 1 - done)):
                found.update(chunk)
                done += len(chunk)
                yield chunk
    except OSError as error:
        raise SourceDamaged(
            f"{path} can't be read: {error.strerror or error}: the volume is damaged"
        ) from error
    if done != size or found.hexdigest() != digest:
        raise SourceDamaged(
            f"{path} is not what its name says: {done} bytes, SHA-256 {found.hexdigest()}: the "
            "volume is damaged"
        )


def check_source(path: Path, size: int) -> None:
    """Raises SourceDamaged unless it is a file of that size."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError as error:
        raise SourceDamaged(f"{path} is missing: the volume is damaged") from error
    except OSError as error:
        raise SourceDamaged(f"{path} can't be read: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        raise SourceDamaged(f"{path} is no file of {size} bytes: the volume is damaged")
