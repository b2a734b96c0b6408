"""Copies local directories into a partition's tree, and back."""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from pathlib import Path

from partition_proto.v1 import types_pb2 as types

from partition_client.client import (
    DIRECTORY_MODE,
    AsyncClient,
    create_directory,
    link_payload,
    remove_entry,
)
from partition_client.errors import NotFound, TreeMismatch, not_written
from partition_client.paths import ancestors, parent, relative, tree_path
from partition_client.sources import INLINE_BYTES_MAX, TOGETHER_BYTES_MAX, PayloadSource

BATCH_BYTES_MAX = 512 * 1024
BATCH_FILES_MAX = 256
"""Of small files, which travel in one append."""
UPLOAD_BYTES_MAX = 8 * 1024 * 1024
UPLOAD_FILES_MAX = 64
"""Of larger files, up to TOGETHER_BYTES_MAX, which are uploaded together, and appended together."""
BATCH_DIRECTORIES_MAX = 1000
IN_FLIGHT_MAX = 8
LARGE_IN_FLIGHT_MAX = 3

Progress = Callable[[int, int], None]
"""Called with the numbers of files and bytes that were moved since the last call."""

Begin = Callable[[int], None]
"""Called once, before the first file is moved, with the total bytes of all files."""


def no_progress(_files: int, _bytes: int) -> None:
    """Shows nothing."""


def no_begin(_bytes: int) -> None:
    """Shows nothing."""


@dataclass(slots=True)
class TreeSummary:
    """Counts of what was moved. `skipped`: paths of symlinks, sockets and other special files,
    which a tree can't contain."""

    files: int = 0
    directories: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _File:
    """A local file, and its path in the tree. `replaces`: whether something may be at that path."""

    target: bytes
    path: str
    replaces: bool


@dataclass(slots=True)
class _Batch:
    """The files of one append."""

    operations: list[types.Operation] = field(default_factory=list)
    sources: list[PayloadSource] = field(default_factory=list)
    size: int = 0
    inline: bool = True
    """Whether the append carries the content."""
    links: list[int] = field(default_factory=list)
    """Of each source, the number of the operation that links it."""

    def full(self, source: PayloadSource, bytes_max: int, files_max: int) -> bool:
        """Whether there is no room for the source."""
        return bool(self.sources) and (
            self.size + source.size > bytes_max or len(self.sources) >= files_max
        )

    def add(self, path: bytes, source: PayloadSource, *, replaces: bool) -> None:
        self.sources.append(source)
        if replaces:
            self.operations.append(remove_entry(path))
        self.links.append(len(self.operations))
        self.operations.append(link_payload(len(self.sources), path))
        self.size += source.size

    def rest(self, outcomes: tuple[int, ...]) -> "_Batch | None":
        """The files that were not put, because somebody else put something at a path that was free.
        None if all were put. Raises TreeMismatch if one can't be."""
        left = _Batch(inline=self.inline)
        if not outcomes:
            return None
        for link, source in zip(self.links, self.sources, strict=True):
            outcome = outcomes[link]
            if outcome == types.OUTCOME_APPLIED:
                continue
            path = self.operations[link].create_hard_link.destination_path
            removed = link and self.operations[link - 1].HasField("remove_directory_entry")
            if removed or outcome != types.OUTCOME_DESTINATION_EXISTS:
                raise not_written(path, outcome)
            left.add(path, source, replaces=True)
        return left if left.sources else None


def scan(root: Path, summary: TreeSummary) -> Iterator[tuple[bytes, "os.DirEntry[str]"]]:
    """Yields (path in the tree, the entry of the local directory), parents before their content.
    Adds skipped paths to the summary."""
    stack = [(os.fspath(root), "")]
    while stack:
        directory, prefix = stack.pop()
        with os.scandir(directory) as found:
            entries = sorted(found, key=attrgetter("name"))
        for entry in entries:
            name = prefix + entry.name
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                summary.skipped.append(os.fspath(root / name))
                continue
            yield os.fsencode(name), entry
            if entry.is_dir():
                stack.append((entry.path, name + "/"))


