"""The state machine in LMDB: keys, the file tree, sessions and the applied LSN, in one
transaction a batch.

Its commits may lag the log's: it is opened without meta syncs, so a power failure may undo the
last batch, which is then applied again from its own applied LSN.
"""

from collections.abc import Iterator
from pathlib import Path

import lmdb
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.apply import apply_body
from partition_replica.core.model import (
    Applied,
    LogEntry,
    Node,
    Position,
    ProposalResult,
    Session,
)
from partition_replica.core.payloads import decode_body
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Digest, SessionID, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import (
    Transaction,
    lmdb_failures,
    open_environment,
    open_read_only,
    reading,
)
from partition_replica.storage.files import sync_directory, sync_file

APPLIED = b"applied"
TABLES = (
    "meta",
    "value",
    "tree",
    "payload",
    "content",
    "session",
    "result",
    "member",
    "unapplied",
)


class Tables:
    """The tables of an open state environment."""

    def __init__(self, environment: lmdb.Environment, *, create: bool) -> None:
        with lmdb_failures("opening the state's tables"):
            handles = {n: environment.open_db(n.encode(), create=create) for n in TABLES}
        self.meta = handles["meta"]
        self.value = handles["value"]
        self.tree = handles["tree"]
        self.payload = handles["payload"]
        self.content = handles["content"]
        self.session = handles["session"]
        self.result = handles["result"]
        self.member = handles["member"]
        self.unapplied = handles["unapplied"]


