"""A store in a directory: on the replica's volume, where blobs are hard links, or anywhere.

Files are written aside (`staging/`, under a lock that dies with the writer), synced, and renamed.
No symbolic link inside of the store is followed. Short calls of the file system are made on the
caller's thread: they cost less than a change of threads; contents are read, written and synced on
others.
"""

import asyncio
import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from partition_snapshots.errors import (
    InvalidDestination,
    SnapshotDamaged,
    SnapshotError,
    SnapshotNotFound,
    SourceDamaged,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.store import OBJECTS, ObjectInfo, check_name

STAGING = "staging"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LINKED = {errno.ELOOP, errno.ENOTDIR}
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP}

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryStore:
    """The directory is made by the first write; without it the store is empty."""

    def __init__(self, path: Path, limits: SnapshotLimits) -> None:
        self.description = f"directory {path}"
        self._path = path
        self._limits = limits
        self._folders: dict[str, int] = {}
        self._serial = itertools.count()
        self._token = secrets.token_hex(8)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Turns the system's errors into the store's."""
        try:
            yield
        except OSError as error:
            raise self._translated(what, error) from error

    def _translated(self, what: str, error: OSError) -> SnapshotError:
        text = f"{self.description}: {what}: {error.strerror or error}"
        if error.errno in _FULL:
            return StoreFull(f"{text}: free some room, or delete snapshots")
        if error.errno in _LINKED:
            return SnapshotDamaged(f"{text}: there is a symbolic link or a file in its place")
        if error.errno in _REFUSED:
            return StoreRefused(f"{text}: give this user the right to write there")
        return StoreUnavailable(text)

    # --- folders -------------------------------------------------------------------------------

    def _folder(self, name: str, *, create: bool) -> int | None:
        """A descriptor of a folder below the root ("" for the root itself); None where it is
        missing and not to be made. A new one is durable."""
        known = self._folders.get(name)
        if known is not None:
            return known
        if not name:
            found = self._root(create=create)
        else:
            parent, _, last = name.rpartition("/")
            above = self._folder(parent, create=create)
            found = None if above is None else self._below(above, last, create=create)
        if found is not None:
            kept = self._folders.setdefault(name, found)
            if kept != found:
                # Another thread opened it, too.
                os.close(found)
            return kept
        return None

    def _root(self, *, create: bool) -> int | None:
        if create and not self._path.is_dir():
            try:
                self._path.mkdir(mode=0o700)
            except FileNotFoundError as error:
                raise InvalidDestination(
                    f"{self.description}: its parent does not exist; make it first"
                ) from error
            except FileExistsError:
                pass
            sync_directory(self._path.parent)
        try:
            # How the directory is reached is the caller's affair: only what is inside counts.
            return os.open(self._path, _DIRECTORY & ~os.O_NOFOLLOW)
        except FileNotFoundError:
            return None

    @staticmethod
    def _below(above: int, name: str, *, create: bool) -> int | None:
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
                os.fsync(above)
        try:
            return os.open(name, _DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            return None

    def _place(self, name: str, *, create: bool) -> tuple[int | None, str]:
        folder, _, last = check_name(name).rpartition("/")
        return self._folder(folder, create=create), last

    # --- writing -------------------------------------------------------------------------------

    async def put_bytes(self, name: str, data: bytes, *, create: bool = False) -> bool:
        return await asyncio.to_thread(self._put_bytes, name, data, create)

    def _put_bytes(self, name: str, data: bytes, create: bool) -> bool:
        with self._failures(f"writing {name}"):
            folder, last = self._place(name, create=True)
            assert folder is not None
            with self._aside() as (staging, temporary, descriptor):
                _write(descriptor, data)
                os.fsync(descriptor)
                if not self._move(staging, temporary, folder, last, create):
                    return False
            if not name.startswith(OBJECTS):
                os.fsync(folder)
            return True

    @contextmanager
    def _aside(self) -> Iterator[tuple[int, str, int]]:
        """(staging folder, name, descriptor) of a new file, locked while it is being written;
        whatever happens, its name is gone afterwards."""
        staging = self._folder(STAGING, create=True)
        assert staging is not None
        temporary, descriptor = self._new_file(staging)
        try:
            yield staging, temporary, descriptor
        finally:
            os.close(descriptor)
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=staging)

    def _new_file(self, staging: int) -> tuple[str, int]:
        while True:
            temporary = f"{self._token}-{next(self._serial)}"
            descriptor = os.open(temporary, _CREATE, 0o600, dir_fd=staging)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                return temporary, descriptor
            # A sweep came between the two calls and took it for a dead writer's.
            os.close(descriptor)

    @staticmethod
    def _move(staging: int, temporary: str, folder: int, last: str, create: bool) -> bool:
        if not create:
            os.rename(temporary, last, src_dir_fd=staging, dst_dir_fd=folder)
            return True
        try:
            os.link(temporary, last, src_dir_fd=staging, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            return False
        return True

    async def put_file(self, name: str, path: Path, size: int) -> int:
        with self._failures(f"writing {name}"):
            _check_source(path, size)
            folder, last = self._place(name, create=True)
            assert folder is not None
            try:
                self._link(path, folder, last)
                return 0
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
        await asyncio.to_thread(self._copy, name, path, size)
        return size

    def _link(self, path: Path, folder: int, last: str) -> None:
        try:
            os.link(path, last, dst_dir_fd=folder, follow_symlinks=False)
            return
        except FileExistsError:
            there = os.stat(last, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(there, path.stat(follow_symlinks=False)):
                return
        staging = self._folder(STAGING, create=True)
        temporary = f"{self._token}-{next(self._serial)}"
        os.link(path, temporary, dst_dir_fd=staging, follow_symlinks=False)
        try:
            os.rename(temporary, last, src_dir_fd=staging, dst_dir_fd=folder)
        except OSError:
            os.unlink(temporary, dir_fd=staging)
            raise

    def _copy(self, name: str, path: Path, size: int) -> None:
        with self._failures(f"writing {name}"):
            folder, last = self._place(name, create=True)
            assert folder is not None
            with path.open("rb") as source, self._aside() as (staging, temporary, descriptor):
                written, found = 0, hashlib.sha256()
                while chunk := source.read(min(self._limits.part_bytes, size + 1 - written)):
                    _write(descriptor, chunk)
                    found.update(chunk)
                    written += len(chunk)
                if written != size or found.hexdigest() != last:
                    raise SourceDamaged(
                        f"{path} is not what its name says: {written} bytes, SHA-256 "
                        f"{found.hexdigest()}"
                    )
                os.fsync(descriptor)
                self._move(staging, temporary, folder, last, create=False)

    async def flush(self) -> None:
        await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        with self._failures("making objects durable"):
            objects = self._folder(OBJECTS.rstrip("/"), create=False)
            if objects is None:
                return
            # Those of others, too: a process that was killed may have left names in memory only.
            for shard in sorted(os.listdir(objects)):
                descriptor = os.open(shard, _DIRECTORY, dir_fd=objects)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            os.fsync(objects)

    # --- reading -------------------------------------------------------------------------------

    def _open(self, name: str) -> int:
        folder, last = self._place(name, create=False)
        try:
            if folder is None:
                raise FileNotFoundError
            descriptor = os.open(last, _READ, dir_fd=folder)
        except FileNotFoundError as error:
            raise SnapshotNotFound(f"{self.description}: there is no {name}") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SnapshotDamaged(f"{self.description}: {name} is no file")
        return descriptor

    async def get(self, name: str, size_max: int | None = None) -> bytes:
        most = self._limits.object_get_bytes_max if size_max is None else size_max
        return await asyncio.to_thread(self._get, name, most)

    def _get(self, name: str, most: int) -> bytes:
        with self._failures(f"reading {name}"):
            with os.fdopen(self._open(name), "rb") as file:
                data = file.read(most + 1)
            if len(data) > most:
                raise SnapshotDamaged(f"{self.description}: {name} has more than {most} bytes")
            return data

    async def get_many(self, wanted: Sequence[tuple[str, int]]) -> Sequence[bytes | SnapshotError]:
        return await asyncio.to_thread(lambda: [self._get_or_why(*one) for one in wanted])

    def _get_or_why(self, name: str, most: int) -> bytes | SnapshotError:
        try:
            return self._get(name, most)
        except (SnapshotNotFound, SnapshotDamaged) as error:
            return error

    async def stream(self, name: str, size: int) -> AsyncGenerator[bytes, None]:
        with self._failures(f"reading {name}"):
            descriptor = self._open(name)
            try:
                actual = os.fstat(descriptor).st_size
                if actual != size:
                    raise SnapshotDamaged(
                        f"{self.description}: {name} has {actual} bytes instead of {size}"
                    )
                part = self._limits.part_bytes
                while chunk := await asyncio.to_thread(os.read, descriptor, part):
                    yield chunk
            finally:
                os.close(descriptor)

    async def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        folder = prefix.rstrip("/")
        names = [folder]
        with self._failures(f"listing {prefix}"):
            if folder == OBJECTS.rstrip("/"):
                above = self._folder(folder, create=False)
                shards = [] if above is None else sorted(os.listdir(above))
                names = [f"{folder}/{shard}" for shard in shards]
            for name in names:
                for info in self._entries(name):
                    yield info

    def _entries(self, folder: str) -> Sequence[ObjectInfo]:
        descriptor = self._folder(folder, create=False)
        if descriptor is None:
            return []
        found = []
        for last in os.listdir(descriptor):
            name = f"{folder}/{last}"
            with suppress(InvalidDestination, FileNotFoundError):
                info = self._info(check_name(name), descriptor, last)
                if info is not None:
                    found.append(info)
        return found

    @staticmethod
    def _info(name: str, folder: int, last: str) -> ObjectInfo | None:
        found = os.stat(last, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(found.st_mode):
            return None
        return ObjectInfo(name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    async def head(self, name: str) -> ObjectInfo | None:
        with self._failures(f"looking at {name}"):
            folder, last = self._place(name, create=False)
            if folder is None:
                return None
            try:
                return self._info(name, folder, last)
            except FileNotFoundError:
                return None

    # --- removing ------------------------------------------------------------------------------

    async def delete(self, names: Iterable[str]) -> None:
        await asyncio.to_thread(self._delete, tuple(names))

    def _delete(self, names: Sequence[str]) -> None:
        touched: set[int] = set()
        for name in names:
            with self._failures(f"removing {name}"):
                folder, last = self._place(name, create=False)
                if folder is None:
                    continue
                with suppress(FileNotFoundError):
                    os.unlink(last, dir_fd=folder)
                touched.add(folder)
        with self._failures("making a removal durable"):
            for folder in touched:
                os.fsync(folder)

    async def sweep(self) -> int:
        return await asyncio.to_thread(self._sweep)

    def _sweep(self) -> int:
        removed = 0
        with self._failures("removing what writers left"):
            staging = self._folder(STAGING, create=False)
            for name in [] if staging is None else os.listdir(staging):
                if name.startswith(self._token):
                    continue
                with suppress(FileNotFoundError, BlockingIOError):
                    descriptor = os.open(name, _READ, dir_fd=staging)
                    try:
                        # A living writer holds it; the lock of a dead one is gone with it.
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        os.unlink(name, dir_fd=staging)
                        removed += 1
                    finally:
                        os.close(descriptor)
        return removed

    async def close(self) -> None:
        for descriptor in self._folders.values():
            os.close(descriptor)
        self._folders.clear()


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable. Raises OSError."""
    descriptor = os.open(path, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file_system(path: Path) -> None:
    """Makes everything on a path's file system durable. Raises OSError."""
    descriptor = os.open(path, _DIRECTORY & ~os.O_NOFOLLOW)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(descriptor):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _check_source(path: Path, size: int) -> None:
    """Raises SourceDamaged unless it is a file of that size."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError as error:
        raise SourceDamaged(f"{path} is missing: the volume is damaged") from error
    if not stat.S_ISREG(found.st_mode) or found.st_size != size:
        raise SourceDamaged(f"{path} is no file of {size} bytes: the volume is damaged")
