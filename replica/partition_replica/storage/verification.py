"""Verifies a volume: every checksum, the log's contiguity, blobs against references, the state's
consistency, and the state against a replay of the log. Reads the volume only; counts and the replay
are written to a scratch directory.

Findings are collected, not raised, so a damaged row does not hide the next one.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
from google.protobuf.message import DecodeError, Message
from partition_proto.v1 import storage_pb2 as rows
from partition_proto.v1 import types_pb2 as types

from partition_replica.core.model import FINDINGS_MAX, LogEntry, VerifyReport
from partition_replica.core.paths import shown
from partition_replica.core.payloads import blob_digests
from partition_replica.errors import Damaged, RequestRefused, StorageFailed
from partition_replica.ids import DIGEST_BYTES, LSN, Digest, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import Transaction, lmdb_failures, reading
from partition_replica.storage.key_table import KeyTable
from partition_replica.storage.log.reading import LogReader
from partition_replica.storage.replay import Replay
from partition_replica.storage.state import LmdbState

ROWS_A_TRANSACTION = 4096
BYTES_A_TRANSACTION = 4 * 1024**2
"""The maximum size of the rows that are in memory at a time: one may have more than 1 MiB."""

READ_BYTES = 1024 * 1024
PROGRESS_BYTES = 64 * READ_BYTES

COUNTS_PENDING_MAX = 4096
"""The maximum number of counts in memory before they are written to the scratch directory."""

Progress = Callable[[str, int, int], None]
"""(step, done, total). The steps: "log", "state", "blobs", "replay". Total 0 means unknown."""

Row = tuple[bytes, bytes]

MEANINGLESS = (DecodeError, IndexError, ValueError)
"""Errors of rows whose checksums are correct, but which no version of this program writes."""


class Verification:
    """One run. `state` must not change meanwhile: it is a stopped replica's, or a copy. If `live`,
    `log` may be appended to and pruned. The caller keeps blobs that the state names.

    cut_off: the run ended early because of a failure outside the volume, such as a full scratch
    directory."""

    def __init__(
        self,
        log: LogReader,
        state: LmdbState,
        blob_path: Callable[[Digest], Path],
        blobs: Callable[[], Iterator[Digest]],
        scratch: Path,
        *,
        live: bool,
        progress: Progress,
    ) -> None:
        self._log = log
        self._state = state
        self._blob_path = blob_path
        self._blobs = blobs
        self._scratch = scratch
        self._live = live
        self._progress = progress
        self.report = VerifyReport()
        self.cut_off = False

    def run(self) -> VerifyReport:
        """Runs the verification and returns the report. It reads the whole volume and replays the
        log."""
        for name, step in (
            ("log", self._check_log),
            ("state", self._check_state),
            ("blobs", self._check_blobs),
            ("state against a replay of the log", self._check_replay),
        ):
            try:
                with lmdb_failures(name):
                    step()
            except MEANINGLESS as error:
                self.report.find(f"{name}: {type(error).__name__}: {error}")
                self.report.unchecked.append(f"{name}: everything after the damage")
            except Damaged as error:
                if str(error) not in self.report.findings:
                    self.report.find(str(error))
                self.report.unchecked.append(f"{name}: everything after the damage")
            except (StorageFailed, OSError) as error:  # of the scratch directory
                self.cut_off = True
                self.report.unchecked.append(f"{name}: the rest: {error}")
            except RequestRefused as error:  # the log was compacted meanwhile
                self.report.unchecked.append(f"{name}: {error}")
        if self.report.counts.get("findings", 0) > FINDINGS_MAX:
            self.report.unchecked.append(f"only the first {FINDINGS_MAX} findings are listed")
        return self.report

    def _check_replay(self) -> None:
        replay = Replay(self._log, self._state, self._scratch / "replay", self._progress)
        replay.check(self.report.find)
        self.report.unchecked += replay.unchecked
        self.report.count("entries_replayed", replay.entries)

    # --- the log ------------------------------------------------------------------------------

    def _check_log(self) -> None:
        log, tables = self._log, self._log.tables
        kinds: dict[bytes, type[Message]] = {
            b"identity": rows.IdentityRow,
            b"hard_state": rows.HardStateRow,
            b"boundary": rows.BoundaryRow,
            b"conf_state": rows.ConfStateRow,
            b"lease": rows.LeaseRow,
            b"backfill": rows.BackfillRow,
            b"base": rows.PositionRow,
            b"journal": rows.JournalRow,
            b"recovery": rows.RecoveryRow,
        }
        for key, row in self._rows(log.environment, tables.meta, "log meta"):
            self._message("meta", key, row, kinds.get(key, rows.LeaseRow))
        for key, row in self._rows(log.environment, tables.position, "positions"):
            self._message("position", key, row, rows.PositionRow)
        total = log.last.index - log.first_stored + 1
        expected, last_term, named = int(log.first_stored), Term(0), 0
        for done, (key, row) in enumerate(
            self._rows(log.environment, tables.manifest, "entries"), 1
        ):
            if done % ROWS_A_TRANSACTION == 0:
                self._progress("log", done, total)
            if len(key) != codec.U64_BYTES:
                self.report.find(f"the key of row {key.hex()} of table manifest is not an LSN")
                continue
            index = codec.from_u64(key)
            if index != expected and self._moving(expected):
                expected = max(expected, int(log.first_stored))
            if index != expected and not self._moving(index):
                self.report.find(f"log entry {expected} is missing; the next entry is {index}")
            expected = index + 1
            data = self._unseal("manifest", key, row)
            if data is not None:
                last_term, blobs = self._check_entry(key, LSN(index), data, last_term)
                named += blobs
        # The others are in the journal, whose records were checked when it was opened.
        self.report.counts["journaled_entries"] = len(log.journaled)
        self._progress("log", total, total)
        found = self._count(log.environment, tables.payload)
        self.report.counts["blob_references"] = found
        if not self._live and found != named:
            self.report.find(
                f"log entries name blobs {named} times, but the table payload has {found} rows"
            )

    def _check_entry(
        self, key: bytes, index: LSN, data: bytes, last_term: Term
    ) -> tuple[Term, int]:
        """Returns (the entry's term, the number of blobs that it names)."""
        log = self._log
        with log.environment.begin() as txn:
            row = txn.get(key, db=log.tables.raft)
        term = last_term
        if row is None:
            if not log.identity.standalone and not self._moving(index):
                self.report.find(f"log entry {index} has no raft row")
            entry_kind = 0
        else:
            payload = self._unseal("raft", key, row)
            if payload is None:
                return last_term, 0
            try:
                entry = codec.decode_raft(index, payload, data)
            except Damaged as error:
                self.report.find(str(error))
                return last_term, 0
            term, entry_kind = entry.term, entry.kind
            if term < last_term and not self._moving(index):
                self.report.find(
                    f"log entry {index} has term {term}, below the previous one, {last_term}"
                )
            if term < 1:
                self.report.find(f"log entry {index} has term 0 in its raft row")
        if entry_kind or not data:
            return term, 0
        return term, self._check_body(key, index, data)

    def _check_body(self, key: bytes, index: LSN, data: bytes) -> int:
        log = self._log
        try:
            body = types.EntryBody.FromString(data)
        except Exception as error:  # the decoder's errors are not documented
            self.report.find(f"log entry {index} is not a valid EntryBody: {error}")
            return 0
        del body
        digests = set(blob_digests(_normal(index, data)))
        with log.environment.begin() as txn:
            missing = [d for d in digests if txn.get(d + key, db=log.tables.payload) is None]
        for digest in missing:
            if not self._moving(index):
                self.report.find(
                    f"log entry {index} names blob {digest.hex()}, which is not in table payload"
                )
        return len(digests)

    def _moving(self, index: int) -> bool:
        """Whether the entry may change during the run: it is pruned, or not applied yet, so a
        leader may overwrite it. Such an entry is not a finding."""
        if not self._live:
            return False
        return index > self._state.applied.index or index < self._log.first_stored

    # --- the state ----------------------------------------------------------------------------

    def _check_state(self) -> None:
        environment, tables = self._state.environment, self._state.tables
        for key, row in self._rows(environment, tables.meta, "state meta"):
            self._message("meta", key, row, rows.AppliedRow)
        for name, table, kind in (
            ("session", tables.session, rows.SessionRow),
            ("result", tables.result, rows.ResultRow),
            ("member", tables.member, rows.MemberRow),
            ("unapplied", tables.unapplied, rows.UnappliedRow),
        ):
            for key, row in self._rows(environment, table, f"{name}s"):
                self._message(name, key, row, kind)
        for key, row in self._keyed_rows(tables.values, "keys"):
            self._unseal("value", key, row)
        self._progress("state", 1, 3)
        self._check_tree()
        self._progress("state", 2, 3)
        for key, row in self._rows(environment, tables.content, "contents"):
            content = self._unseal("content", key, row)
            if content is not None and hashlib.sha256(content).digest() != key:
                self.report.find(f"the content of payload {key.hex()} has another SHA-256")
        self._progress("state", 3, 3)

    def _check_tree(self) -> None:
        """Checks that parents are directories, and that the payloads' reference counts are
        right."""
        counts = Counts(self._scratch / "counts")
        with self._state.environment.begin() as txn:
            self._check_nodes(txn, counts)
            counts.flush()
            self._check_payloads(txn, counts)
        counts.close()

    def _check_nodes(self, txn: Transaction, counts: "Counts") -> None:
        tables = self._state.tables
        for path, row in self._keyed_rows(tables.nodes, "paths"):
            node = self._message("tree", path, row, rows.NodeRow)
            if node is None:
                continue
            parent = path.rpartition(b"/")[0]
            if parent:
                above = tables.nodes.get_any(txn, parent)
                if above is None or not _is_directory(parent, above):
                    self.report.find(f"path {shown(path)} has no parent directory")
            if not node.directory and len(node.digest) != DIGEST_BYTES:
                self.report.find(
                    f"path {shown(path)} has a digest of {len(node.digest)} bytes instead of "
                    f"{DIGEST_BYTES}"
                )
            elif not node.directory:
                counts.add(node.digest)
                if txn.get(node.digest, db=tables.payload) is None:
                    self.report.find(f"path {shown(path)}: payload {node.digest.hex()} has no row")

    def _check_payloads(self, txn: Transaction, counts: "Counts") -> None:
        environment, tables = self._state.environment, self._state.tables
        for digest, row in self._rows(environment, tables.payload, "payloads"):
            payload = self._message("payload", digest, row, rows.PayloadRow)
            if payload is None:
                continue
            named = counts.get(digest)
            if named != payload.references:
                self.report.find(
                    f"payload {digest.hex()} is named by {named} paths, but its row has "
                    f"{payload.references}"
                )
            content = txn.get(digest, db=tables.content)
            if payload.inlined and (
                content is None or len(content) - codec.CHECKSUM_BYTES != payload.size
            ):
                self.report.find(f"the content of payload {digest.hex()} is missing or truncated")

    # --- blobs --------------------------------------------------------------------------------

    def _check_blobs(self) -> None:
        """Checks every blob that the log or the state names; counts all other blobs."""
        self._progress("blobs", 0, 0)
        done = 0
        for digest in self._named_blobs():
            done += 1
            self._check_blob(digest, done)
        for digest in self._blobs():
            if not (self._log.names_blob(digest) or self._state.names_blob(digest)):
                self.report.count("blobs_unnamed")
        self._progress("blobs", done, done)

    def _check_blob(self, digest: Digest, done: int) -> None:
        path = self._blob_path(digest)
        hashed, size = hashlib.sha256(), 0
        try:
            with path.open("rb", buffering=0) as file:
                while chunk := file.read(READ_BYTES):
                    if size % PROGRESS_BYTES == 0:
                        self._progress("blobs", done, 0)
                    hashed.update(chunk)
                    size += len(chunk)
        except FileNotFoundError:
            if self._live and not (self._log.names_blob(digest) or self._state.names_blob(digest)):
                return  # the log has pruned its entry meanwhile
            self.report.find(f"blob {digest.hex()} is missing")
            return
        except OSError as error:
            self.report.find(f"blob {digest.hex()} cannot be read: {error}")
            return
        self.report.count("blobs")
        self.report.count("blob_bytes", size)
        expected = self._state.payload_size(digest)
        if expected is not None and expected != size:
            self.report.find(
                f"blob {digest.hex()} has {size} bytes, but {expected} bytes in the state"
            )
        elif hashed.digest() != digest:
            self.report.find(f"blob {digest.hex()} is damaged: its SHA-256 is {hashed.hexdigest()}")

    def _named_blobs(self) -> Iterator[Digest]:
        """Each named blob once: those of the log, then those that only the state names."""
        last = b""
        keys = self._keys(self._log.environment, self._log.tables.payload)
        for key in keys:
            digest = key[:DIGEST_BYTES]
            if digest != last:
                last = digest
                yield Digest(digest)
        for digest, _ in self._state.blobs():
            if not self._log.names_blob(digest):
                yield digest

    # --- rows ---------------------------------------------------------------------------------

    def _rows(self, environment: lmdb.Environment, table: Any, name: str) -> Iterator[Row]:
        """Every row, in short transactions: long ones make the LMDB file grow."""
        after: bytes | None = None
        read = 0
        while table is not None:  # volumes of earlier versions lack some tables
            found: list[Row] = []
            size = 0
            with reading(environment, name) as txn, txn.cursor(table) as cursor:
                more = cursor.first() if after is None else cursor.set_range(after + b"\0")
                while more and len(found) < ROWS_A_TRANSACTION and size < BYTES_A_TRANSACTION:
                    found.append((bytes(cursor.key()), bytes(cursor.value())))
                    size += len(found[-1][1])
                    more = cursor.next()
            if not found:
                stored = self._count(environment, table)
                if read != stored and not self._live:
                    self.report.find(f"{name}: found {read} rows, but the table has {stored}")
                return
            after = found[-1][0]
            read += len(found)
            self.report.count(name.replace(" ", "_"), len(found))
            yield from found

    def _keyed_rows(self, table: KeyTable, name: str) -> Iterator[Row]:
        """As `_rows`, for a table with long keys. Also reports damaged marks, and nodes that no
        mark leads to."""
        environment = self._state.environment
        with reading(environment, name) as txn:
            stored, nodes = table.stored(txn), table.node_count(txn)
        damaged: set[str] = set()

        def find(error: Damaged) -> None:
            if str(error) not in damaged:
                damaged.add(str(error))
                self.report.find(str(error))

        start = b""
        read = 0
        while read <= stored:  # else two marks lead to one node
            found: list[Row] = []
            size = 0
            with reading(environment, name) as txn:
                for key, row in table.rows(txn, start, find):
                    found.append((key, row))
                    size += len(key) + len(row)
                    if len(found) >= ROWS_A_TRANSACTION or size >= BYTES_A_TRANSACTION:
                        break
            if not found:
                break
            start = found[-1][0] + b"\0"
            read += len(found)
            self.report.count(name, len(found))
            yield from found
        if read + nodes != stored:
            self.report.find(
                f"{name}: found {read} rows and {nodes} marks, but the tables have {stored} rows"
            )

    def _keys(self, environment: lmdb.Environment, table: Any) -> Iterator[bytes]:
        after: bytes | None = None
        while True:
            with reading(environment, "keys") as txn, txn.cursor(table) as cursor:
                found: list[bytes] = []
                more = cursor.first() if after is None else cursor.set_range(after + b"\0")
                while more and len(found) < ROWS_A_TRANSACTION:
                    found.append(bytes(cursor.key()))
                    more = cursor.next()
            if not found:
                return
            after = found[-1]
            yield from found

    @staticmethod
    def _count(environment: lmdb.Environment, table: Any) -> int:
        with reading(environment, "a table") as txn:
            return int(txn.stat(table)["entries"])

    def _unseal(self, table: str, key: bytes, row: bytes) -> bytes | None:
        try:
            return codec.unseal(table, key, row)
        except Damaged as error:
            self.report.find(str(error))
            return None

    def _message(self, table: str, key: bytes, row: bytes, kind: type[codec.M]) -> codec.M | None:
        try:
            return codec.unseal_message(table, key, row, kind)
        except Damaged as error:
            self.report.find(str(error))
            return None


class Counts:
    """Counts how often each digest was added, in an LMDB environment, not in memory: there may be
    millions."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self._environment = lmdb.Environment(str(path), map_size=1 << 40, sync=False, lock=False)
        self._pending: dict[bytes, int] = {}

    def add(self, digest: bytes) -> None:
        self._pending[digest] = self._pending.get(digest, 0) + 1
        if len(self._pending) >= COUNTS_PENDING_MAX:
            self.flush()

    def flush(self) -> None:
        with lmdb_failures("the scratch directory"), self._environment.begin(write=True) as txn:
            for digest, count in self._pending.items():
                before = txn.get(digest)
                total = count + (codec.from_u64(before) if before else 0)
                txn.put(digest, codec.u64(total))
        self._pending.clear()

    def get(self, digest: bytes) -> int:
        with self._environment.begin() as txn:
            row = txn.get(digest)
        return codec.from_u64(row) if row else 0

    def close(self) -> None:
        self._environment.close()


def _is_directory(path: bytes, row: bytes) -> bool:
    """Whether a row is a directory's. True for a damaged row, which is a finding of its own."""
    try:
        return codec.unseal_message("tree", path, row, rows.NodeRow).directory
    except Damaged:
        return True


def _normal(index: LSN, data: bytes) -> LogEntry:
    return LogEntry(index, Term(0), 0, data)
