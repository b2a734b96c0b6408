"""Builds a state from the rows of another one, in order, for a restore.

Rows are passed as they are stored, sealed, and are checked. The state is neither durable nor valid
before `finish`.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, groupby
from operator import lt
from pathlib import Path
from typing import Any

from partition_replica.core.limits import KEY_BYTES_MAX
from partition_replica.core.model import Position
from partition_replica.errors import RowsRefused
from partition_replica.ids import Digest
from partition_replica.storage import codec
from partition_replica.storage.environment import Transaction, lmdb_failures, open_environment
from partition_replica.storage.key_table import SHORT_BYTES, KeyTable
from partition_replica.storage.state_tables import (
    TABLES,
    Tables,
    applied_row,
    iterate_blobs,
    put_applied,
    put_history,
)

TRANSACTION_BYTES = 16 * 1024**2
"""The size of keys and rows that one transaction loads."""

LMDB_KEY_BYTES_MAX = 511


class StateLoader:
    """Loads one state into the new environment `path`. One thread."""

    def __init__(self, path: Path, order: Sequence[str]) -> None:
        """`order`: the names of the tables, in the order in which their rows are added."""
        self._environment = open_environment(path, metasync=False, sync=False, tables=len(TABLES))
        self._tables = Tables(self._environment, create=True)
        self._order = {name: number for number, name in enumerate(order)}
        self._pending: list[tuple[bytes, bytes]] = []
        self._pending_table = ""
        self._pending_bytes = 0
        self._long: KeyTable | None = None  # of a pending row with a long key
        self._last: tuple[int, bytes] = (-1, b"")
        self.rows = dict.fromkeys(order, 0)

    def put_rows(self, table: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        """Adds (key, row)s of one table after the previous ones; batches of some hundred are
        fastest. Raises RowsRefused, and adds no row, if a row is damaged or out of order;
        StorageFailed."""
        number = self._order.get(table, -1)
        if number < 0:
            raise RowsRefused(
                f"a row of the unknown table {table!r}; known are {', '.join(self._order)}"
            )
        if not rows:
            return
        last_table, last = self._last
        if number < last_table:
            raise RowsRefused(
                f"a row of table {table} is out of order: it comes after rows of a later table"
            )
        keys = [key for key, _ in rows]
        # This refuses the empty key, too.
        before = [last if number == last_table else b"", *keys[:-1]]
        if not all(map(lt, before, keys)):
            key = next(key for lower, key in zip(before, keys, strict=True) if key <= lower)
            raise RowsRefused(
                f"row {codec.shown_hex(key)} of table {table} is out of order, or a duplicate"
            )
        longest = max(map(len, keys))
        keyed = self._tables.keyed(table)
        most = LMDB_KEY_BYTES_MAX if keyed is None else KEY_BYTES_MAX
        if longest > most:
            raise RowsRefused(
                f"table {table} has a key of {longest} bytes; allowed are 1 to {most}"
            )
        damaged = codec.first_unsealed(rows)
        if damaged is not None:
            raise RowsRefused(f"row {codec.shown_hex(damaged)} of table {table} fails its checksum")
        if table != self._pending_table or self._pending_bytes >= TRANSACTION_BYTES:
            self._flush()
            self._pending_table = table
        self._last = (number, keys[-1])
        if longest > SHORT_BYTES:
            self._long = keyed
        self._pending += rows
        self._pending_bytes += sum(map(len, chain.from_iterable(rows)))
        self.rows[table] += len(rows)

    def blobs(self) -> Iterator[tuple[Digest, int]]:
        """(digest, size) of every blob that the rows name, in order of the digests. Call it after
        all rows are added."""
        with lmdb_failures("reading a state"), self._environment.begin() as txn:
            yield from iterate_blobs(txn, self._tables)

    def finish(self, position: Position, time_ms: int, clock_ms: int, history: str) -> None:
        """Completes the state as of `position` and makes it durable, except for the directory's
        name. `clock_ms`: the session clock; `history`: the new history ID."""
        self._flush()
        with lmdb_failures("commit of a state"):
            with self._environment.begin(write=True) as txn:
                put_applied(txn, self._tables, applied_row(position, time_ms, clock_ms))
                put_history(txn, self._tables, history)
            self._environment.sync(True)

    def close(self) -> None:
        self._environment.close()

    def _flush(self) -> None:
        if not self._pending:
            return
        table: Any = getattr(self._tables, self._pending_table)
        with lmdb_failures("commit of a state"), self._environment.begin(write=True) as txn:
            if self._long:
                self._append_keyed(txn, self._long)
            else:
                _append(txn, table, self._pending)
        self._pending.clear()
        self._long = None
        self._pending_bytes = 0

    def _append_keyed(self, txn: Transaction, keyed: KeyTable) -> None:
        """Puts the pending rows, some with long keys, in their order."""
        for long, group in groupby(self._pending, lambda row: len(row[0]) > SHORT_BYTES):
            if long:
                for key, row in group:
                    keyed.put(txn, key, row)
            else:
                _append(txn, keyed.short, list(group))


def _append(txn: Transaction, table: Any, rows: list[tuple[bytes, bytes]]) -> None:
    """Appends rows to a table. Their keys are above all others of the table."""
    with txn.cursor(table) as cursor:
        # Ascending keys: appending to the right edge leaves full pages.
        _, added = cursor.putmulti(rows, append=True)
    assert added == len(rows), "put_rows has checked the order"
