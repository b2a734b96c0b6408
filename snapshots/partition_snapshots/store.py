"""The interface of a store; `directory_store` and `s3_store` implement it."""

import re
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from partition_snapshots.errors import InvalidDestination, SnapshotError

FORMAT_OBJECT = "format.json"
OBJECTS = "objects/"
SNAPSHOTS = "snapshots/"
TAKES = "uploads/"
COLLECTING = "collecting/"

_NAME = re.compile(
    r"format\.json"
    r"|objects/([0-9a-f]{2})/\1[0-9a-f]{62}"
    r"|snapshots/[a-z0-9-]{1,63}\.json"
    r"|uploads/[a-z0-9-]{1,63}\.[0-9a-f]{16}"
    r"|collecting/[0-9a-f]{16}"
)


def check_name(name: str) -> str:
    """Returns the name. Raises InvalidDestination if it is not in the layout of a store."""
    if not _NAME.fullmatch(name):
        raise InvalidDestination(f"{name[:200]!r} is not a name in a snapshot store's layout")
    return name


def object_name(digest: str) -> str:
    """Returns the name of an object in the store, from its SHA-256 in hex."""
    return f"{OBJECTS}{digest[:2]}/{digest}"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`name` is relative to the store's root, `size` in bytes, `modified` by the store's clock."""

    name: str
    size: int
    modified: datetime


Told = Callable[[int], None]
"""Called with a number of bytes, on the loop's thread."""


def untold(_size: int) -> None:
    """Ignores the progress."""


def always() -> None:
    """Allows every deletion."""


class Store(Protocol):
    """A place for the snapshots of one group.

    Names must be in the layout; others raise InvalidDestination. Each call retries after retriable
    errors, within the limits, and may raise StoreUnavailable, StoreRefused or StoreFull. A write
    becomes visible completely or not at all. Objects are durable after the next `flush`, all other
    names when their call returns."""

    description: str
    """For messages: the directory, or endpoint, bucket and prefix. Contains no secret."""

    async def put_bytes(self, name: str, data: bytes, *, create: bool = False) -> bool:
        """Writes `data`, and replaces existing content. With `create`, writes nothing and returns
        False if the name exists, also if an earlier try of this call created it. A store without
        conditional writes may replace content that another process writes at the same time."""

    async def put_file(
        self, name: str, path: Path, size: int, sent: Told = untold, check: bool = False
    ) -> int:
        """Writes the content of a file, which must have `size` bytes and the SHA-256 in `name`.

        Returns the bytes that were written: 0 for a hard link, whose content is read only with
        `check`. `sent` is called with the bytes that were done since its last call, `size` in
        total; a retry subtracts them by a negative number. Raises SourceDamaged if the file is
        missing, can't be read, or has another size or SHA-256."""

    async def flush(self) -> None:
        """Makes everything in the store durable, also the data of writers that were killed."""

    async def get(self, name: str, size_max: int | None = None) -> bytes:
        """Returns the content. Raises SnapshotNotFound, and SnapshotDamaged if it has more than
        size_max bytes (default: object_get_bytes_max)."""

    async def get_many(self, wanted: Sequence[tuple[str, int]]) -> Sequence[bytes | SnapshotError]:
        """Calls `get` for several (name, size_max), which together must fit into memory. Returns
        SnapshotNotFound and SnapshotDamaged in place of the content; raises other errors."""

    def stream(self, name: str, size: int) -> AsyncGenerator[bytes, None]:
        """Yields the content in chunks of at most part_bytes. Raises SnapshotNotFound, and
        SnapshotDamaged if the size is not `size`."""

    def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        """Yields the entries of a directory of the layout ("objects/", "objects/ab/", "uploads/",
        …), in any order. Skips names that are not in the layout. Keeps at most one page or
        directory in memory."""

    async def head(self, name: str) -> ObjectInfo | None:
        """Returns the metadata of a name, or None if it does not exist."""

    async def delete(self, names: Iterable[str], may: Callable[[], None] = always) -> None:
        """Deletes names durably. Ignores names that do not exist. Calls `may` directly before each
        step, on any thread; an error of `may` ends the call."""

    async def sweep(self) -> int:
        """Deletes the unfinished files or uploads of dead writers, as far as the store can list
        them. Returns their number."""

    async def close(self) -> None:
        """Closes connections and descriptors."""
