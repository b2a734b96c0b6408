"""The state machine in LMDB: keys, the file tree, sessions and the applied LSN, in one
transaction a batch.

Its commits may lag the log's: it is opened without meta syncs, so a power failure may undo the
last batch, which is then applied again from its own applied LSN.
"""

import threading
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
    LmdbView,
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


class LmdbState:
    """One generation of a replica's state. Reads from any thread, `apply` from one at a time."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens or creates the environment; a new one has applied nothing. read_only: opens one
        that nobody else uses, creates nothing, and only reads are allowed."""
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
            self._environment.close()  # LMDB opens a file once in a process
            raise
        self._expiry = SessionExpiry()
        self._views = 0
        self._closing = False
        self._lock = threading.Lock()

    @property
    def environment(self) -> lmdb.Environment:
        """For those who look at rows: verification, export."""
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
        """The wall clock of the last applied entry that carried one, milliseconds since 1970."""
        return self._applied.time_ms

    @property
    def clock_ms(self) -> int:
        """The clock by which sessions expire, in milliseconds."""
        return clock_of(self._applied)

    @property
    def history(self) -> str:
        """The history ID that a restore gave it; "" if the cluster's ID is the history."""
        return self._history

    # --- writes -------------------------------------------------------------------------------

    def start(self, position: Position, members: dict[int, str]) -> None:
        """Makes a new state that of `position`, durably: the first one of a group."""
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

        `members`: addresses that a configuration change among them sets, None for one it removes.
        Returns what each did, and the blobs that lost their last reference from the tree. Raises
        ValueError for a gap, Damaged, StorageFailed.
        """
        if entries[0].index != self._applied.index + 1:
            raise ValueError(f"entry {entries[0].index} applied behind {self._applied.index}")
        results: list[Applied] = []
        with lmdb_failures("commit of the state"), self._environment.begin(write=True) as txn:
            view = LmdbView(txn, self._tables, self._applied, self._expiry)
            for entry in entries:
                applied = self._apply_entry(view, entry)
                view.note_unapplied(applied)
                results.append(applied)
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
        """Makes everything applied so far durable, the last batch too; returns up to where."""
        position = self.applied
        with lmdb_failures("sync of the state"):
            self._environment.sync(True)
        return position

    def set_term(self, term: Term) -> None:
        """Gives the applied position the term that a backfill gave its entry, durably."""
        with lmdb_failures("commit of the state"):
            with self._environment.begin(write=True) as txn:
                position = Position(self.applied.index, term)
                row = applied_row(position, self.time_ms, self.clock_ms)
                put_applied(txn, self._tables, row)
            self._environment.sync(True)
        self._applied = read_applied(self._environment, self._tables)

    def begin_history(self, history: str) -> None:
        """Gives the state a history ID of its own, durably: of a volume that an import makes. The
        sessions of the old one, which came with a base, are over: nobody of the new one owns
        them."""
        clock_ms = self.clock_ms + (SESSION_TTL_MS_MAX + 1 if self.session_count() else 0)
        with lmdb_failures("commit of the state"):
            with self._environment.begin(write=True) as txn:
                put_applied(txn, self._tables, applied_row(self.applied, self.time_ms, clock_ms))
                put_history(txn, self._tables, history)
            self._environment.sync(True)
        self._applied = read_applied(self._environment, self._tables)
        self._history = history

    def save_member(self, member: int, address: str) -> None:
        """Where a member is reached, durably: of one that is in no entry, as after an import."""
        with lmdb_failures("commit of the state"):
            with self._environment.begin(write=True) as txn:
                key = codec.u64(member)
                row = codec.seal_message(key, rows.MemberRow(address=address))
                txn.put(key, row, db=self._tables.member)
            self._environment.sync(True)

    def forget_unapplied(self, below: LSN, rows_max: int = 4096) -> int:
        """Drops notes of entries below an LSN, which the log has no more; how many went."""
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
        """What of the entry at an LSN had no effect; None where all had."""
        key = codec.u64(lsn)
        if self._tables.unapplied is None:
            return None
        with reading(self._environment, "the state") as txn:
            row = txn.get(key, db=self._tables.unapplied)
        return (
            None if row is None else codec.unseal_message("unapplied", key, row, rows.UnappliedRow)
        )

    def unapplied_between(self, first: LSN, last: LSN) -> dict[LSN, Ineffective]:
        """What of the entries [first, last] had no effect, by LSN; those that had all are not in
        it. Of entries that the log has no more nothing is known."""
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
        """The state as it is now, for as long as it takes to copy it. Call where nothing is applied
        meanwhile; it takes microseconds."""
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
        """Copies the state, compacted, to `directory`/data.mdb, durably; returns its position. Call
        where nothing applies meanwhile."""
        frozen = self.freeze()
        try:
            frozen.copy(directory)
        finally:
            frozen.close()
        return frozen.position

    def size_bytes(self) -> int:
        """Bytes of the file that are in use, free pages included: what a copy may take."""
        info = self._environment.info()
        return (info["last_pgno"] + 1) * self._environment.stat()["psize"]

    def close(self) -> None:
        """Closes it; where it is being copied, the copy's end does."""
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
        """(value or None, the LSN it is as of)."""
        with reading(self._environment, "the state") as txn:
            if len(key) <= SHORT_BYTES:
                row = txn.get(key, db=self._tables.value)
            else:
                row = self._tables.values.get(txn, key)
            value = None if row is None else codec.unseal("value", key, row)
            return value, self._applied_in(txn)

    def list_values(
        self, start: bytes, end: bytes, count: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes, LSN]:
        """(items of [start, end), where to go on or b"", the LSN). An empty end means none."""
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
        """(the file at a path, its content where that is inlined, the LSN) of one moment. No node
        where there is none or a directory; no content where it is a blob."""
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
        """Up to `count` entries below directory `path` (b"" is the root) behind the path `after`
        (b"" from the start), in byte order; only the directory's own where not recursive. Raises
        NotFound where `path` is no directory."""
        prefix = path + b"/" if path else b""
        items: list[tuple[bytes, TreeEntry]] = []
        with reading(self._environment, "the state") as txn:
            if path:
                row = self._tables.nodes.get_any(txn, path)
                if row is None or not decode_node(path, row).directory:
                    raise NotFound(
                        f"{shown(path)} is no directory of the tree at LSN {self._applied_in(txn)}"
                    )
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
                    # Behind everything that this nested directory holds: '0' follows '/'.
                    rows = walk(key[:slash] + b"0")
            return items, self._applied_in(txn)

    def content(self, digest: Digest) -> bytes | None:
        """An inlined payload's content; None where it is a blob, or nothing names it."""
        with reading(self._environment, "the state") as txn:
            row = txn.get(digest, db=self._tables.content)
        return None if row is None else codec.unseal("content", digest, row)

    def get_session(
        self, session: SessionID, sequence: int
    ) -> tuple[Session | None, ProposalResult | None]:
        """The session, and what is stored of one of its sequences, at one moment."""
        key = codec.u64(session)
        result_key = key + codec.u64(sequence)
        with reading(self._environment, "the state") as txn:
            row = txn.get(key, db=self._tables.session)
            result = txn.get(result_key, db=self._tables.result)
        return (
            None if row is None else decode_session(key, row),
            None if result is None else decode_result(result_key, result),
        )

    def session_count(self) -> int:
        """Including expired ones that no OpenSession has swept yet."""
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
        """Whether the tree names it and it is no inlined payload."""
        with reading(self._environment, "the state") as txn:
            row = txn.get(digest, db=self._tables.payload)
        if row is None:
            return False
        return not codec.unseal_message("payload", digest, row, rows.PayloadRow).inlined

    def payload_size(self, digest: Digest) -> int | None:
        """Of a payload that the tree names; None of others."""
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
