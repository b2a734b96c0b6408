"""The state machine's view of its tables in one write transaction.

A batch of entries changes the same few rows many times: the sessions, the directories, a popular
key. So the view keeps the changed rows in dictionaries, decoded, and `flush` writes each of them
once, table by table and in the order of their keys. Two kinds of changes are written at once:

- names longer than SHORT_BYTES, because the numbers of their nodes depend on the order of the
  writes (`key_table`), and every replica must write the same numbers, however it batches;
- the deletion of a session, which deletes a range of results.

What is read is kept only if it is small: tree entries, payload counts and sessions, not values.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.model import Applied, Position, ProposalResult, Session, TreeEntry
from partition_replica.core.sessions import WITHOUT_EFFECT
from partition_replica.errors import Damaged
from partition_replica.ids import Digest, SessionID
from partition_replica.storage import codec
from partition_replica.storage.environment import Database, Transaction
from partition_replica.storage.key_table import SHORT_BYTES, Row
from partition_replica.storage.session_expiry import SessionExpiry
from partition_replica.storage.state_tables import (
    Tables,
    applied_row,
    clock_of,
    decode_node,
    decode_result,
    decode_session,
    put_applied,
)

OVERLAY_ROWS_MAX = 16_384
"""The number of values, tree entries and payload counts that a view keeps between two entries. With
more, `spill` writes them. Their content is part of the entries of the batch, so it is bounded by
`apply_batch_bytes_max`."""

NO_RESULT = -1
"""Below every sequence."""

_RESULT_KEY = struct.Struct(">QQ")
_WHOLLY_INEFFECTIVE = frozenset({"session_expired", *WITHOUT_EFFECT.values()})

K = TypeVar("K", bound=bytes)
V = TypeVar("V")


@dataclass(slots=True)
class _Payload:
    references: int
    size: int
    inlined: bool


class _SessionRows:
    """One session's rows. row: None if there is no session; results: those that the batch put, by
    sequence; dropped_below: results below this sequence are deleted; stored_up_to: no stored result
    has a higher sequence, or None if that is not known."""

    __slots__ = ("changed", "dropped_below", "results", "row", "stored_up_to")

    def __init__(self, row: Session | None) -> None:
        self.row = row
        self.changed = False
        self.results: dict[int, ProposalResult] = {}
        self.dropped_below = 0
        self.stored_up_to: int | None = None


class LmdbView:
    """`core.ports.StateView` on one write transaction. Nothing is in the tables before `flush` or
    `finish`. `expiry` is updated for each session that is opened or deleted."""

    def __init__(
        self, txn: Transaction, tables: Tables, applied: rows.AppliedRow, expiry: SessionExpiry
    ) -> None:
        self._txn = txn
        self._tables = tables
        self._expiry = expiry
        self._values: dict[bytes, bytes | None] = {}
        self._nodes: dict[bytes, TreeEntry | None] = {}
        self._changed_nodes: set[bytes] = set()
        self._payloads: dict[Digest, _Payload | None] = {}
        self._changed_payloads: set[Digest] = set()
        self._contents: dict[bytes, bytes | None] = {}
        self._sessions: dict[SessionID, _SessionRows] = {}
        self._notes: list[Row] = []
        self._result_cursor = txn.cursor(tables.result)
        self.time_ms = applied.time_ms
        self.clock_ms = clock_of(applied)
        self.released: set[Digest] = set()

    # --- keys ---------------------------------------------------------------------------------

    def get_value(self, key: bytes) -> bytes | None:
        if key in self._values:
            return self._values[key]
        row = self._tables.values.get_any(self._txn, key)
        return None if row is None else codec.unseal("value", key, row)

    def put_value(self, key: bytes, value: bytes) -> None:
        if len(key) <= SHORT_BYTES:
            self._values[key] = value
        else:
            self._tables.values.put(self._txn, key, codec.seal(key, value))

    def delete_value(self, key: bytes) -> None:
        if len(key) <= SHORT_BYTES:
            self._values[key] = None
        else:
            self._tables.values.delete(self._txn, key)

    # --- the tree -----------------------------------------------------------------------------

    def get_tree_entry(self, path: bytes) -> TreeEntry | None:
        if path in self._nodes:
            return self._nodes[path]
        row = self._tables.nodes.get_any(self._txn, path)
        node = None if row is None else decode_node(path, row)
        if len(path) <= SHORT_BYTES:
            self._nodes[path] = node
        return node

    def put_tree_entry(self, path: bytes, node: TreeEntry) -> None:
        if len(path) <= SHORT_BYTES:
            self._nodes[path] = node
            self._changed_nodes.add(path)
        else:
            self._tables.nodes.put(self._txn, path, _encode_node(path, node))

    def delete_tree_entry(self, path: bytes) -> None:
        if len(path) <= SHORT_BYTES:
            self._nodes[path] = None
            self._changed_nodes.add(path)
        else:
            self._tables.nodes.delete(self._txn, path)

    def has_children(self, path: bytes) -> bool:
        self._flush_nodes()
        prefix = path + b"/"
        if len(prefix) > SHORT_BYTES:
            first = self._tables.nodes.first_from(self._txn, prefix)
            return first is not None and first.startswith(prefix)
        # The mark of long paths begins with their prefix, so one lookup finds these, too.
        cursor = self._txn.cursor(self._tables.tree)
        return cursor.set_range(prefix) and cursor.key().startswith(prefix)

    # --- payloads -----------------------------------------------------------------------------

    def add_payload_reference(self, digest: Digest, size: int, data: bytes | None) -> None:
        payload = self._payload(digest)
        if payload is None:
            payload = self._payloads[digest] = _Payload(0, size, data is not None)
            if data is not None:
                self._contents[digest] = data
        payload.references += 1
        self._changed_payloads.add(digest)

    def drop_payload_reference(self, digest: Digest) -> None:
        payload = self._payload(digest)
        if payload is None:
            raise Damaged(
                f"the tree names payload {digest.hex()}, which has no row: the volume is damaged; "
                "keep it"
            )
        payload.references -= 1
        self._changed_payloads.add(digest)
        if payload.references:
            return
        self._payloads[digest] = None
        if payload.inlined:
            self._contents[digest] = None
        else:
            self.released.add(digest)

    def _payload(self, digest: Digest) -> _Payload | None:
        if digest in self._payloads:
            return self._payloads[digest]
        payload = None
        row = self._txn.get(digest, db=self._tables.payload)
        if row is not None:
            found = codec.unseal_message("payload", digest, row, rows.PayloadRow)
            payload = _Payload(found.references, found.size, found.inlined)
        self._payloads[digest] = payload
        return payload

    # --- sessions and results -----------------------------------------------------------------

    def get_session(self, session: SessionID) -> Session | None:
        return self._session(session).row

    def put_session(self, session: SessionID, row: Session) -> None:
        known = self._session(session)
        if known.row is None:
            self._expiry.add(session, row)
        known.row = row
        known.changed = True

    def delete_session(self, session: SessionID) -> None:
        known = self._session(session)
        if known.row is None:
            return
        known.row = None
        known.changed = True
        self._expiry.remove()
        known.results.clear()
        known.dropped_below, known.stored_up_to = 0, NO_RESULT
        self._delete_results(session, None)

    def expired_sessions(self, clock_ms: int) -> list[SessionID]:
        self._load_expiry()
        return self._expiry.expired(clock_ms, self.get_session)

    def session_count(self) -> int:
        self._load_expiry()
        return self._expiry.count

    def get_result(self, session: SessionID, sequence: int) -> ProposalResult | None:
        known = self._session(session)
        if sequence < known.dropped_below:
            return None
        found = known.results.get(sequence)
        if found is not None:
            return found
        if known.stored_up_to is None:
            known.stored_up_to = self._last_result(session)
        # A session's sequences mostly rise, so most entries need no lookup.
        if sequence > known.stored_up_to:
            return None
        key = _RESULT_KEY.pack(session, sequence)
        row = self._txn.get(key, db=self._tables.result)
        return None if row is None else decode_result(key, row)

    def put_result(self, session: SessionID, sequence: int, result: ProposalResult) -> None:
        known = self._session(session)
        if sequence < known.dropped_below:
            self._flush_results([(session, known)])  # it comes after the deletion
        known.results[sequence] = result

    def drop_results_below(self, session: SessionID, sequence: int) -> None:
        known = self._session(session)
        known.dropped_below = max(known.dropped_below, sequence)

    def _session(self, session: SessionID) -> _SessionRows:
        known = self._sessions.get(session)
        if known is None:
            key = codec.u64(session)
            row = self._txn.get(key, db=self._tables.session)
            known = _SessionRows(None if row is None else decode_session(key, row))
            self._sessions[session] = known
        return known

    def _last_result(self, session: SessionID) -> int:
        """The highest sequence of a session that has a stored result, or NO_RESULT."""
        prefix = codec.u64(session)
        cursor = self._result_cursor
        after = cursor.set_range(prefix + b"\xff" * 9)  # longer than a key of this session
        found = cursor.prev() if after else cursor.last()
        if not found or not cursor.key().startswith(prefix):
            return NO_RESULT
        return codec.from_u64(cursor.key()[codec.U64_BYTES :])

    def _delete_results(self, session: SessionID, below: int | None) -> None:
        """Deletes a session's stored results below a sequence, or all of them if it is None."""
        prefix = codec.u64(session)
        end = None if below is None else prefix + codec.u64(below)
        cursor = self._result_cursor
        found = cursor.set_range(prefix)
        while found and cursor.key().startswith(prefix) and (end is None or cursor.key() < end):
            cursor.delete()
            found = bool(cursor.key())

    def _load_expiry(self) -> None:
        if self._expiry.loaded:
            return
        self._flush_sessions()
        cursor = self._txn.cursor(self._tables.session)
        self._expiry.load(
            (SessionID(codec.from_u64(key)), decode_session(bytes(key), row)) for key, row in cursor
        )

    # --- members, notes -----------------------------------------------------------------------

    def put_member(self, member: int, address: str) -> None:
        key = codec.u64(member)
        row = codec.seal_message(key, rows.MemberRow(address=address))
        self._txn.put(key, row, db=self._tables.member)

    def delete_member(self, member: int) -> None:
        self._txn.delete(codec.u64(member), db=self._tables.member)

    def note_unapplied(self, applied: Applied) -> None:
        """Notes which parts of an entry were ineffective: an export leaves these out."""
        result = applied.result
        whole = applied.kind in _WHOLLY_INEFFECTIVE or (
            result is not None and result.precondition_failed
        )
        outcomes = b"" if whole or result is None else result.outcomes
        if not whole and not outcomes:
            return
        key = codec.u64(applied.index)
        row = codec.seal_message(key, rows.UnappliedRow(whole=whole, outcomes=outcomes))
        self._notes.append((key, row))

    # --- writing ------------------------------------------------------------------------------

    def finish(self, position: Position) -> None:
        """Writes the changed rows and the applied LSN."""
        self.flush()
        put_applied(self._txn, self._tables, applied_row(position, self.time_ms, self.clock_ms))

    @property
    def rows_kept(self) -> int:
        """The number of values, tree entries and payload counts in memory."""
        return len(self._values) + len(self._nodes) + len(self._payloads)

    def spill(self) -> None:
        """Writes the changed rows and forgets them, if the view keeps more than
        OVERLAY_ROWS_MAX."""
        if self.rows_kept > OVERLAY_ROWS_MAX:
            self.flush()
            self._nodes.clear()
            self._payloads.clear()

    def flush(self) -> None:
        """Writes the changed rows to the tables."""
        self._write(self._tables.value, self._values, codec.seal)
        self._values.clear()
        self._flush_nodes()
        payloads = {digest: self._payloads[digest] for digest in self._changed_payloads}
        self._write(self._tables.payload, payloads, _encode_payload)
        self._changed_payloads.clear()
        self._write(self._tables.content, self._contents, codec.seal)
        self._contents.clear()
        self._flush_results(sorted(self._sessions.items()))
        self._flush_sessions()
        if self._notes:
            self._put(self._tables.unapplied, self._notes)
            self._notes.clear()

    def _flush_nodes(self) -> None:
        nodes = {path: self._nodes[path] for path in self._changed_nodes}
        self._write(self._tables.tree, nodes, _encode_node)
        self._changed_nodes.clear()

    def _flush_sessions(self) -> None:
        sessions = {
            codec.u64(session): known.row
            for session, known in self._sessions.items()
            if known.changed
        }
        self._write(self._tables.session, sessions, _encode_session)
        for known in self._sessions.values():
            known.changed = False

    def _flush_results(self, sessions: list[tuple[SessionID, _SessionRows]]) -> None:
        """`sessions` are ascending. Deletes the results that are dropped, also from memory, and
        writes the others."""
        for session, known in sessions:
            if known.dropped_below and known.stored_up_to != NO_RESULT:
                self._delete_results(session, known.dropped_below)
        self._put(self._tables.result, _result_rows(sessions))
        for _, known in sessions:
            known.results.clear()
            known.dropped_below, known.stored_up_to = 0, None

    def _write(
        self, table: Database, changed: Mapping[K, V | None], encode: Callable[[K, V], bytes]
    ) -> None:
        """Writes rows, and deletes those that are None, in the order of their keys."""
        if not changed:
            return
        present: list[tuple[K, V]] = []
        for key in sorted(changed):
            found = changed[key]
            if found is None:
                self._txn.delete(key, db=table)
            else:
                present.append((key, found))
        self._put(table, ((key, encode(key, found)) for key, found in present))

    def _put(self, table: Database | None, ascending: Iterable[Row]) -> None:
        with self._txn.cursor(table) as cursor:
            cursor.putmulti(ascending)