@asynccontextmanager
async def _together() -> AsyncIterator[asyncio.TaskGroup]:
    """A task group that raises its first failure, not an exception group."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as failures:
        first: BaseException = failures
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from failures


async def put_tree(
    client: AsyncClient,
    root: Path,
    under: bytes,
    progress: Progress = no_progress,
    begin: Begin = no_begin,
) -> TreeSummary:
    """Copies everything below the local directory `root` to the tree's directory `under` (b"" is
    the root).

    Replaces existing files, keeps existing directories with their modes, and leaves other entries
    unchanged. One entry of the log carries many small files. Raises TreeMismatch if a file is in
    the place of a directory, or a directory with content in the place of a file. Raises OSError if
    a local file can't be read. After an error, what was written before stays.
    """
    summary = TreeSummary()
    under = tree_path(under)
    directories = dict.fromkeys(ancestors(under), DIRECTORY_MODE)
    holds: set[bytes] = {parent(path) for path in directories}
    files: list[_File] = []
    prefix = under + b"/" if under else b""

    def survey() -> int:
        """Returns the total size of the files."""
        total = 0
        for name, entry in scan(root, summary):
            target, found = prefix + name, entry.stat()
            holds.add(target.rpartition(b"/")[0])
            if stat.S_ISDIR(found.st_mode):
                directories[target] = found.st_mode & 0o777
                summary.directories += 1
            else:
                files.append(_File(target, entry.path, replaces=True))
                total += found.st_size
        return total

    begin(await asyncio.to_thread(survey))
    there = set(await _make_directories(client, directories))
    # Directories that get content need no check: its outcomes show whether a file is in the place.
    await _check_directories(client, [path for path in directories if path in there - holds])
    for file in files:
        directory = file.target.rpartition(b"/")[0]
        # A directory that this call made is empty, unless somebody else uses it, too.
        file.replaces = directory not in directories or directory in there
    await _put_files(client, files, summary, progress)
    return summary


async def _make_directories(client: AsyncClient, modes: dict[bytes, int]) -> list[bytes]:
    """Creates directories, parents first. Returns the paths at which an entry existed already."""
    there: list[bytes] = []
    paths = list(modes)
    for start in range(0, len(paths), BATCH_DIRECTORIES_MAX):
        some = paths[start : start + BATCH_DIRECTORIES_MAX]
        appended = await client.append(
            [create_directory(path, modes[path]) for path in some], wait_applied=True
        )
        for path, outcome in zip(some, appended.outcomes, strict=False):
            if outcome == types.OUTCOME_DESTINATION_EXISTS:
                there.append(path)
            elif outcome != types.OUTCOME_APPLIED:
                raise not_written(path, outcome)
    return there


async def _check_directories(client: AsyncClient, paths: list[bytes]) -> None:
    """Raises TreeMismatch for a path that is a file or was removed."""
    slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def check(path: bytes) -> None:
        async with slots:
            try:
                await client.list_tree(path)
            except NotFound as error:
                raise TreeMismatch(
                    f"{path!r} is a file of the tree, but a directory is needed there; remove the "
                    "file first",
                    "TREE",
                ) from error

    async with _together() as group:
        for path in paths:
            group.create_task(check(path))


async def _put_files(
    client: AsyncClient,
    files: list[_File],
    summary: TreeSummary,
    progress: Progress,
) -> None:
    small, large = asyncio.Semaphore(IN_FLIGHT_MAX), asyncio.Semaphore(LARGE_IN_FLIGHT_MAX)

    async def send(batch: _Batch, slots: asyncio.Semaphore) -> None:
        try:
            left: _Batch | None = batch
            while left is not None:  # at most twice
                appended = await client.append(left.operations, left.sources, wait_applied=True)
                left = left.rest(appended.outcomes)
        finally:
            slots.release()
        summary.files += len(batch.sources)
        summary.bytes += batch.size
        progress(len(batch.sources), batch.size)

    async with _together() as group:
        batches = _batches(files)
        # A thread reads the next files while the ones before are sent.
        while batch := await asyncio.to_thread(next, batches, None):
            slots = small if batch.inline else large
            await slots.acquire()
            group.create_task(send(batch, slots))


def _batches(files: list[_File]) -> Iterator[_Batch]:
    """Reads files, and puts them into batches: small ones, larger ones, and each of the largest by
    itself. Raises what PayloadSource.of_file raises."""
    small, larger = _Batch(), _Batch(inline=False)
    for file in files:
        source = PayloadSource.of_file(file.path)
        if source.size <= INLINE_BYTES_MAX:
            if small.full(source, BATCH_BYTES_MAX, BATCH_FILES_MAX):
                yield small
                small = _Batch()
            small.add(file.target, source, replaces=file.replaces)
        elif source.size <= TOGETHER_BYTES_MAX:
            if larger.full(source, UPLOAD_BYTES_MAX, UPLOAD_FILES_MAX):
                yield larger
                larger = _Batch(inline=False)
            larger.add(file.target, source, replaces=file.replaces)
        else:
            alone = _Batch(inline=False)
            alone.add(file.target, source, replaces=file.replaces)
            yield alone
    yield from (batch for batch in (small, larger) if batch.sources)


async def get_tree(
    client: AsyncClient,
    under: bytes,
    root: Path,
    progress: Progress = no_progress,
    begin: Begin = no_begin,
    *,
    stale_from: str = "",
) -> TreeSummary:
    """Copies everything below the tree's directory `under` to the local directory `root`, which
    must be empty or absent.

    Raises NotFound if `under` does not exist, TreeMismatch if `root` has content or a file of the
    tree changes during the call, and OSError if a local file can't be written. After an error,
    complete files stay and incomplete ones are removed."""
    under = tree_path(under)
    summary = TreeSummary()
    entries = await client.list_tree(under, recursive=True, stale_from=stale_from)
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise TreeMismatch(f"{root} is not empty; give an empty or new directory", "TREE")
    begin(sum(entry.size for entry in entries))
    targets = {e.path: root / os.fsdecode(relative(e.path, under)) for e in entries}
    slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def fetch(path: bytes, mode: int) -> None:
        target = targets[path]
        async with slots:
            # Outside the try: if the file exists already, another program made it, so keep it.
            file = target.open("xb")
            try:
                with file:
                    entry = await client.read_file(path, file.write, stale_from=stale_from)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            target.chmod(mode)
        summary.files += 1
        summary.bytes += entry.size
        progress(1, entry.size)

    async with _together() as group:
        for entry in entries:
            if entry.directory:
                targets[entry.path].mkdir(mode=0o700)
                summary.directories += 1
            else:
                group.create_task(fetch(entry.path, entry.mode))
    for entry in reversed(entries):
        if entry.directory:
            targets[entry.path].chmod(entry.mode)
    return summary


async def digest_tree(client: AsyncClient, under: bytes, *, stale_from: str = "") -> str:
    """Returns the SHA-256, as hex, over every path, mode and content below `under`. It covers the
    bytes that a replica sends, not the digests that it stores."""
    under = tree_path(under)
    entries = await client.list_tree(under, recursive=True, stale_from=stale_from)
    slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def content(path: bytes) -> bytes:
        digest = hashlib.sha256()
        async with slots:
            await client.read_file(path, digest.update, stale_from=stale_from)
        return digest.digest()

    async with _together() as group:
        contents = {
            entry.path: group.create_task(content(entry.path))
            for entry in entries
            if not entry.directory
        }
    total = hashlib.sha256()
    for entry in entries:
        _add_entry(total, relative(entry.path, under), entry.directory, entry.mode)
        if not entry.directory:
            total.update(contents[entry.path].result())
    return total.hexdigest()


def digest_directory(root: Path, summary: TreeSummary | None = None) -> str:
    """As `digest_tree`, for a local directory: equal after `put_tree` copied it to an empty tree.
    Leaves out what a tree can't contain, and adds it to the summary. Raises OSError."""
    total = hashlib.sha256()
    for name, entry in sorted(scan(root, summary or TreeSummary()), key=itemgetter(0)):
        _add_entry(total, name, entry.is_dir(), entry.stat().st_mode & 0o777)
        if not entry.is_dir():
            with open(entry.path, "rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _add_entry(total: "hashlib._Hash", path: bytes, directory: bool, mode: int) -> None:
    total.update(len(path).to_bytes(4, "big") + path + b"fd"[directory : directory + 1])
    total.update(mode.to_bytes(4, "big"))
