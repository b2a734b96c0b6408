"""The second pass over the base of a pruned log of the seed: writes the state."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core import limits
from partition_replica.core.model import Position, TreeEntry
from partition_replica.core.paths import parent
from partition_replica.errors import ImportRefused
from partition_replica.ids import Digest
from partition_replica.offline.seed.base_source import BaseNode, BaseSurvey, Done, SeedBase
from partition_replica.offline.seed.source_files import changed
from partition_replica.storage.environment import lmdb_failures
from partition_replica.storage.failpoints import reach
from partition_replica.storage.session_expiry import SessionExpiry
from partition_replica.storage.state import LmdbState
from partition_replica.storage.state_view import LmdbView

BATCH_ROWS = 1024
BATCH_BYTES = 8 * 1024**2
"""The maximum rows and bytes per transaction of the state, whichever comes first."""

T = TypeVar("T")

Store = Callable[[Iterator[bytes]], Digest]
"""Stores content as a blob of the volume, durably."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A path of the tree with its tree entry, and the content if it is inline."""

    path: bytes
    node: TreeEntry
    content: bytes | None = None


def write_base(
    path: Path,
    base: SeedBase,
    position: Position,
    found: BaseSurvey,
    store: Store,
    done: Done,
) -> None:
    """Writes the base into the new state `path`, durably, as of `position`.

    found: the result of the first pass. Raises ImportRefused, StorageFailed; the caller then
    removes `path`.
    """
    again = BaseSurvey()
    state = LmdbState(path)
    try:
        with base.open(found.room_bytes, done) as contents:
            for pairs in _batches(contents.pairs, lambda pair: len(pair[0]) + len(pair[1])):
                _put_keys(state, pairs, base.what)
                for pair in pairs:
                    again.add_pair(*pair)
            nodes = _rows(contents.nodes, again, store)
            for batch in _batches(nodes, lambda row: len(row.path) + len(row.content or b"")):
                _put_nodes(state, batch, base.what)
        if again.digest.digest() != found.digest.digest():
            raise changed(base.what)
        reach("import.base_written")
        state.start(position, {})
    finally:
        state.close()


def _rows(nodes: Iterator[BaseNode], again: BaseSurvey, store: Store) -> Iterator[_Row]:
    for node in nodes:
        again.add_node(node)
        if node.directory:
            yield _Row(node.path, TreeEntry(True, node.mode))
        elif node.size > limits.PAYLOAD_INLINE_BYTES_MAX:
            digest = store(node.chunks)
            yield _Row(node.path, TreeEntry(False, node.mode, node.size, digest))
        else:
            content = b"".join(node.chunks)
            digest = Digest(sha256(content).digest())
            yield _Row(node.path, TreeEntry(False, node.mode, node.size, digest), content)


def _batches(found: Iterable[T], size_of: Callable[[T], int]) -> Iterator[list[T]]:
    batch: list[T] = []
    size = 0
    for item in found:
        batch.append(item)
        size += size_of(item)
        if len(batch) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _put_keys(state: LmdbState, pairs: list[tuple[bytes, bytes]], what: str) -> None:
    with lmdb_failures("commit of the state"), state.environment.begin(write=True) as txn:
        view = LmdbView(txn, state.tables, rows.AppliedRow(), SessionExpiry())
        for key, value in pairs:
            if view.get_value(key) is not None:
                raise ImportRefused(
                    f"{what} has the key {key[:256]!r} twice, so it is damaged: use another copy "
                    "of it"
                )
            view.put_value(key, value)
        view.flush()


def _put_nodes(state: LmdbState, batch: list[_Row], what: str) -> None:
    with lmdb_failures("commit of the state"), state.environment.begin(write=True) as txn:
        view = LmdbView(txn, state.tables, rows.AppliedRow(), SessionExpiry())
        for row in batch:
            where = f"{row.path[:256]!r} of {what}"
            if view.get_tree_entry(row.path) is not None:
                raise ImportRefused(
                    f"{where} exists twice, so the base is damaged: use another copy of it"
                )
            above = parent(row.path)
            if above:
                directory = view.get_tree_entry(above)
                if directory is None or not directory.directory:
                    raise ImportRefused(
                        f"{where} has no parent directory before it, so the base is damaged: use "
                        "another copy of it"
                    )
            if not row.node.directory:
                view.add_payload_reference(row.node.digest, row.node.size, row.content)
            view.put_tree_entry(row.path, row.node)
        view.flush()
