"""Either state machine, memory or LMDB: entries in, results out, tables to look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.apply import apply_body
from partition_replica.core.model import Applied, LogEntry, TreeEntry
from partition_replica.ids import LSN, Digest, Term
from partition_replica.storage.memory import MemoryView
from partition_replica.storage.state import LmdbState


class Machine:
    """Either state machine: bodies in, results out, tables to look at."""

    def __init__(self, folder: Path | None) -> None:
        self.index = 0
        self.memory = MemoryView()
        self.lmdb = LmdbState(folder) if folder else None

    def apply(self, *bodies: types.EntryBody | None) -> list[Applied]:
        entries = []
        results = []
        for found in bodies:
            self.index += 1
            data = found.SerializeToString() if found else b""
            entries.append(LogEntry(LSN(self.index), Term(1), 0, data))
            if self.lmdb is None:
                results.append(apply_body(self.memory, LSN(self.index), Term(1), found))
        return self.lmdb.apply(entries, {})[0] if self.lmdb else results

    def value(self, key: bytes) -> bytes | None:
        return self.lmdb.get_value(key)[0] if self.lmdb else self.memory.get_value(key)

    def values(self) -> dict[bytes, bytes]:
        if self.lmdb is None:
            return dict(self.memory.values)
        return dict(self.lmdb.list_values(b"", b"", 10**6, 10**9)[0])

    def nodes(self) -> dict[bytes, TreeEntry]:
        if self.lmdb is None:
            return dict(self.memory.nodes)
        return dict(self.lmdb.list_tree_entries(b"", b"", True, 10**6)[0])

    def content(self, digest: bytes) -> bytes | None:
        if self.lmdb is None:
            return self.memory.contents.get(Digest(digest))
        return self.lmdb.content(Digest(digest))


@pytest.fixture(params=["memory", "lmdb"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    found = Machine(tmp_path / "state" if request.param == "lmdb" else None)
    yield found
    if found.lmdb:
        found.lmdb.close()


def outcomes(applied: Applied) -> bytes:
    assert applied.result is not None
    return applied.result.outcomes
