"""A store in a directory: on the replica's volume, where blobs are hard links, or elsewhere.

Each file is written in `staging/`, under a lock that ends with its writer. Then it is synced and
renamed. Symbolic links inside the store are not followed. Short calls of the file system run on the
caller's thread, because they cost less than a change of threads. Other threads read, write and sync
contents.
"""

import asyncio
import errno
import fcntl
import itertools
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from partition_snapshots.errors import (
    InvalidDestination,
    SnapshotDamaged,
    SnapshotError,
    SnapshotNotFound,
    StoreFull,
    StoreRefused,
    StoreUnavailable,
)
from partition_snapshots.files import (
    DIRECTORY,
    check_source,
    checked_parts,
    sync_directory,
    write_all,
)
from partition_snapshots.limits import SnapshotLimits
from partition_snapshots.parallel import run_to_end
from partition_snapshots.store import (
    OBJECTS,
    SNAPSHOTS,
    ObjectInfo,
    Told,
    always,
    check_name,
    untold,
)

STAGING = "staging"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_LINKED = {errno.ELOOP, errno.ENOTDIR}
_NO_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP}
_UNREADABLE = {errno.EIO, errno.EBADMSG, errno.EUCLEAN}
"""Errors of a disk or file system that has lost content. A retry does not help."""

