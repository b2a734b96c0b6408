"""What a store is asked: the port of `directory_store` and `s3_store`."""

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
    """The name itself. Raises InvalidDestination for a name that the layout doesn't have."""
    if not _NAME.fullmatch(name):
        raise InvalidDestination(f"{name[:200]!r} is no name of a snapshot store's layout")
    return name


def object_name(digest: str) -> str:
    """Where an object lies, by its SHA-256 in hex."""
    return f"{OBJECTS}{digest[:2]}/{digest}"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """`name` relative to the store's root; `size` in bytes; `modified` by the store's clock."""

    name: str
    size: int
    modified: datetime


Told = Callable[[int], None]
"""Is told of bytes, on the loop's thread."""


def untold(_size: int) -> None:
    """Nobody wants to know."""


def always() -> None:
    """It may."""


class Store(Protocol):
    """Names are those of the layout; others raise InvalidDestination. Each call is tried again
    within the limits where that can help, and may raise StoreUnavailable, StoreRefused or
    StoreFull. What is written becomes visible whole or not at all. Objects are durable after
    the next `flush`, every other name when its call returns."""

    description: str
    """For people: the directory, or endpoint, bucket and prefix. No secret."""

    async def put_bytes(self, name: str, data: bytes, *, create: bool = False) -> bool:
        """Writes it, over what is there. With `create`, False where the name exists already (also
        by an earlier try of this very call); a store that can't tell writes over it."""

    async def put_file(
        self, name: str, path: Path, size: int, sent: Told = untold, check: bool = False
    ) -> int:
        """Writes a file's content, which must have `size` bytes and the SHA-256 in the name.
        `sent` is told of bytes as they are done, `size` altogether when this returns; where it has
        to begin again it takes them back, as a negative number. Returns the bytes really written:
        0 for a hard link, whose content is not read unless `check` asks for it. Raises
        SourceDamaged where the file is missing, can't be read or is another."""

    async def flush(self) -> None:
        """Makes everything that is there durable, that of writers that were killed, too."""

    async def get(self, name: str, size_max: int | None = None) -> bytes:
        """Its content. Raises SnapshotNotFound; SnapshotDamaged for more than size_max bytes
        (default: object_get_bytes_max)."""

    async def get_many(self, wanted: Sequence[tuple[str, int]]) -> Sequence[bytes | SnapshotError]:
        """`get` for several (name, most bytes) at once, all of which fit into memory together. What
        is missing or damaged is given as its error; others are raised."""

    def stream(self, name: str, size: int) -> AsyncGenerator[bytes, None]:
        """Its content in chunks of at most part_bytes. Raises SnapshotNotFound; SnapshotDamaged
        where it has another size than `size`."""

    def list(self, prefix: str) -> AsyncGenerator[ObjectInfo, None]:
        """What lies below a folder of the layout ("objects/", "objects/ab/", "uploads/", …), in
        no order. Names that the layout doesn't have are passed over. Holds at most a page or a
        folder in memory."""

    async def head(self, name: str) -> ObjectInfo | None:
        """None where there is none."""

    async def delete(self, names: Iterable[str], may: Callable[[], None] = always) -> None:
        """Removes them, durably; those that are gone already are fine. `may` is called right before
        each step, on any thread, and ends this by what it raises."""

    async def sweep(self) -> int:
        """Removes what writers that are dead left unfinished, where the store can tell; returns
        how many."""

    async def close(self) -> None:
        """Gives back connections and descriptors."""
