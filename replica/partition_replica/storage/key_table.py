"""A table whose keys may be longer than LMDB's 511 bytes, and which is still in byte order.

A key of up to SHORT_BYTES is an LMDB key. A longer key is split into chunks: the first of
SHORT_BYTES, the others of CHUNK_BYTES, the last of the rest. Each chunk except the last leads to a
*node*, which contains what follows the chunk:

    table `short`:  key                               -> row
                    510 bytes, 0x00                   -> mark: node
    table `long`:   node (8 bytes), 1 to 500 bytes    -> row: the key ends here
                    node, 500 bytes, 0x00             -> mark: the next node

The LMDB key of a mark sorts where the keys below it belong: after the key that equals its
beginning, and before every other key. So a walk that descends at each mark finds all keys in order,
no matter how many of them share a beginning, and keeps only one of them in memory. Nothing is
hashed, so keys cannot collide. Keys with a common beginning share the marks that lead to it.

Rows are sealed under their whole key; marks are sealed under their whole beginning and 0x00,
"mark". So all checksums fail if a node is below another mark than its own. A mark is deleted with
the last row of its node. A new node gets the number after the highest one that has rows. So its
number is above its parent's, and equal on every replica that applies the same entries.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

from partition_replica.core.paths import shown
from partition_replica.errors import Damaged
from partition_replica.storage import codec
from partition_replica.storage.environment import Database, Transaction

SHORT_BYTES = 510
"""The longest key that is an LMDB key itself, and the size of a long key's first chunk. Part of the
format. It is LMDB's limit minus the byte of a mark. A replica of format 1 also stores such keys in
this way if it has to apply them, although its own limit for a proposal is 480."""

CHUNK_BYTES = 500
"""The size of the other chunks: part of the format."""

MARK = b"\0"
_MARK_SEAL = b"\0mark"
"""Follows the beginning in a mark's checksum, so that a mark is never read as a row."""

NODE_BYTES = codec.U64_BYTES
_INNER_BYTES = NODE_BYTES + CHUNK_BYTES
"""The longest LMDB key of a row in table `long`; a mark's is longer."""

Row = tuple[bytes, bytes]
"""(whole key, sealed row)."""