SYNC_BYTES = 64 << 20
"""A long copy is synced each time after this many bytes, which then count as done."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryStore:
    """See the module. The first write creates the directory; before, the store is empty."""

    def __init__(self, path: Path, limits: SnapshotLimits) -> None:
        self.description = f"directory {path}"
        self._path = path
        self._limits = limits
        self._folders: dict[str, int] = {}
        self._serial = itertools.count()
        self._token = secrets.token_hex(8)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        """Turns OSErrors into the store's errors."""
        try:
            yield
        except OSError as error:
            raise self._translated(what, error) from error

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """As `_failures`, for a read of content. Lost content becomes SnapshotDamaged."""
        with self._failures(f"reading {name}"):
            try:
                yield
            except OSError as error:
                if error.errno not in _UNREADABLE:
                    raise
                raise SnapshotDamaged(
                    f"{self.description}: {name} can't be read: {error.strerror or error}"
                ) from error

    def _translated(self, what: str, error: OSError) -> SnapshotError:
        text = f"{self.description}: {what}: {error.strerror or error}"
        if error.errno in _FULL:
            return StoreFull(f"{text}; free space, or delete snapshots")
        if error.errno in _LINKED:
            return SnapshotDamaged(f"{text}; a symbolic link or a file is in its place: remove it")
        if error.errno in _REFUSED:
            return StoreRefused(f"{text}; give this user permission to read and write there")
        return StoreUnavailable(text)

    # --- directories ---------------------------------------------------------------------------

    def _folder(self, name: str, *, create: bool) -> int | None:
        """Returns a descriptor of a directory below the root ("" is the root), or None if it is
        missing and `create` is False. A new directory is durable."""
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
                    f"{self.description}: its parent does not exist; create the parent first"
                ) from error
            except FileExistsError:
                pass
        if create:
            # Sync the parent even if the directory exists: its creator may have been killed before
            # the sync. If we may not open the parent, another user created the directory.
            with suppress(PermissionError):
                sync_directory(self._path.parent)
        try:
            # The path to the root may contain symbolic links; only those inside are refused.
            return os.open(self._path, DIRECTORY & ~os.O_NOFOLLOW)
        except FileNotFoundError:
            return None

    @staticmethod
    def _below(above: int, name: str, *, create: bool) -> int | None:
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=above)
            # Sync even if it exists: its creator may have been killed before the sync.
            os.fsync(above)
        try:
            return os.open(name, DIRECTORY, dir_fd=above)
        except FileNotFoundError:
            return None

    def _place(self, name: str, *, create: bool) -> tuple[int | None, str]:
        folder, _, last = check_name(name).rpartition("/")
        return self._folder(folder, create=create), last

    # --- writing -------------------------------------------------------------------------------

    async def put_bytes(self, name: str, data: bytes, *, create: bool = False) -> bool:
        return await run_to_end(self._put_bytes, name, data, create)

    def _put_bytes(self, name: str, data: bytes, create: bool) -> bool:
        with self._failures(f"writing {name}"):
            folder, last = self._place(name, create=True)
            assert folder is not None
            with self._aside() as (staging, temporary, descriptor):
                write_all(descriptor, data)
                os.fsync(descriptor)
                moved = self._move(staging, temporary, folder, last, create)
            if not name.startswith(OBJECTS):
                # Sync even if the name existed already: see `_below`.
                os.fsync(folder)
            return moved

    @contextmanager
    def _aside(self) -> Iterator[tuple[int, str, int]]:
        """Yields (staging directory, name, descriptor) of a new file, which is locked while it is
        written. Deletes that name afterwards, also after an error."""
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
            # A sweep ran between the two calls and deleted the file as one of a dead writer.
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

    async def put_file(
        self, name: str, path: Path, size: int, sent: Told = untold, check: bool = False
    ) -> int:
        loop = asyncio.get_running_loop()

        def told(done: int) -> None:
            loop.call_soon_threadsafe(sent, done)

        check_source(path, size)
        if check:
            await run_to_end(self._check, name, path, size, told)
        with self._failures(f"writing {name}"):
            folder, last = self._place(name, create=True)
            assert folder is not None
            try:
                self._link(path, folder, last)
                if not check:
                    sent(size)
                return 0
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
        if check:
            sent(-size)
        await run_to_end(self._copy, name, path, size, told)
        return size

    def _check(self, name: str, path: Path, size: int, told: Told) -> None:
        """Raises SourceDamaged unless the file has the size and digest of the object `name`."""
        for chunk in checked_parts(path, size, name.rpartition("/")[2], self._limits.part_bytes):
            told(len(chunk))

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

    def _copy(self, name: str, path: Path, size: int, told: Told) -> None:
        with self._failures(f"writing {name}"):
            folder, last = self._place(name, create=True)
            assert folder is not None
            with self._aside() as (staging, temporary, descriptor):
                unsynced = 0
                for chunk in checked_parts(path, size, last, self._limits.part_bytes):
                    write_all(descriptor, chunk)
                    unsynced += len(chunk)
                    if unsynced >= SYNC_BYTES:
                        os.fsync(descriptor)
                        told(unsynced)
                        unsynced = 0
                os.fsync(descriptor)
                self._move(staging, temporary, folder, last, create=False)
                told(unsynced)

    async def flush(self) -> None:
        await run_to_end(self._flush)

    def _flush(self) -> None:
        with self._failures("making objects durable"):
            # Also for files of other processes: one may have been killed before it synced its
            # directories.
            objects = self._folder(OBJECTS.rstrip("/"), create=False)
            if objects is not None:
                for shard in sorted(os.listdir(objects)):
                    descriptor = os.open(shard, DIRECTORY, dir_fd=objects)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                os.fsync(objects)
            for name in (SNAPSHOTS.rstrip("/"), ""):
                folder = self._folder(name, create=False)
                if folder is not None:
                    os.fsync(folder)

    # --- reading -------------------------------------------------------------------------------

    def _open(self, name: str) -> int:
        folder, last = self._place(name, create=False)
        try:
            if folder is None:
                raise FileNotFoundError
            descriptor = os.open(last, _READ, dir_fd=folder)
        except FileNotFoundError as error:
            raise SnapshotNotFound(f"{self.description}: {name} does not exist") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise SnapshotDamaged(f"{self.description}: {name} is not a regular file")
        return descriptor

    async def get(self, name: str, size_max: int | None = None) -> bytes:
        most = self._limits.object_get_bytes_max if size_max is None else size_max
        return await run_to_end(self._get, name, most)

    def _get(self, name: str, most: int) -> bytes:
        with self._reading(name):
            with os.fdopen(self._open(name), "rb", buffering=0) as file:
                data = file.read(most + 1) or b""
                # A read may return fewer bytes than the file has.
                while len(data) <= most and (more := file.read(most + 1 - len(data))):
                    data += more
            if len(data) > most:
                raise SnapshotDamaged(f"{self.description}: {name} has more than {most} bytes")
            return data

    async def get_many(self, wanted: Sequence[tuple[str, int]]) -> Sequence[bytes | SnapshotError]:
        return await run_to_end(lambda: [self._get_or_why(*one) for one in wanted])

    def _get_or_why(self, name: str, most: int) -> bytes | SnapshotError:
        try:
            return self._get(name, most)
        except (SnapshotNotFound, SnapshotDamaged) as error:
            return error

    async def stream(self, name: str, size: int) -> AsyncGenerator[bytes, None]:
        with self._reading(name):
            descriptor = self._open(name)
            try:
                actual = os.fstat(descriptor).st_size
                if actual != size:
                    raise SnapshotDamaged(
                        f"{self.description}: {name} has {actual} bytes instead of {size}"
                    )
                part = self._limits.part_bytes
                while chunk := await run_to_end(os.read, descriptor, part):
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
        with self._failures(f"reading the metadata of {name}"):
            folder, last = self._place(name, create=False)
            if folder is None:
                return None
            try:
                return self._info(name, folder, last)
            except FileNotFoundError:
                return None

    # --- deleting ------------------------------------------------------------------------------

    async def delete(self, names: Iterable[str], may: Callable[[], None] = always) -> None:
        await run_to_end(self._delete, tuple(names), may)

    def _delete(self, names: Sequence[str], may: Callable[[], None]) -> None:
        touched: set[int] = set()
        for name in names:
            with self._failures(f"deleting {name}"):
                folder, last = self._place(name, create=False)
                if folder is None:
                    continue
                may()
                with suppress(FileNotFoundError):
                    os.unlink(last, dir_fd=folder)
                touched.add(folder)
        with self._failures("making a deletion durable"):
            for folder in touched:
                os.fsync(folder)

    async def sweep(self) -> int:
        return await run_to_end(self._sweep)

    def _sweep(self) -> int:
        removed = 0
        with self._failures("deleting unfinished files of dead writers"):
            staging = self._folder(STAGING, create=False)
            for name in [] if staging is None else os.listdir(staging):
                if name.startswith(self._token):
                    continue
                with suppress(FileNotFoundError, BlockingIOError):
                    descriptor = os.open(name, _READ, dir_fd=staging)
                    try:
                        # A living writer has the lock; the lock of a dead one ended with it.
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