class LmdbView:
    """`core.ports.StateView` over one write transaction. Sessions are written back at the end:
    a batch touches the same few over and over."""

    def __init__(self, txn: Transaction, tables: Tables, applied: rows.AppliedRow) -> None:
        self._txn = txn
        self._tables = tables
        self._sessions: dict[SessionID, Session | None] = {}
        self.time_ms = applied.time_ms
        self.released: set[Digest] = set()

    def get_value(self, key: bytes) -> bytes | None:
        row = self._txn.get(key, db=self._tables.value)
        return None if row is None else codec.unseal("value", key, row)

    def put_value(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, codec.seal(key, value), db=self._tables.value)

    def delete_value(self, key: bytes) -> None:
        self._txn.delete(key, db=self._tables.value)

    def get_node(self, path: bytes) -> Node | None:
        row = self._txn.get(path, db=self._tables.tree)
        return None if row is None else decode_node(path, row)

    def put_node(self, path: bytes, node: Node) -> None:
        message = rows.NodeRow(
            directory=node.directory, mode=node.mode, size=node.size, digest=node.digest
        )
        self._txn.put(path, codec.seal_message(path, message), db=self._tables.tree)

    def delete_node(self, path: bytes) -> None:
        self._txn.delete(path, db=self._tables.tree)

    def has_children(self, path: bytes) -> bool:
        cursor = self._txn.cursor(self._tables.tree)
        prefix = path + b"/"
        return cursor.set_range(prefix) and cursor.key().startswith(prefix)

    def hold_payload(self, digest: Digest, size: int, data: bytes | None) -> None:
        row = self._payload(digest)
        if row is None:
            row = rows.PayloadRow(size=size, inlined=data is not None)
            if data is not None:
                self._txn.put(digest, codec.seal(digest, data), db=self._tables.content)
        row.references += 1
        self._txn.put(digest, codec.seal_message(digest, row), db=self._tables.payload)

    def release_payload(self, digest: Digest) -> None:
        row = self._payload(digest)
        if row is None:
            raise Damaged(f"payload {digest.hex()} is named by the tree and has no row")
        if row.references > 1:
            row.references -= 1
            self._txn.put(digest, codec.seal_message(digest, row), db=self._tables.payload)
            return
        self._txn.delete(digest, db=self._tables.payload)
        if row.inlined:
            self._txn.delete(digest, db=self._tables.content)
        else:
            self.released.add(digest)

    def get_session(self, session: SessionID) -> Session | None:
        if session not in self._sessions:
            key = codec.u64(session)
            row = self._txn.get(key, db=self._tables.session)
            self._sessions[session] = None if row is None else decode_session(key, row)
        return self._sessions[session]

    def put_session(self, session: SessionID, row: Session) -> None:
        self._sessions[session] = row

    def delete_session(self, session: SessionID) -> None:
        if self.get_session(session) is None:
            return
        self._sessions[session] = None
        self._drop_results(codec.u64(session), None)

    def list_sessions(self) -> list[tuple[SessionID, Session]]:
        self._write_sessions()
        cursor = self._txn.cursor(self._tables.session)
        return [(SessionID(codec.from_u64(key)), decode_session(key, row)) for key, row in cursor]

    def get_result(self, session: SessionID, sequence: int) -> ProposalResult | None:
        key = codec.u64(session) + codec.u64(sequence)
        row = self._txn.get(key, db=self._tables.result)
        return None if row is None else decode_result(key, row)

    def put_result(self, session: SessionID, sequence: int, result: ProposalResult) -> None:
        key = codec.u64(session) + codec.u64(sequence)
        message = rows.ResultRow(
            lsn=result.lsn,
            precondition_failed=result.precondition_failed,
            outcomes=result.outcomes,
        )
        self._txn.put(key, codec.seal_message(key, message), db=self._tables.result)

    def drop_results_below(self, session: SessionID, sequence: int) -> None:
        prefix = codec.u64(session)
        self._drop_results(prefix, prefix + codec.u64(sequence))

    def _drop_results(self, prefix: bytes, end: bytes | None) -> None:
        """A session's results with keys below `end`; all of them where it is None."""
        cursor = self._txn.cursor(self._tables.result)
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix) and (end is None or cursor.key() < end):
            cursor.delete()
            found = bool(cursor.key())

    def put_member(self, member: int, address: str) -> None:
        key = codec.u64(member)
        row = codec.seal_message(key, rows.MemberRow(address=address))
        self._txn.put(key, row, db=self._tables.member)

    def delete_member(self, member: int) -> None:
        self._txn.delete(codec.u64(member), db=self._tables.member)

    def note_unapplied(self, applied: Applied) -> None:
        """Remembers what of an entry had no effect: an export leaves it out."""
        result = applied.result
        whole = applied.kind in ("duplicate", "session_expired") or (
            result is not None and result.precondition_failed
        )
        if not whole and (result is None or not result.outcomes):
            return
        key = codec.u64(applied.index)
        row = rows.UnappliedRow(whole=whole, outcomes=b"" if whole else result.outcomes)  # type: ignore[union-attr]
        self._txn.put(key, codec.seal_message(key, row), db=self._tables.unapplied)

    def finish(self, position: Position) -> None:
        """Writes what was kept back, and the applied LSN."""
        self._write_sessions()
        put_applied(self._txn, self._tables, position, self.time_ms)

    def _payload(self, digest: Digest) -> rows.PayloadRow | None:
        row = self._txn.get(digest, db=self._tables.payload)
        if row is None:
            return None
        return codec.unseal_message("payload", digest, row, rows.PayloadRow)

    def _write_sessions(self) -> None:
        for session, row in self._sessions.items():
            key = codec.u64(session)
            if row is None:
                self._txn.delete(key, db=self._tables.session)
                continue
            message = rows.SessionRow(
                time_to_live_ms=row.time_to_live_ms,
                last_active_ms=row.last_active_ms,
                acknowledged_below=row.acknowledged_below,
            )
            self._txn.put(key, codec.seal_message(key, message), db=self._tables.session)
        self._sessions.clear()


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
        self._tables = Tables(self._environment, create=not read_only)
        self._applied = read_applied(self._environment, self._tables)

    @property
    def environment(self) -> lmdb.Environment:
        """For those who look at rows: verification, export."""
        return self._environment

    @property
    def tables(self) -> Tables:
        return self._tables

    @property
    def applied(self) -> Position:
        return Position(LSN(self._applied.index), Term(self._applied.term))

    @property
    def time_ms(self) -> int:
        """The highest time that an applied entry carried, milliseconds since 1970."""
        return self._applied.time_ms

    # --- writes -------------------------------------------------------------------------------

    def start(self, position: Position, members: dict[int, str]) -> None:
        """Makes a new state that of `position`, durably: the first one of a group."""
        with lmdb_failures("commit of the state"), self._environment.begin(write=True) as txn:
            view = LmdbView(txn, self._tables, self._applied)
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
            view = LmdbView(txn, self._tables, self._applied)
            for entry in entries:
                applied = self._apply_entry(view, entry)
                view.note_unapplied(applied)
                results.append(applied)
            for member, address in members.items():
                if address is None:
                    view.delete_member(member)
                else:
                    view.put_member(member, address)
            last = entries[-1]
            view.finish(Position(last.index, last.term))
            time_ms = view.time_ms
        self._applied = rows.AppliedRow(
            format_version=codec.FORMAT_VERSION,
            index=last.index,
            term=last.term,
            time_ms=time_ms,
        )
        released = [digest for digest in view.released if not self.names_blob(digest)]
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
                put_applied(txn, self._tables, position, self.time_ms)
            self._environment.sync(True)
        self._applied = read_applied(self._environment, self._tables)

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
        with reading(self._environment, "the state") as txn:
            row = txn.get(key, db=self._tables.unapplied)
        return (
            None if row is None else codec.unseal_message("unapplied", key, row, rows.UnappliedRow)
        )

    def copy(self, directory: Path) -> Position:
        """Copies the state, compacted, to `directory`/data.mdb, durably; returns its position.

        One read transaction, as long as the copy takes. Call where nothing applies meanwhile.
        """
        position = self.applied
        directory.mkdir(mode=0o700)
        with lmdb_failures("copy of the state"):
            self._environment.copy(str(directory), compact=True)
        with (directory / "data.mdb").open("rb") as file:
            sync_file(file.fileno(), "a snapshot")
        sync_directory(directory)
        return position

    def size_bytes(self) -> int:
        """Bytes of the file that are in use, free pages included: what a copy may take."""
        info = self._environment.info()
        return (info["last_pgno"] + 1) * self._environment.stat()["psize"]

    def close(self) -> None:
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
            row = txn.get(key, db=self._tables.value)
            value = None if row is None else codec.unseal("value", key, row)
            return value, self._applied_in(txn)

    def list_values(
        self, start: bytes, end: bytes, count: int, bytes_max: int
    ) -> tuple[list[tuple[bytes, bytes]], bytes, LSN]:
        """(items of [start, end), where to go on or b"", the LSN). An empty end means none."""
        items: list[tuple[bytes, bytes]] = []
        size = 0
        with reading(self._environment, "the state") as txn:
            cursor = txn.cursor(self._tables.value)
            found = cursor.set_range(start) if start else cursor.first()
            while found:
                key = bytes(cursor.key())
                if end and key >= end:
                    break
                value = codec.unseal("value", key, cursor.value())
                size += len(key) + len(value)
                if items and (len(items) >= count or size > bytes_max):
                    return items, key, self._applied_in(txn)
                items.append((key, value))
                found = cursor.next()
            return items, b"", self._applied_in(txn)

    def get_node(self, path: bytes) -> tuple[Node | None, LSN]:
        with reading(self._environment, "the state") as txn:
            row = txn.get(path, db=self._tables.tree)
            node = None if row is None else decode_node(path, row)
            return node, self._applied_in(txn)

    def list_nodes(
        self, path: bytes, after: bytes, recursive: bool, count: int
    ) -> tuple[list[tuple[bytes, Node]], LSN]:
        """Up to `count` entries below directory `path` (b"" is the root) behind the path `after`
        (b"" from the start), in byte order; only the directory's own where not recursive."""
        prefix = path + b"/" if path else b""
        items: list[tuple[bytes, Node]] = []
        with reading(self._environment, "the state") as txn:
            cursor = txn.cursor(self._tables.tree)
            found = (
                cursor.set_range(after + b"\0" if after else prefix)
                if (after or prefix)
                else cursor.first()
            )
            while found and len(items) < count:
                key = bytes(cursor.key())
                if not key.startswith(prefix):
                    break
                name = key[len(prefix) :]
                if not recursive and b"/" in name:
                    # Behind everything that this nested directory holds: '0' follows '/'.
                    found = cursor.set_range(prefix + name.partition(b"/")[0] + b"0")
                    continue
                items.append((key, decode_node(key, cursor.value())))
                found = cursor.next()
            return items, self._applied_in(txn)

    def content(self, digest: Digest) -> bytes | None:
        """An inlined payload's content; None where it is a blob, or nothing names it."""
        with reading(self._environment, "the state") as txn:
            row = txn.get(digest, db=self._tables.content)
        return None if row is None else codec.unseal("content", digest, row)

    def get_session(self, session: SessionID) -> Session | None:
        key = codec.u64(session)
        with reading(self._environment, "the state") as txn:
            row = txn.get(key, db=self._tables.session)
        return None if row is None else decode_session(key, row)

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


