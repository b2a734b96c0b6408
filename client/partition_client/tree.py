"""Whole trees: a local directory into a partition, and back."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from partition_proto.v1 import types_pb2 as types

from partition_client.client import (
    INLINE_BYTES_MAX,
    AsyncClient,
    Source,
    create_directory,
    link_payload,
    remove_entry,
)
from partition_client.errors import TreeMismatch

BATCH_BYTES_MAX = 512 * 1024
BATCH_FILES_MAX = 256
IN_FLIGHT_MAX = 8
LARGE_IN_FLIGHT_MAX = 3

Progress = Callable[[int, int], None]
"""Called with (files, bytes) as they are done."""


def no_progress(_files: int, _bytes: int) -> None:
    """Shows nothing."""


@dataclass(slots=True)
class TreeSummary:
    """What was moved. `skipped`: symlinks, sockets and the like, which a partition doesn't hold."""

    files: int = 0
    directories: int = 0
    bytes: int = 0
    skipped: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Batch:
    operations: list[types.Operation] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
    size: int = 0


def scan(root: Path, summary: TreeSummary) -> Iterator[tuple[bytes, Path, bool]]:
    """(path in the tree, local path, whether a directory), parents before their content."""
    stack = [root]
    base = os.fsencode(root)
    while stack:
        directory = stack.pop()
        for entry in sorted(os.scandir(directory), key=lambda e: e.name):
            path = Path(entry.path)
            name = os.fsencode(entry.path)[len(base) :].lstrip(b"/")
            if entry.is_symlink() or not (entry.is_dir() or entry.is_file()):
                summary.skipped.append(entry.path)
            elif entry.is_dir():
                yield name, path, True
                stack.append(path)
            else:
                yield name, path, False


async def put_tree(
    client: AsyncClient, root: Path, under: bytes, progress: Progress = no_progress
) -> TreeSummary:
    """Puts everything below `root` below the tree's directory `under` (b"" is the root).

    Files there are replaced, directories kept, others left alone. Small files travel many in an
    entry. Raises TreeMismatch where something is in the way.
    """
    summary = TreeSummary()
    directories: list[types.Operation] = []
    files: list[tuple[bytes, Path]] = []
    prefix = under + b"/" if under else b""
    parts = under.split(b"/") if under else []
    for count in range(1, len(parts) + 1):
        directories.append(create_directory(b"/".join(parts[:count])))
    for name, path, is_directory in await asyncio.to_thread(lambda: list(scan(root, summary))):
        if is_directory:
            mode = path.stat().st_mode & 0o777
            directories.append(create_directory(prefix + name, mode))
            summary.directories += 1
        else:
            files.append((prefix + name, path))
    for start in range(0, len(directories), 1000):
        await client.append(directories[start : start + 1000], wait_applied=True)
    await _put_files(client, files, summary, progress)
    return summary


async def _put_files(
    client: AsyncClient,
    files: list[tuple[bytes, Path]],
    summary: TreeSummary,
    progress: Progress,
) -> None:
    small, large = asyncio.Semaphore(IN_FLIGHT_MAX), asyncio.Semaphore(LARGE_IN_FLIGHT_MAX)

    async def send(batch: _Batch, slots: asyncio.Semaphore) -> None:
        try:
            appended = await client.append(batch.operations, batch.sources, wait_applied=True)
        finally:
            slots.release()
        _check_links(batch, appended.outcomes)
        summary.files += len(batch.sources)
        summary.bytes += batch.size
        progress(len(batch.sources), batch.size)

    async with asyncio.TaskGroup() as group:
        batch = _Batch()
        for name, path in files:
            source = await asyncio.to_thread(Source.of_file, path)
            target = batch if source.size <= INLINE_BYTES_MAX else _Batch()
            full = target.size + source.size > BATCH_BYTES_MAX
            if target is batch and (full or len(batch.sources) >= BATCH_FILES_MAX):
                await small.acquire()
                group.create_task(send(batch, small))
                batch = target = _Batch()
            target.sources.append(source)
            target.operations.append(remove_entry(name))
            target.operations.append(link_payload(len(target.sources), name))
            target.size += source.size
            if target is not batch:
                await large.acquire()
                group.create_task(send(target, large))
        if batch.sources:
            await small.acquire()
            group.create_task(send(batch, small))


def _check_links(batch: _Batch, outcomes: tuple[int, ...]) -> None:
    """Every second operation is a link, which must have been applied."""
    for operation, outcome in zip(batch.operations[1::2], outcomes[1::2], strict=False):
        if outcome != types.OUTCOME_APPLIED:
            raise TreeMismatch(
                f"{operation.create_hard_link.destination_path!r} was not written: "
                f"{types.Outcome.Name(types.Outcome.ValueType(outcome))}",
                "TREE",
            )


async def get_tree(
    client: AsyncClient,
    under: bytes,
    root: Path,
    progress: Progress = no_progress,
    *,
    stale_from: str = "",
) -> TreeSummary:
    """Writes everything below the tree's directory `under` below `root`, which must be empty."""
    root.mkdir(parents=True, exist_ok=True)
    if any(root.iterdir()):
        raise TreeMismatch(f"{root} is not empty: name an empty or new directory", "TREE")
    summary = TreeSummary()
    entries = await client.list_tree(under, recursive=True, stale_from=stale_from)
    skip = len(under) + 1 if under else 0
    slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def fetch(path: bytes, target: Path, mode: int) -> None:
        async with slots:
            with target.open("xb") as file:
                entry = await client.read_file(path, file.write, stale_from=stale_from)
            target.chmod(mode)
        summary.files += 1
        summary.bytes += entry.size
        progress(1, entry.size)

    async with asyncio.TaskGroup() as group:
        for entry in entries:
            target = root / os.fsdecode(entry.path[skip:])
            if entry.directory:
                target.mkdir(mode=0o700)
                summary.directories += 1
            else:
                group.create_task(fetch(entry.path, target, entry.mode))
    for entry in reversed(entries):
        if entry.directory:
            (root / os.fsdecode(entry.path[skip:])).chmod(entry.mode)
    return summary


async def digest_tree(client: AsyncClient, under: bytes, *, stale_from: str = "") -> str:
    """SHA-256 over every path, mode and streamed byte below `under`, as hex: of the bytes that a
    replica sends, not of digests that it stores."""
    skip = len(under) + 1 if under else 0
    entries = await client.list_tree(under, recursive=True, stale_from=stale_from)
    slots = asyncio.Semaphore(IN_FLIGHT_MAX)

    async def content(path: bytes) -> bytes:
        digest = hashlib.sha256()
        async with slots:
            await client.read_file(path, digest.update, stale_from=stale_from)
        return digest.digest()

    async with asyncio.TaskGroup() as group:
        contents = {
            entry.path: group.create_task(content(entry.path))
            for entry in entries
            if not entry.directory
        }
    total = hashlib.sha256()
    for entry in entries:
        _add_entry(total, entry.path[skip:], entry.directory, entry.mode)
        if not entry.directory:
            total.update(contents[entry.path].result())
    return total.hexdigest()


def digest_directory(root: Path) -> str:
    """The same for a local directory; equal where `put_tree` put it."""
    total = hashlib.sha256()
    for name, path, is_directory in sorted(scan(root, TreeSummary())):
        _add_entry(total, name, is_directory, path.stat().st_mode & 0o777)
        if not is_directory:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _add_entry(total: "hashlib._Hash", path: bytes, directory: bool, mode: int) -> None:
    total.update(len(path).to_bytes(4, "big") + path + b"fd"[directory : directory + 1])
    total.update(mode.to_bytes(4, "big"))
