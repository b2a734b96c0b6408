"""The rows of the comparison, and the choice of some by name."""

from dataclasses import dataclass
from typing import Literal

from tests.benchmarks.etcd.figures import MIB

Load = Literal["put", "get", "get-stale"]
KIB = 1024


@dataclass(frozen=True, slots=True)
class LoadRow:
    """A closed loop: each task begins its next operation when the last one has ended. tasks: per
    process. size: of a value, in bytes. own_tool: etcd's own load generator drives etcd, because
    there is one client process."""

    name: str
    title: str
    load: Load
    tasks: int
    processes: int = 1
    size: int = 256
    own_tool: bool = True


@dataclass(frozen=True, slots=True)
class OtherRow:
    """A row that is no closed loop: its name says which."""

    name: str
    title: str


FILES = OtherRow("file-64MiB", "1 file of 64 MiB after the other")
FAILOVER = OtherRow("failover", "SIGKILL of the leader to the next acknowledged write")
TREE = OtherRow("put-tree", "put-tree of Go's source tree")

Row = LoadRow | OtherRow

ROWS: tuple[Row, ...] = (
    LoadRow("put-1", "1 writer, 256 B", "put", 1),
    *(LoadRow(f"put-{n}", f"{n:,} writers, 256 B", "put", n) for n in (8, 64, 256, 1000)),
    LoadRow(
        "put-64-processes",
        "64 writers in 64 processes, 256 B",
        "put",
        tasks=1,
        processes=64,
        own_tool=False,
    ),
    LoadRow("put-64KiB", "16 writers, 64 KiB", "put", 16, size=64 * KIB),
    LoadRow("put-1MiB", "4 writers, 1 MiB", "put", 4, size=MIB),
    FILES,
    LoadRow("get-1", "1 reader, linearizable", "get", 1),
    *(LoadRow(f"get-{n}", f"{n:,} readers, linearizable", "get", n) for n in (64, 1000)),
    *(LoadRow(f"get-stale-{n}", f"{n:,} readers, stale", "get-stale", n) for n in (64, 1000)),
    FAILOVER,
    TREE,
)


def choose(names: str) -> list[Row]:
    """names: separated by commas; "" chooses all rows. Returns rows in the order of the table.
    Raises ValueError for a name that no row has."""
    if not names:
        return list(ROWS)
    wanted = {name.strip() for name in names.split(",")}
    known = {row.name for row in ROWS}
    if unknown := sorted(wanted - known):
        raise ValueError(
            f"unknown: {', '.join(unknown)}; the rows are {', '.join(row.name for row in ROWS)}"
        )
    return [row for row in ROWS if row.name in wanted]