def inspect_copy(directory: Path) -> tuple[Position, list[tuple[Digest, int]]]:
    """What a copied state is: its position, and the (digest, size) of the blobs it names.

    Raises Damaged, StorageFailed.
    """
    environment = open_read_only(directory, len(TABLES))
    try:
        tables = Tables(environment, create=False)
        applied = read_applied(environment, tables)
        with reading(environment, "a copied state") as txn:
            blobs = list(iterate_blobs(txn, tables))
    finally:
        environment.close()
    return Position(LSN(applied.index), Term(applied.term)), blobs


def iterate_blobs(txn: Transaction, tables: Tables) -> Iterator[tuple[Digest, int]]:
    for key, row in txn.cursor(tables.payload):
        payload = codec.unseal_message("payload", key, row, rows.PayloadRow)
        if not payload.inlined:
            yield Digest(bytes(key)), payload.size


def read_applied(environment: lmdb.Environment, tables: Tables) -> rows.AppliedRow:
    with reading(environment, "the state") as txn:
        row = txn.get(APPLIED, db=tables.meta)
    if row is None:
        return rows.AppliedRow(format_version=codec.FORMAT_VERSION)
    applied = codec.unseal_message("meta", APPLIED, row, rows.AppliedRow)
    if applied.format_version != codec.FORMAT_VERSION:
        raise Damaged(
            f"the state has format {applied.format_version}; this version reads "
            f"{codec.FORMAT_VERSION}"
        )
    return applied


def put_applied(txn: Transaction, tables: Tables, position: Position, time_ms: int) -> None:
    message = rows.AppliedRow(
        format_version=codec.FORMAT_VERSION,
        index=position.index,
        term=position.term,
        time_ms=time_ms,
    )
    txn.put(APPLIED, codec.seal_message(APPLIED, message), db=tables.meta)


def decode_node(path: bytes, row: bytes) -> Node:
    node = codec.unseal_message("tree", path, row, rows.NodeRow)
    return Node(node.directory, node.mode, node.size, Digest(node.digest))


def decode_session(key: bytes, row: bytes) -> Session:
    session = codec.unseal_message("session", key, row, rows.SessionRow)
    return Session(session.time_to_live_ms, session.last_active_ms, session.acknowledged_below)


def decode_result(key: bytes, row: bytes) -> ProposalResult:
    result = codec.unseal_message("result", key, row, rows.ResultRow)
    return ProposalResult(LSN(result.lsn), result.precondition_failed, result.outcomes)
