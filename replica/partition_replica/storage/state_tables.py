"""The state's tables, and the encoding of their rows."""

from collections.abc import Callable, Iterator

import lmdb
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.model import Position, ProposalResult, Session, TreeEntry
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Digest, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import Database, Transaction, open_tables, reading
from partition_replica.storage.key_table import KeyTable, Row

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
