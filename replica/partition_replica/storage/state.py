"""The state machine in LMDB: keys, the file tree, sessions and the applied LSN. Each batch is one
transaction.

Its commits may become durable later than the log's: the environment is opened without meta syncs. A
power failure may undo the last batch, which is then applied again from the stored applied LSN.
"""

import threading
from collections.abc import Sequence
from pathlib import Path

import lmdb
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.apply import apply_body
from partition_replica.core.limits import SESSION_TTL_MS_MAX
from partition_replica.core.model import (
    Applied,
    Ineffective,
    LogEntry,
    Position,
    ProposalResult,
    Session,
    TreeEntry,
)
from partition_replica.core.paths import shown
from partition_replica.core.payloads import decode_body
from partition_replica.errors import NotFound
from partition_replica.ids import LSN, Digest, SessionID, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import (
    Transaction,
    lmdb_failures,
    open_environment,
    open_read_only,
    reading,
)
from partition_replica.storage.key_table import SHORT_BYTES
from partition_replica.storage.session_expiry import SessionExpiry
from partition_replica.storage.state_copy import FrozenState
from partition_replica.storage.state_tables import (
    APPLIED,
    TABLES,
    Tables,
    applied_row,
    clock_of,
    decode_node,
    decode_result,
    decode_session,
    iterate_blobs,
    put_applied,
    put_history,
    read_applied,
    read_history,
)
from partition_replica.storage.state_view import LmdbView


