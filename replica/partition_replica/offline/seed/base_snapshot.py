"""Writes a state as a snapshot of the seed: an uncompressed tar, `kv-state` first, then `fs/`."""

import tarfile
from collections.abc import Callable, Iterator

from partition_replica.core.model import TreeEntry
from partition_replica.offline.seed.base_format import KEYS, TREE, encode_pair
from partition_replica.offline.seed.layout import DIRECTORY_MODE, FILE_MODE
from partition_replica.storage.state import LmdbState

PAGE_KEYS, PAGE_BYTES = 1024, 4 * 1024**2
PAGE_PATHS = 1024
_BLOCK_BYTES = 512

Content = Callable[[TreeEntry], Iterator[bytes]]
"""A file's content, in chunks."""


def write_snapshot(state: LmdbState, content: Content) -> Iterator[bytes]:
    """The snapshot of a state, in parts. The state must not change meanwhile."""
    # A member's header contains its size, so the keys are read twice.
    size = sum(len(encode_pair(*pair)) for pair in _pairs(state))
    yield _header(KEYS.encode(), TreeEntry(False, FILE_MODE, size))
    for pair in _pairs(state):
        yield encode_pair(*pair)
    yield _padding(size)
    yield _header(TREE.encode(), TreeEntry(True, DIRECTORY_MODE))
    for path, node in _nodes(state):
        yield _header(TREE.encode() + b"/" + path, node)
        if not node.directory:
            yield from content(node)
            yield _padding(node.size)
    yield bytes(2 * _BLOCK_BYTES)


def _header(name: bytes, node: TreeEntry) -> bytes:
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.mode, info.size = node.mode, node.size
    info.type = tarfile.DIRTYPE if node.directory else tarfile.REGTYPE
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK_BYTES)


def _pairs(state: LmdbState) -> Iterator[tuple[bytes, bytes]]:
    start = b""
    while True:
        items, start, _ = state.list_values(start, b"", PAGE_KEYS, PAGE_BYTES)
        yield from items
        if not start:
            return


def _nodes(state: LmdbState) -> Iterator[tuple[bytes, TreeEntry]]:
    """All tree entries in byte order, so a directory comes before its contents."""
    after = b""
    while True:
        items, _ = state.list_tree_entries(b"", after, True, PAGE_PATHS)
        if not items:
            return
        yield from items
        after = items[-1][0]
