"""Reads untrusted files: they may be damaged, hostile, or still written to.

Each file is opened relative to its directory's descriptor, without following links, so the checked
file is the file that is read. Every problem raises an ImportRefused that names the file (`what`).
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from partition_replica.errors import ImportRefused

CHUNK_BYTES = 1024 * 1024

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

Identity = tuple[int, ...]
"""Fields of a file's status that change if it is written to or replaced."""


@contextmanager
def refused_on_failure(what: str) -> Iterator[None]:
    """Turns an OSError of the source into ImportRefused. The import then undoes its writes."""
    try:
        yield
    except OSError as error:
        raise ImportRefused(
            f"{what} cannot be read ({error.strerror or error}): check that it exists, that this "
            "user may read it, and that its disk has no errors"
        ) from error


def changed(what: str) -> ImportRefused:
    return ImportRefused(
        f"{what} changed during the import: stop the program that writes to it, then import again"
    )


def open_at(directory: int, name: str | bytes, what: str) -> tuple[int, os.stat_result]:
    """Opens a regular file: (descriptor, stat). Raises ImportRefused for anything else."""
    # Checked first: opening a device may have effects, and opening a pipe may block.
    mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    if stat.S_ISREG(mode):
        descriptor = os.open(name, _FILE, dir_fd=directory)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            return descriptor, found
        os.close(descriptor)
        mode = found.st_mode
    raise ImportRefused(f"{what} is {kind_of(mode)}; only regular files are imported")


def read_unchanged(
    directory: int, name: str | bytes, what: str, size: int, identity: Identity
) -> Iterator[bytes]:
    """A file's content in chunks. Raises ImportRefused if the file's size or identity differs from
    the given ones, before or after it is read."""
    with refused_on_failure(what):
        descriptor, found = open_at(directory, name, what)
        try:
            left = size
            while left and (chunk := os.read(descriptor, min(CHUNK_BYTES, left))):
                left -= len(chunk)
                yield chunk
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    if left or {identity_of(found), identity_of(after)} != {identity}:
        raise changed(what)


def open_regular(path: Path, what: str) -> tuple[int, os.stat_result]:
    """Opens a regular file by its path, not a link: (descriptor, stat). Raises ImportRefused."""
    with refused_on_failure(what):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return open_at(directory, path.name, what)
        finally:
            os.close(directory)


def read_regular(path: Path, what: str, bytes_max: int) -> bytes:
    """The content of a small file. Raises ImportRefused."""
    descriptor, found = open_regular(path, what)
    with open(descriptor, "rb") as file:
        if found.st_size > bytes_max:
            raise ImportRefused(
                f"{what} has {found.st_size} bytes; at most {bytes_max} are allowed: check that "
                "it is the right file"
            )
        with refused_on_failure(what):
            return file.read()


def identity_of(found: os.stat_result) -> Identity:
    return (
        found.st_dev,
        found.st_ino,
        found.st_mode,
        found.st_size,
        found.st_mtime_ns,
        found.st_ctime_ns,
    )


def kind_of(mode: int) -> str:
    kinds = {
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFREG: "a file",
    }
    return kinds.get(stat.S_IFMT(mode), "a device")