def _encode_node(path: bytes, node: TreeEntry) -> bytes:
    message = rows.NodeRow(
        directory=node.directory, mode=node.mode, size=node.size, digest=node.digest
    )
    return codec.seal_message(path, message)


def _encode_payload(digest: Digest, payload: _Payload) -> bytes:
    message = rows.PayloadRow(
        references=payload.references, size=payload.size, inlined=payload.inlined
    )
    return codec.seal_message(digest, message)


def _encode_session(key: bytes, row: Session) -> bytes:
    message = rows.SessionRow(
        time_to_live_ms=row.time_to_live_ms,
        last_active_ms=row.last_active_ms,
        acknowledged_below=row.acknowledged_below,
    )
    return codec.seal_message(key, message)


def _result_rows(sessions: list[tuple[SessionID, _SessionRows]]) -> Iterator[Row]:
    """The rows of the results that are not dropped again."""
    message = rows.ResultRow()  # one for all, because a batch has a result for each entry
    for session, known in sessions:
        for sequence in sorted(known.results):
            if sequence < known.dropped_below:
                continue
            result = known.results[sequence]
            message.lsn = result.lsn
            message.precondition_failed = result.precondition_failed
            message.outcomes = result.outcomes
            message.term = result.term
            message.content_digest = result.content_digest
            key = _RESULT_KEY.pack(session, sequence)
            yield key, codec.seal_message(key, message)
