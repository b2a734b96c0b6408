"""The state's tables, and the state machine's view of them in one write transaction."""

from collections.abc import Callable, Iterator

import lmdb
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.model import Applied, Position, ProposalResult, Session, TreeEntry
from partition_replica.core.sessions import WITHOUT_EFFECT
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Digest, SessionID, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import Database, Transaction, open_tables, reading
from partition_replica.storage.key_table import SHORT_BYTES, KeyTable, Row
from partition_replica.storage.session_expiry import SessionExpiry

APPLIED, HISTORY = b"applied", b"history"
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
    "value_long",
    "tree_long",
)
LATER = frozenset({"unapplied", "value_long", "tree_long"})
"""Tables that volumes of earlier versions lack. They are created on open; if the volume is opened
read-only, their handles are None."""


class Tables:
    """The tables of an open state environment."""

    def __init__(self, environment: lmdb.Environment, *, create: bool) -> None:
        handles = open_tables(environment, TABLES, create=create, later=LATER)
        self.meta = handles["meta"]
        self.value = handles["value"]
        self.tree = handles["tree"]
        self.payload = handles["payload"]
        self.content = handles["content"]
        self.session = handles["session"]
        self.result = handles["result"]
        self.member = handles["member"]
        self.unapplied: Database | None = handles["unapplied"]
        self.value_long: Database | None = handles["value_long"]
        self.tree_long: Database | None = handles["tree_long"]
        self.values = KeyTable("value", self.value, self.value_long)
        self.nodes = KeyTable("tree", self.tree, self.tree_long)

    def rows(self, txn: Transaction, name: str) -> Iterator[Row]:
        """Every (whole key, sealed row) of a table that every state has, in the keys' order."""
        keyed = self.keyed(name)
        return iter(txn.cursor(getattr(self, name))) if keyed is None else keyed.rows(txn)

    def keyed(self, name: str) -> KeyTable | None:
        """The KeyTable of that name; None for a table without long keys."""
        return {"value": self.values, "tree": self.nodes}.get(name)


class LmdbView:
    """`core.ports.StateView` on one write transaction. Sessions are written at the end, because a
    batch changes the same few many times. `expiry` is updated for each session that is opened or
    deleted."""

    def __init__(
        self, txn: Transaction, tables: Tables, applied: rows.AppliedRow, expiry: SessionExpiry
    ) -> None:
        self._txn = txn
        self._tables = tables
        self._expiry = expiry
        self._value, self._values = tables.value, tables.values
        self._tree, self._nodes = tables.tree, tables.nodes
        self._sessions: dict[SessionID, Session | None] = {}
        self.time_ms = applied.time_ms
        self.clock_ms = clock_of(applied)
        self.released: set[Digest] = set()

    def get_value(self, key: bytes) -> bytes | None:
        if len(key) <= SHORT_BYTES:
            row = self._txn.get(key, db=self._value)
        else:
            row = self._values.get(self._txn, key)
        return None if row is None else codec.unseal("value", key, row)

    def put_value(self, key: bytes, value: bytes) -> None:
        if len(key) <= SHORT_BYTES:
            self._txn.put(key, codec.seal(key, value), db=self._value)
        else:
            self._values.put(self._txn, key, codec.seal(key, value))

    def delete_value(self, key: bytes) -> None:
        if len(key) <= SHORT_BYTES:
            self._txn.delete(key, db=self._value)
        else:
            self._values.delete(self._txn, key)

    def get_tree_entry(self, path: bytes) -> TreeEntry | None:
        if len(path) <= SHORT_BYTES:
            row = self._txn.get(path, db=self._tree)
        else:
            row = self._nodes.get(self._txn, path)
        return None if row is None else decode_node(path, row)

    def put_tree_entry(self, path: bytes, node: TreeEntry) -> None:
        message = rows.NodeRow(
            directory=node.directory, mode=node.mode, size=node.size, digest=node.digest
        )
        if len(path) <= SHORT_BYTES:
            self._txn.put(path, codec.seal_message(path, message), db=self._tree)
        else:
            self._nodes.put(self._txn, path, codec.seal_message(path, message))

    def delete_tree_entry(self, path: bytes) -> None:
        if len(path) <= SHORT_BYTES:
            self._txn.delete(path, db=self._tree)
        else:
            self._nodes.delete(self._txn, path)

    def has_children(self, path: bytes) -> bool:
        prefix = path + b"/"
        if len(prefix) > SHORT_BYTES:
            first = self._nodes.first_from(self._txn, prefix)
            return first is not None and first.startswith(prefix)
        # The mark of long paths begins with their prefix, so one lookup finds these, too.
        cursor = self._txn.cursor(self._tree)
        return cursor.set_range(prefix) and cursor.key().startswith(prefix)

    def add_payload_reference(self, digest: Digest, size: int, data: bytes | None) -> None:
        row = self._payload(digest)
        if row is None:
            row = rows.PayloadRow(size=size, inlined=data is not None)
            if data is not None:
                self._txn.put(digest, codec.seal(digest, data), db=self._tables.content)
        row.references += 1
        self._txn.put(digest, codec.seal_message(digest, row), db=self._tables.payload)

    def drop_payload_reference(self, digest: Digest) -> None:
        row = self._payload(digest)
        if row is None:
            raise Damaged(
                f"the tree names payload {digest.hex()}, which has no row: the volume is damaged; "
                "keep it"
            )
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
        if self.get_session(session) is None:
            self._expiry.add(session, row)
        self._sessions[session] = row

    def delete_session(self, session: SessionID) -> None:
        if self.get_session(session) is None:
            return
        self._sessions[session] = None
        self._expiry.remove()
        self._drop_results(codec.u64(session), None)

    def expired_sessions(self, clock_ms: int) -> list[SessionID]:
        self._load_expiry()
        return self._expiry.expired(clock_ms, self.get_session)

    def session_count(self) -> int:
        self._load_expiry()
        return self._expiry.count

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
            term=result.term,
            content_digest=result.content_digest,
        )
        self._txn.put(key, codec.seal_message(key, message), db=self._tables.result)

    def drop_results_below(self, session: SessionID, sequence: int) -> None:
        prefix = codec.u64(session)
        self._drop_results(prefix, prefix + codec.u64(sequence))

    def _drop_results(self, prefix: bytes, end: bytes | None) -> None:
        """Deletes a session's results with keys below `end`, or all of them if it is None."""
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
        """Stores which parts of an entry were ineffective: an export leaves these out."""
        result = applied.result
        whole = (
            applied.kind == "session_expired"
            or applied.kind in WITHOUT_EFFECT.values()
            or (result is not None and result.precondition_failed)
        )
        if not whole and (result is None or not result.outcomes):
            return
        key = codec.u64(applied.index)
        row = rows.UnappliedRow(whole=whole, outcomes=b"" if whole else result.outcomes)  # type: ignore[union-attr]
        self._txn.put(key, codec.seal_message(key, row), db=self._tables.unapplied)

    def finish(self, position: Position) -> None:
        """Writes the changed sessions and the applied LSN."""
        self._write_sessions()
        put_applied(self._txn, self._tables, applied_row(position, self.time_ms, self.clock_ms))

    def _payload(self, digest: Digest) -> rows.PayloadRow | None:
        row = self._txn.get(digest, db=self._tables.payload)
        if row is None:
            return None
        return codec.unseal_message("payload", digest, row, rows.PayloadRow)

    def _load_expiry(self) -> None:
        if self._expiry.loaded:
            return
        self._write_sessions()
        cursor = self._txn.cursor(self._tables.session)
        self._expiry.load(
            (SessionID(codec.from_u64(key)), decode_session(bytes(key), row)) for key, row in cursor
        )

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