class KeyTable:
    """`name`: for messages. `long` is None in a state of format 1 that is opened read-only.

    `get`, `put` and `delete` take keys above SHORT_BYTES only. The caller accesses shorter keys in
    `short`, so these cost no more than a comparison. Raises Damaged for a damaged mark."""

    def __init__(self, name: str, short: Database, long: Database | None) -> None:
        self.name = name
        self.short = short
        self.long = long

    def get_any(self, txn: Transaction, key: bytes) -> bytes | None:
        """The sealed row of a key of any length."""
        if len(key) <= SHORT_BYTES:
            return txn.get(key, db=self.short)
        return self.get(txn, key)

    def get(self, txn: Transaction, key: bytes) -> bytes | None:
        """The sealed row of a long key."""
        chain = self._find(txn, key)
        return txn.get(chain.last_key(key), db=self.long) if chain.complete else None

    def put(self, txn: Transaction, key: bytes, row: bytes) -> None:
        """Writes the sealed row of a long key."""
        chain = self._find(txn, key)
        number = 0
        while not chain.complete:
            number = number + 1 if number else self._next_node(txn)
            table, place, chunk = self._place(chain, key)
            chain.follow(chunk, codec.u64(number))
            mark = codec.seal_with(zlib.crc32(_MARK_SEAL, chain.crc), chain.nodes[-1])
            txn.put(place, mark, db=table)
        txn.put(chain.last_key(key), row, db=self.long)

    def delete(self, txn: Transaction, key: bytes) -> None:
        """Deletes a long key, and the marks that lead to no row any more."""
        chain = self._find(txn, key)
        if not chain.complete or not txn.delete(chain.last_key(key), db=self.long):
            return
        nodes = chain.nodes
        with txn.cursor(self.long) as cursor:
            while nodes and not (
                cursor.set_range(nodes[-1]) and cursor.key().startswith(nodes[-1])
            ):
                nodes.pop()
                table, place, _ = self._place(chain, key)
                txn.delete(place, db=table)

    def rows(
        self,
        txn: Transaction,
        start: bytes = b"",
        damaged: Callable[[Damaged], None] | None = None,
    ) -> Iterator[Row]:
        """Every row whose key is at or above `start`, in the keys' order. A damaged mark raises
        Damaged or, with `damaged`, is passed to it and skipped."""
        return self.walk(txn, damaged)(start)

    def walk(
        self, txn: Transaction, damaged: Callable[[Damaged], None] | None = None
    ) -> Callable[[bytes], Iterator[Row]]:
        """As `rows`, for a reader that starts several times; each start ends the previous one."""
        cursor = txn.cursor(self.short)
        if self.long is not None and txn.stat(self.long)["entries"]:
            return lambda start: self._rows(txn, cursor, start, damaged)

        def short(start: bytes) -> Iterator[Row]:
            # LMDB's own iterator: no overhead if the table has no long key.
            found = cursor.set_range(start[: SHORT_BYTES + 1]) if start else cursor.first()
            return cursor.iternext() if found else iter(())

        return short

    def _rows(
        self,
        txn: Transaction,
        cursor: Any,
        start: bytes,
        damaged: Callable[[Damaged], None] | None,
    ) -> Iterator[Row]:
        head, rest = start[:SHORT_BYTES], start[SHORT_BYTES:]
        at = head + MARK if rest else head
        if not (cursor.set_range(at) if at else cursor.first()):
            return
        for key, row in cursor.iternext():
            if len(key) <= SHORT_BYTES:
                yield key, row
                continue
            below = rest if key.startswith(head) else b""
            head_mark = (key[:SHORT_BYTES], key[SHORT_BYTES:], row)
            yield from self._below(txn, head_mark, below, damaged)

    def first_from(self, txn: Transaction, start: bytes) -> bytes | None:
        """The first key at or above `start`."""
        return next((key for key, _ in self.rows(txn, start)), None)

    def node_count(self, txn: Transaction) -> int:
        """The number of nodes with rows. One mark leads to each."""
        count = 0
        if self.long is None:
            return count
        with txn.cursor(self.long) as cursor:
            found = cursor.first()
            while found:
                count += 1
                node = codec.from_u64(cursor.key()[:NODE_BYTES])
                found = node < codec.U64_MAX and cursor.set_range(codec.u64(node + 1))
        return count

    def stored(self, txn: Transaction) -> int:
        """The number of rows in both tables, including marks."""
        count = int(txn.stat(self.short)["entries"])
        return count if self.long is None else count + int(txn.stat(self.long)["entries"])

    def count(self, txn: Transaction) -> int:
        """The number of keys. Its cost grows with the number of nodes."""
        return self.stored(txn) - self.node_count(txn)

    def _below(
        self,
        txn: Transaction,
        mark: tuple[bytes, bytes, bytes],
        rest: bytes,
        damaged: Callable[[Damaged], None] | None,
    ) -> Iterator[Row]:
        """The rows below a mark of table `short`, given as (chunk, 0x00, row), whose remaining keys
        are at or above `rest`. A loop instead of recursion: a key may be 129 nodes deep."""
        levels: list[_Level] = []
        above = b""
        while True:
            chunk, end, row = mark
            try:
                crc = zlib.crc32(chunk, levels[-1].crc if levels else 0)
                beginning = levels[-1].beginning + chunk if levels else chunk
                node = self._opened(row if end == MARK else b"", crc, above, beginning)
                levels.append(_Level(txn.cursor(self.long), node, beginning, crc, rest))
            except Damaged as error:
                if damaged is None:
                    raise
                damaged(error)
            found = False
            while levels and not found:
                level = levels[-1]
                for key, row in level.rows:
                    if not key.startswith(level.node):
                        break
                    if len(key) <= _INNER_BYTES:
                        yield level.beginning + key[NODE_BYTES:], row
                        continue
                    chunk, above = key[NODE_BYTES:_INNER_BYTES], level.node
                    mark, rest = (chunk, key[_INNER_BYTES:], row), level.rest_below(chunk)
                    found = True
                    break
                if not found:
                    levels.pop()
            if not found:
                return

    def _find(self, txn: Transaction, key: bytes) -> "_Chain":
        """The existing nodes that a long key's chunks lead to."""
        chain = _Chain(key)
        while not chain.complete:
            table, place, chunk = self._place(chain, key)
            mark = txn.get(place, db=table)
            if mark is None:
                break
            above = chain.nodes[-1] if chain.nodes else b""
            crc = zlib.crc32(chunk, chain.crc)
            # Only the part of the beginning that a message shows: copies for each node would take
            # megabytes.
            chain.follow(chunk, self._opened(mark, crc, above, key[:SHORT_BYTES]))
        return chain

    def _place(self, chain: "_Chain", key: bytes) -> tuple[Database | None, bytes, bytes]:
        """The place of the mark after a chain's last node: (table, LMDB key, its chunk)."""
        level = len(chain.nodes)
        if not level:
            return self.short, key[:SHORT_BYTES] + MARK, key[:SHORT_BYTES]
        chunk = key[chain.cuts[level - 1] : chain.cuts[level]]
        return self.long, chain.nodes[-1] + chunk + MARK, chunk

    def _opened(self, mark: bytes, crc: int, above: bytes, beginning: bytes) -> bytes:
        """The node that a mark leads to."""
        node = mark[codec.CHECKSUM_BYTES :]
        if (
            self.long is None
            or len(node) != NODE_BYTES
            or node <= above
            or codec.seal_with(zlib.crc32(_MARK_SEAL, crc), node) != mark
        ):
            raise Damaged(
                f"the mark of keys of table {self.name} that begin with {shown(beginning)} is "
                "damaged: keep the volume, and let the operator rebuild this replica from the "
                "others"
            )
        return node

    def _next_node(self, txn: Transaction) -> int:
        with txn.cursor(self.long) as cursor:
            last = codec.from_u64(cursor.key()[:NODE_BYTES]) if cursor.last() else 0
        if last == codec.U64_MAX:
            raise Damaged(
                f"table {self.name} has a node with number {last}, which no replica writes: the "
                "volume is damaged; keep it"
            )
        return last + 1