class LmdbState:
    """One generation of a replica's state. Any thread may read; one at a time may `apply`."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens or creates the environment. A new one has applied LSN 0. read_only: opens an
        existing environment that no other process uses; only reads are allowed."""
        self.path = path
        self._environment = (
            open_read_only(path, len(TABLES))
            if read_only
            else open_environment(path, metasync=False, tables=len(TABLES))
        )
        try:
            self._tables = Tables(self._environment, create=not read_only)
            self._applied = read_applied(self._environment, self._tables)
            self._history = read_history(self._environment, self._tables)
        except BaseException:
            self._environment.close()  # LMDB allows one open environment per file and process
            raise
        self._expiry = SessionExpiry()
        self._views = 0
        self._closing = False
        self._lock = threading.Lock()

    @property
    def environment(self) -> lmdb.Environment:
        """For code that reads rows directly: verification, export."""
        return self._environment

    @property
    def tables(self) -> Tables:
        return self._tables

    @property
    def applied(self) -> Position:
        row = self._applied  # once: the applier's thread replaces it
        return Position(LSN(row.index), Term(row.term))

    @property
    def time_ms(self) -> int:
        """The wall-clock time in the last applied entry that has one, in milliseconds since
        1970."""
        return self._applied.time_ms

    @property
    def clock_ms(self) -> int:
        """The session clock, in milliseconds."""
        return clock_of(self._applied)

    @property
    def history(self) -> str:
        """The history ID that a restore or an import gave the state; "" if it is the cluster
        ID."""
        return self._history

    # --- writes -------------------------------------------------------------------------------

    def start(self, position: Position, members: dict[int, str]) -> None:
        """Sets the position and the members of a new group's empty state, durably."""
        with lmdb_failures("commit of the state"), self._environment.begin(write=True) as txn:
            view = LmdbView(txn, self._tables, self._applied, self._expiry)
            for member, address in members.items():
                view.put_member(member, address)
            view.finish(position)
        self._environment.sync(True)
        self._applied = read_applied(self._environment, self._tables)

    def apply(
        self, entries: list[LogEntry], members: dict[int, str | None]
    ) -> tuple[list[Applied], list[Digest]]:
        """Applies consecutive entries in one transaction.

        `members`: the addresses that configuration changes among the entries set; None removes the
        member. Returns the effect of each entry, and the blobs that lost their last reference from
        the tree. Raises ValueError for a gap, Damaged, StorageFailed.
        """
        if entries[0].index != self._applied.index + 1:
            raise ValueError(
                f"entry {entries[0].index} cannot be applied after {self._applied.index}"
            )
        results: list[Applied] = []
        with lmdb_failures("commit of the state"), self._environment.begin(write=True) as txn:
            view = LmdbView(txn, self._tables, self._applied, self._expiry)
            for entry in entries:
                applied = self._apply_entry(view, entry)
                view.note_unapplied(applied)
                results.append(applied)
                view.spill()
            for member, address in members.items():
                if address is None:
                    view.delete_member(member)
                else:
                    view.put_member(member, address)
            position = Position(entries[-1].index, entries[-1].term)
            view.finish(position)
        self._applied = applied_row(position, view.time_ms, view.clock_ms)
        released = [digest for digest in sorted(view.released) if not self.names_blob(digest)]
        return results, released

    def sync(self) -> Position:
        """Makes all applied entries durable; returns the position of the last one."""
        position = self.applied
        with lmdb_failures("sync of the state"):
            self._environment.sync(True)
        return position

    def set_term(self, term: Term) -> None:
        """Sets the term of the applied position, durably, after a backfill of its entry."""
        with lmdb_failures("commit of the state"):
            with self._environment.begin(write=True) as txn:
                position = Position(self.applied.index, term)
                row = applied_row(position, self.time_ms, self.clock_ms)
                put_applied(txn, self._tables, row)
            self._environment.sync(True)
        self._applied = read_applied(self._environment, self._tables)

    def begin_history(self, history: str) -> None:
        """Sets the history ID of an imported state, durably. Sessions from its base expire, because
        no client of the new history owns them."""
        clock_ms = self.clock_ms + (SESSION_TTL_MS_MAX + 1 if self.session_count() else 0)
        with lmdb_failures("commit of the state"):
            with self._environment.begin(write=True) as txn:
                put_applied(txn, self._tables, applied_row(self.applied, self.time_ms, clock_ms))
                put_history(txn, self._tables, history)
            self._environment.sync(True)
        self._applied = read_applied(self._environment, self._tables)
        self._history = history

    def renew_history(self, history: str) -> None:
        """Sets the history ID of a state whose sessions have expired by its entries, durably."""
        with lmdb_failures("commit of the state"):
            with self._environment.begin(write=True) as txn:
                put_history(txn, self._tables, history)
            self._environment.sync(True)
        self._history = history

    def save_member(self, member: int, address: str) -> None:
        """Sets a member's address, durably, if no entry does, as after an import."""
        with lmdb_failures("commit of the state"):
            with self._environment.begin(write=True) as txn:
                key = codec.u64(member)
                row = codec.seal_message(key, rows.MemberRow(address=address))
                txn.put(key, row, db=self._tables.member)
            self._environment.sync(True)

    def forget_unapplied(self, below: LSN, rows_max: int = 4096) -> int:
        """Deletes the notes of ineffective entries below an LSN, after the log has pruned them.
        Returns the number of deleted notes, at most `rows_max`."""
        count = 0
        with lmdb_failures("commit of the state"), self._environment.begin(write=True) as txn:
            cursor = txn.cursor(self._tables.unapplied)
            found = cursor.first()
            while found and count < rows_max and codec.from_u64(cursor.key()) < below:
                cursor.delete()
                count += 1
                found = bool(cursor.key())
        return count

    def unapplied(self, lsn: LSN) -> rows.UnappliedRow | None:
        """The note about the entry at an LSN if it was, in part, ineffective; otherwise None."""
        key = codec.u64(lsn)
        if self._tables.unapplied is None:
            return None
        with reading(self._environment, "the state") as txn:
            row = txn.get(key, db=self._tables.unapplied)
        return (
            None if row is None else codec.unseal_message("unapplied", key, row, rows.UnappliedRow)
        )

    def unapplied_between(self, first: LSN, last: LSN) -> dict[LSN, Ineffective]:
        """The entries of [first, last] that were, in part, ineffective, by LSN. It does not contain
        entries that the log has pruned."""
        found: dict[LSN, Ineffective] = {}
        if self._tables.unapplied is None:
            return found
        with reading(self._environment, "the state") as txn:
            cursor = txn.cursor(self._tables.unapplied)
            more = cursor.set_range(codec.u64(first))
            while more and (lsn := codec.from_u64(cursor.key())) <= last:
                row = codec.unseal_message(
                    "unapplied", bytes(cursor.key()), cursor.value(), rows.UnappliedRow
                )
                found[LSN(lsn)] = Ineffective(row.whole, row.outcomes)
                more = cursor.next()
        return found

    def freeze(self) -> FrozenState:
        """Opens a read transaction on the current state, to copy it. No entry may be applied during
        this call, which takes microseconds."""
        with self._lock:
            self._views += 1
        try:
            with lmdb_failures("reading the state"):
                txn = self._environment.begin()
        except BaseException:
            self._thaw()
            raise
        return FrozenState(
            self._environment, txn, self.applied, self.time_ms, self.clock_ms, self._thaw
        )

    def copy(self, directory: Path) -> Position:
        """Writes a compacted copy of the state to `directory`/data.mdb, durably; returns its
        position. No entry may be applied meanwhile."""
        frozen = self.freeze()
        try:
            frozen.copy(directory)
        finally:
            frozen.close()
        return frozen.position

    def size_bytes(self) -> int:
        """The used bytes of the file, including free pages: an upper bound of a copy's size."""
        info = self._environment.info()
        return (info["last_pgno"] + 1) * self._environment.stat()["psize"]

    def close(self) -> None:
        """Closes the environment, or lets the end of a copy in progress close it."""
        with self._lock:
            self._closing = True
            if self._views:
                return
        self._environment.close()

    def _thaw(self) -> None:
        with self._lock:
            self._views -= 1
            last = self._closing and not self._views
        if last:
            self._environment.close()

    def _apply_entry(self, view: LmdbView, entry: LogEntry) -> Applied:
        if entry.kind:
            return Applied(entry.index, entry.term, "configuration")
        body = None
        if entry.data:
            body = decode_body(entry)
        return apply_body(view, entry.index, entry.term, body)

    # --- reads --------------------------------------------------------------------------------

    def get_value(self, key: bytes) -> tuple[bytes | None, LSN]:
        """Returns (value or None, the applied LSN)."""
        with reading(self._environment, "the state") as txn:
            if len(key) <= SHORT_BYTES:
                row = txn.get(key, db=self._tables.value)
            else:
                row = self._tables.values.get(txn, key)
            value = None if row is None else codec.unseal("value", key, row)
            return value, self._applied_in(txn)

    def get_values(self, keys: Sequence[bytes], bytes_max: int) -> tuple[list[bytes | None], LSN]:
        """Returns (the values of the first keys, None for an absent key; the applied LSN), all as
        of that LSN. There are as many values as fit into `bytes_max`, but at least one."""
        values: list[bytes | None] = []
        size = 0
        with reading(self._environment, "the state") as txn:
            for key in keys:
                if len(key) <= SHORT_BYTES:
                    row = txn.get(key, db=self._tables.value)
                else:
                    row = self._tables.values.get(txn, key)
                value = None if row is None else codec.unseal("value", key, row)
                size += len(value or b"")
                if values and size > bytes_max:
                    break
                values.append(value)
            return values, self._applied_in(txn)

    def list_values(
        self, start: bytes, end: bytes, count: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes, LSN]:
        """Returns (the items of [start, end), the key to continue from or b"", the applied LSN). An
        empty `end` is no bound. At most `count` items and `bytes_max` bytes, but at least one
        item."""
        items: list[tuple[bytes, bytes]] = []
        size = 0
        with reading(self._environment, "the state") as txn:
            for key, row in self._tables.values.rows(txn, start):
                if end and key >= end:
                    break
                value = codec.unseal("value", key, row)
                size += len(key) + len(value)
                if items and (len(items) >= count or size > bytes_max):
                    return items, key, self._applied_in(txn)
                items.append((key, value))
            return items, b"", self._applied_in(txn)

    def get_tree_entry(self, path: bytes) -> tuple[TreeEntry | None, LSN]:
        with reading(self._environment, "the state") as txn:
            if len(path) <= SHORT_BYTES:
                row = txn.get(path, db=self._tables.tree)
            else:
                row = self._tables.nodes.get(txn, path)
            node = None if row is None else decode_node(path, row)
            return node, self._applied_in(txn)

    def get_file(self, path: bytes) -> tuple[TreeEntry | None, bytes | None, LSN]:
        """Returns (the file at a path, its inline content, the applied LSN), all as of that LSN.
        The file is None if the path does not exist or is a directory; the content is None if it is
        a blob."""
        with reading(self._environment, "the state") as txn:
            row = self._tables.nodes.get_any(txn, path)
            node = None if row is None else decode_node(path, row)
            if node is None or node.directory:
                return None, None, self._applied_in(txn)
            row = txn.get(node.digest, db=self._tables.content)
            content = None if row is None else codec.unseal("content", node.digest, row)
            return node, content, self._applied_in(txn)

    def list_tree_entries(
        self, path: bytes, after: bytes, recursive: bool, count: int
    ) -> tuple[list[tuple[bytes, TreeEntry]], LSN]:
        """Returns up to `count` tree entries below directory `path` (b"" is the root) after the
        path `after` (b"": from the start), in byte order, and the applied LSN. Without `recursive`,
        only the directory's direct entries. Raises NotFound if `path` is not a directory."""
        prefix = path + b"/" if path else b""
        items: list[tuple[bytes, TreeEntry]] = []
        with reading(self._environment, "the state") as txn:
            if path:
                row = self._tables.nodes.get_any(txn, path)
                if row is None or not decode_node(path, row).directory:
                    applied = self._applied_in(txn)
                    raise NotFound(f"{shown(path)} is not a directory of the tree at LSN {applied}")
            walk = self._tables.nodes.walk(txn)
            rows = walk(after + b"\0" if after else prefix)
            while len(items) < count:
                key, row = next(rows, (b"", b""))
                if not key or not key.startswith(prefix):
                    break
                slash = -1 if recursive else key.find(b"/", len(prefix))
                if slash < 0:
                    items.append((key, decode_node(key, row)))
                else:
                    # Continue after the contents of this nested directory: '0' follows '/'.
                    rows = walk(key[:slash] + b"0")
            return items, self._applied_in(txn)

    def content(self, digest: Digest) -> bytes | None:
        """An inline payload's content; None if it is a blob, or nothing names it."""
        with reading(self._environment, "the state") as txn:
            row = txn.get(digest, db=self._tables.content)
        return None if row is None else codec.unseal("content", digest, row)

    def get_session(
        self, session: SessionID, sequence: int
    ) -> tuple[Session | None, ProposalResult | None]:
        """Returns (the session, the stored result of one of its sequences), each or None, as of one
        LSN."""
        key = codec.u64(session)
        result_key = key + codec.u64(sequence)
        with reading(self._environment, "the state") as txn:
            row = txn.get(key, db=self._tables.session)
            result = txn.get(result_key, db=self._tables.result)
        return (
            None if row is None else decode_session(key, row),
            None if result is None else decode_result(result_key, result),
        )

    def get_results(
        self, session: SessionID, low: int, high: int
    ) -> tuple[Session | None, dict[int, ProposalResult]]:
        """Returns (the session or None, the stored results of its sequences from `low` to `high`),
        as of one LSN. A session has at most `limits.SESSION_WINDOW` results."""
        key = codec.u64(session)
        first, last = key + codec.u64(low), key + codec.u64(high)
        found: dict[int, ProposalResult] = {}
        with reading(self._environment, "the state") as txn:
            row = txn.get(key, db=self._tables.session)
            cursor = txn.cursor(self._tables.result)
            more = cursor.set_range(first)
            while more and (result_key := cursor.key()) <= last:
                sequence = codec.from_u64(result_key[len(key) :])
                found[sequence] = decode_result(result_key, cursor.value())
                more = cursor.next()
        return None if row is None else decode_session(key, row), found

    def session_count(self) -> int:
        """The number of sessions, including expired ones that no OpenSession has deleted yet."""
        with reading(self._environment, "the state") as txn:
            return int(txn.stat(self._tables.session)["entries"])

    def members(self) -> dict[int, str]:
        """Addresses by member ID."""
        with reading(self._environment, "the state") as txn:
            return {
                codec.from_u64(key): codec.unseal_message(
                    "member", key, row, rows.MemberRow
                ).address
                for key, row in txn.cursor(self._tables.member)
            }

    def names_blob(self, digest: Digest) -> bool:
        """Whether the tree names the payload and it is a blob."""
        with reading(self._environment, "the state") as txn:
            row = txn.get(digest, db=self._tables.payload)
        if row is None:
            return False
        return not codec.unseal_message("payload", digest, row, rows.PayloadRow).inlined

    def payload_size(self, digest: Digest) -> int | None:
        """The size in bytes of a payload that the tree names; None for others."""
        with reading(self._environment, "the state") as txn:
            row = txn.get(digest, db=self._tables.payload)
        if row is None:
            return None
        return codec.unseal_message("payload", digest, row, rows.PayloadRow).size

    def blobs(self) -> list[tuple[Digest, int]]:
        """(digest, size) of every blob that the tree names."""
        with reading(self._environment, "the state") as txn:
            return list(iterate_blobs(txn, self._tables))

    def _applied_in(self, txn: Transaction) -> LSN:
        row = txn.get(APPLIED, db=self._tables.meta)
        if row is None:
            return LSN(0)
        return LSN(codec.unseal_message("meta", APPLIED, row, rows.AppliedRow).index)
