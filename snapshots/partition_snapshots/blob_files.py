"""Blobs that were read from a store: checked, and written to files."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from partition_snapshots.errors import SnapshotDamaged, StoreFull
from partition_snapshots.files import sync_directory, write_all

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def full_disk(target: Path) -> Iterator[None]:
    """Turns a full disk into StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{target}: no room is left on its file system") from error
        raise


def check_digest(digest: bytes, actual: bytes) -> None:
    """Raises SnapshotDamaged."""
    if actual != digest:
        raise SnapshotDamaged(f"blob {digest.hex()} is changed: its SHA-256 is {actual.hex()}")


def check_blob(digest: bytes, size: int, data: bytes) -> None:
    """Raises SnapshotDamaged."""
    if len(data) != size:
        raise SnapshotDamaged(f"blob {digest.hex()} has {len(data)} bytes instead of {size}")
    check_digest(digest, hashlib.sha256(data).digest())


@contextmanager
def keeping(target: Path, *, sync: bool) -> Iterator[int]:
    """A descriptor to write `target` with, which is new; nothing is left when the body fails. With
    `sync` it gets its name when the body succeeds, durably; without, it has it before, and is
    what whoever syncs everything later relies on. The body syncs the content. Raises StoreFull,
    OSError."""
    written = f"{target}.partial" if sync else str(target)
    with full_disk(target):
        descriptor = os.open(written, _CREATE | (os.O_TRUNC if sync else os.O_EXCL), 0o666)
        try:
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            if sync:
                os.rename(written, target)
                sync_directory(target.parent)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(written)
            raise


def keep_blob(digest: bytes, size: int, data: bytes, target: Path, *, sync: bool) -> None:
    """Checks a blob that is in memory and writes it. Raises SnapshotDamaged, StoreFull, OSError."""
    check_blob(digest, size, data)
    with keeping(target, sync=sync) as descriptor:
        write_all(descriptor, data)
        if sync:
            os.fsync(descriptor)