class _Chain:
    """The path to a long key. cuts: the ends of its chunks, except the last one; nodes: the nodes
    that the chunks lead to; crc: the checksum of the chunks up to the last node."""

    def __init__(self, key: bytes) -> None:
        self.cuts = range(SHORT_BYTES, len(key), CHUNK_BYTES)
        self.nodes: list[bytes] = []
        self.crc = 0

    @property
    def complete(self) -> bool:
        return len(self.nodes) == len(self.cuts)

    def follow(self, chunk: bytes, node: bytes) -> None:
        self.crc = zlib.crc32(chunk, self.crc)
        self.nodes.append(node)

    def last_key(self, key: bytes) -> bytes:
        """The LMDB key of the key's row."""
        return self.nodes[-1] + key[self.cuts[-1] :]


class _Level:
    """A node of a walk, with its rows from the start of the walk on."""

    def __init__(self, cursor: Any, node: bytes, beginning: bytes, crc: int, rest: bytes) -> None:
        self.node, self.beginning, self.crc = node, beginning, crc
        self._rest = rest
        start = node + rest[:CHUNK_BYTES]
        if len(rest) > CHUNK_BYTES:
            start += MARK
        self.rows: Iterator[Row] = cursor.iternext() if cursor.set_range(start) else iter(())

    def rest_below(self, chunk: bytes) -> bytes:
        """The start of the walk in the node that `chunk` leads to."""
        return self._rest[CHUNK_BYTES:] if self._rest[:CHUNK_BYTES] == chunk else b""