LISTED_ROWS = 128
"""Rows after which `iterate_blobs` pauses: about half a millisecond."""


def iterate_blobs(
    txn: Transaction, tables: Tables, pause: Callable[[], None] | None = None
) -> Iterator[tuple[Digest, int]]:
    for number, (key, row) in enumerate(txn.cursor(tables.payload)):
        if pause is not None and not number % LISTED_ROWS:
            pause()
        payload = codec.unseal_message("payload", key, row, rows.PayloadRow)
        if not payload.inlined:
            yield Digest(bytes(key)), payload.size


def applied_row(position: Position, time_ms: int, clock_ms: int) -> rows.AppliedRow:
    """The row with the applied position, in this version's format."""
    return rows.AppliedRow(
        format_version=codec.STATE_FORMAT_VERSION,
        index=position.index,
        term=position.term,
        time_ms=time_ms,
        clock_ms=clock_ms,
    )


def put_applied(txn: Transaction, tables: Tables, applied: rows.AppliedRow) -> None:
    txn.put(APPLIED, codec.seal_message(APPLIED, applied), db=tables.meta)


def clock_of(applied: rows.AppliedRow) -> int:
    """The session clock in milliseconds; in format 1 it is the entries' wall-clock time."""
    return applied.clock_ms if applied.HasField("clock_ms") else applied.time_ms


def put_history(txn: Transaction, tables: Tables, history: str) -> None:
    row = rows.HistoryRow(history_id=history)
    txn.put(HISTORY, codec.seal_message(HISTORY, row), db=tables.meta)


def read_history(environment: lmdb.Environment, tables: Tables) -> str:
    """The history ID that a restore or an import gave the state, or ""."""
    with reading(environment, "the state") as txn:
        row = txn.get(HISTORY, db=tables.meta)
    if row is None:
        return ""
    return codec.unseal_message("meta", HISTORY, row, rows.HistoryRow).history_id


def decode_node(path: bytes, row: bytes) -> TreeEntry:
    node = codec.unseal_message("tree", path, row, rows.NodeRow)
    return TreeEntry(node.directory, node.mode, node.size, Digest(node.digest))


def decode_session(key: bytes, row: bytes) -> Session:
    session = codec.unseal_message("session", key, row, rows.SessionRow)
    return Session(session.time_to_live_ms, session.last_active_ms, session.acknowledged_below)


def decode_result(key: bytes, row: bytes) -> ProposalResult:
    result = codec.unseal_message("result", key, row, rows.ResultRow)
    return ProposalResult(
        LSN(result.lsn),
        Term(result.term),
        result.precondition_failed,
        result.outcomes,
        result.content_digest,
    )


def read_applied(environment: lmdb.Environment, tables: Tables) -> rows.AppliedRow:
    with reading(environment, "the state") as txn:
        row = txn.get(APPLIED, db=tables.meta)
    if row is None:
        return rows.AppliedRow(format_version=codec.STATE_FORMAT_VERSION)
    applied = codec.unseal_message("meta", APPLIED, row, rows.AppliedRow)
    if applied.format_version not in codec.STATE_FORMATS_READ:
        raise Damaged(
            f"the state has format {applied.format_version}; this version reads "
            f"{codec.STATE_FORMATS_READ[0]} to {codec.STATE_FORMATS_READ[-1]}: run the version "
            "that wrote it, or a later one"
        )
    return applied
