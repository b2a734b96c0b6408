"""Checks blobs that were read from a store, and writes them to files."""

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
    """Turns the OSError of a full disk into StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"{target}: the file system is full; free space and retry") from error
        raise


def check_digest(digest: bytes, actual: bytes) -> None:
    """Raises SnapshotDamaged if the SHA-256 `actual` is not `digest`."""
    if actual != digest:
        raise SnapshotDamaged(f"blob {digest.hex()} is changed: its SHA-256 is {actual.hex()}")


def check_blob(digest: bytes, size: int, data: bytes) -> None:
    """Raises SnapshotDamaged if `data` has another size or SHA-256."""
    if len(data) != size:
        raise SnapshotDamaged(f"blob {digest.hex()} has {len(data)} bytes instead of {size}")
    check_digest(digest, hashlib.sha256(data).digest())


@contextmanager
def keeping(target: Path, *, sync: bool) -> Iterator[int]:
    """Yields a descriptor to write the new file `target`. If the body fails, the file is deleted.

    With `sync`, the file gets its name durably when the body succeeds, and the body must fsync the
    content. Without `sync`, the file has its name from the start, and the caller syncs the whole
    file system later. Raises StoreFull, OSError."""
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
    """Checks a blob in memory and writes it. Raises SnapshotDamaged, StoreFull, OSError."""
    check_blob(digest, size, data)
    with keeping(target, sync=sync) as descriptor:
        write_all(descriptor, data)
        if sync:
            os.fsync(descriptor)
