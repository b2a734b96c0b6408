"""The log's tables: reads and writes rows in the caller's transaction, without Raft's rules.

Tables: `manifest` and `raft` by LSN (as the seed's MANIFEST and RAFT files; a standalone log's
entries have no `raft` row), `payload` by digest + LSN, without values (the entries that name a
blob), `position` by consumer, `meta`.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import lmdb
from google.protobuf.message import Message
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.model import Configuration, Identity, LogEntry
from partition_replica.core.payloads import may_name_blobs
from partition_replica.errors import Damaged
from partition_replica.ids import DIGEST_BYTES, LSN, Digest, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import (
    Database,
    Transaction,
    open_read_only,
    open_tables,
    reading,
)

IDENTITY = b"identity"
HARD_STATE = b"hard_state"
BOUNDARY = b"boundary"
CONF_STATE = b"conf_state"
LEASE = b"lease"
BACKFILL = b"backfill"
BASE = b"base"
JOURNAL = b"journal"
RECOVERY = b"recovery"

NAMES = ("meta", "manifest", "raft", "payload", "position")
LATER = frozenset({"position"})
"""Tables that volumes of earlier versions lack. They are created on open; if the volume is opened
read-only, their handles are None."""

BlobDigests = Callable[[LogEntry], list[Digest]]


class LogTables:
    """`blob_digests` returns the digests of an entry's blobs (payloads that are not inline)."""

    def __init__(
        self, environment: lmdb.Environment, blob_digests: BlobDigests, *, create: bool
    ) -> None:
        handles = open_tables(environment, NAMES, create=create, later=LATER)
        self.meta = handles["meta"]
        self.manifest = handles["manifest"]
        self.raft = handles["raft"]
        self.payload = handles["payload"]
        self.position: Database | None = handles["position"]
        self.blob_digests = blob_digests
        self.format_version = codec.LOG_FORMAT_VERSION
        """The log's format, which `put_identity` writes."""

    # --- entries ------------------------------------------------------------------------------

    def put(self, txn: Transaction, entries: list[LogEntry], plain_term: Term) -> None:
        """Appends consecutive entries. Entries of term 0 get a `raft` row with plain_term, or no
        such row if plain_term is 0."""
        manifests: list[tuple[bytes, bytes]] = []
        metadata: list[tuple[bytes, bytes]] = []
        for entry in entries:
            key = codec.u64(entry.index)
            data = b"" if entry.kind else entry.data
            manifests.append((key, codec.seal(key, data)))
            term = entry.term or plain_term
            if term:
                metadata.append((key, codec.seal(key, codec.encode_raft(entry, term))))
            for digest in self.blob_digests(entry):
                txn.put(digest + key, b"", db=self.payload)
        # Ascending keys: appending to the right edge leaves full pages.
        with txn.cursor(self.manifest) as cursor:
            cursor.putmulti(manifests, append=True)
        if metadata:
            with txn.cursor(self.raft) as cursor:
                cursor.putmulti(metadata, append=True)

    def delete(self, txn: Transaction, first: int, last: int) -> set[Digest]:
        """Deletes [first, last]; returns the blobs that the deleted entries named."""
        named: set[Digest] = set()
        with txn.cursor(self.manifest) as cursor:
            if first <= last and not cursor.set_key(codec.u64(first)):
                raise _hole(first)
            for index in range(first, last + 1):
                key = cursor.key()
                if not key or codec.from_u64(key) != index:
                    raise _hole(index)
                row = cursor.value()
                if may_name_blobs(row):
                    entry = self._entry(txn, LSN(index), bytes(key), row)
                    for digest in self.blob_digests(entry):
                        txn.delete(digest + key, db=self.payload)
                        named.add(digest)
                cursor.delete()
        with txn.cursor(self.raft) as cursor:
            end = codec.u64(last)
            found = cursor.set_range(codec.u64(first))
            while found and cursor.key() <= end:
                cursor.delete()
                found = bool(cursor.key())
        return named

    def clear(self, txn: Transaction) -> set[Digest]:
        """Deletes every entry; returns the blobs that they named."""
        named = {
            Digest(bytes(key[:DIGEST_BYTES]))
            for key in txn.cursor(self.payload).iternext(keys=True, values=False)
        }
        for table in (self.raft, self.manifest, self.payload):
            txn.drop(table, delete=False)
        return named

    def entries(self, txn: Transaction, lo: int, hi: int) -> Iterator[LogEntry]:
        """Iterates over the entries [lo, hi). The transaction must outlive the iteration."""
        if lo >= hi:
            return
        manifests, metadata = txn.cursor(self.manifest), txn.cursor(self.raft)
        if not manifests.set_key(codec.u64(lo)):
            raise _hole(lo)
        has_metadata = metadata.set_range(codec.u64(lo))
        for index, (key, row) in zip(range(lo, hi), manifests.iternext(), strict=False):
            if codec.from_u64(key) != index:
                raise _hole(index)
            data = codec.unseal("manifest", key, row)
            if has_metadata and metadata.key() < key:
                raise Damaged(
                    f"the log has a raft row under {metadata.key().hex()} without an entry: the "
                    "volume is damaged; keep it"
                )
            if has_metadata and metadata.key() == key:
                payload = codec.unseal("raft", key, metadata.value())
                yield codec.decode_raft(LSN(index), payload, data)
                has_metadata = metadata.next()
            else:
                yield LogEntry(LSN(index), Term(0), 0, data)
        if not manifests.key() or codec.from_u64(manifests.key()) + 1 < hi:
            end = codec.from_u64(manifests.key()) + 1 if manifests.key() else lo
            raise _hole(end)

    def entry(self, txn: Transaction, index: LSN) -> LogEntry:
        """Returns one entry. Raises Damaged if it is missing."""
        key = codec.u64(index)
        row = txn.get(key, db=self.manifest)
        if row is None:
            raise _hole(index)
        return self._entry(txn, index, key, row)

    def term(self, txn: Transaction, index: LSN) -> Term:
        """The term of an entry, 0 without metadata. Raises Damaged if the entry is missing."""
        key = codec.u64(index)
        row = txn.get(key, db=self.raft)
        if row is not None:
            return codec.decode_term(codec.unseal("raft", key, row))
        if txn.get(key, db=self.manifest) is None:
            raise _hole(index)
        return Term(0)

    def first(self, txn: Transaction) -> LSN | None:
        """The lowest LSN with rows, or None."""
        with txn.cursor(self.manifest) as cursor:
            return LSN(codec.from_u64(cursor.key())) if cursor.first() else None

    def span(self, txn: Transaction) -> tuple[int, int] | None:
        """The (first, last) LSN with rows, or None. Raises Damaged for a gap: then there are fewer
        rows than LSNs in this range."""
        with txn.cursor(self.manifest) as cursor:
            if not cursor.first():
                if txn.stat(self.raft)["entries"]:
                    raise Damaged(
                        "the log has raft rows and no manifest rows: the volume is damaged; keep it"
                    )
                return None
            first = codec.from_u64(cursor.key())
            cursor.last()
            last = codec.from_u64(cursor.key())
            codec.unseal("manifest", cursor.key(), cursor.value())
        if txn.stat(self.manifest)["entries"] != last - first + 1:
            keys = (codec.from_u64(key) for key in self._keys(txn, self.manifest))
            missing = next(
                i for i, key in zip(itertools.count(first), keys, strict=False) if i != key
            )
            raise _hole(missing)
        return first, last

    def metadata_missing(self, txn: Transaction, first: int, last: int) -> int | None:
        """The lowest LSN of [first, last], the range of the manifest rows, that has no `raft` row;
        None if all have one. Raises Damaged for raft rows outside the range."""
        count = txn.stat(self.raft)["entries"]
        with txn.cursor(self.raft) as cursor:
            ends: tuple[int, int] | None = None
            if cursor.first():
                low = codec.from_u64(cursor.key())
                cursor.last()
                ends = (low, codec.from_u64(cursor.key()))
        if ends is not None and not first <= ends[0] <= ends[1] <= last:
            raise Damaged(
                f"the raft rows span {ends[0]} to {ends[1]}, the manifest rows {first} to {last}: "
                "entries are missing, so the volume is damaged; keep it"
            )
        if count == last - first + 1:
            return None
        keys = (codec.from_u64(key) for key in self._keys(txn, self.raft))
        return next(
            (i for i, key in zip(itertools.count(first), keys, strict=False) if i != key),
            first + count,
        )

    def last_term(self, txn: Transaction) -> tuple[LSN, Term]:
        """(LSN, term) of the last entry that has metadata; (0, 0) without any."""
        with txn.cursor(self.raft) as cursor:
            if not cursor.last():
                return LSN(0), Term(0)
            payload = codec.unseal("raft", cursor.key(), cursor.value())
            return LSN(codec.from_u64(cursor.key())), codec.decode_term(payload)

    def put_missing_metadata(
        self, txn: Transaction, lo: int, hi: int, term: Term, before: Term, termed: LSN
    ) -> None:
        """Writes metadata for the entries of [lo, hi) that have none. Entries after `termed`, the
        last entry that had metadata before the backfill, get `term`. The others get the term of the
        entry before them (`before` at lo), because terms never fall."""
        made: list[tuple[bytes, bytes]] = []
        inherited, own = max(before, Term(1)), codec.metadata(term)
        with txn.cursor(self.raft) as cursor:
            found = cursor.set_range(codec.u64(lo)) if lo <= termed else False
            for index in range(lo, hi):
                key = codec.u64(index)
                if found and cursor.key() == key:
                    inherited = codec.decode_term(codec.unseal("raft", key, cursor.value()))
                    found = cursor.next()
                    continue
                payload = codec.metadata(inherited) if index < termed else own
                made.append((key, codec.seal(key, payload)))
            if made:
                at_end = not cursor.last() or cursor.key() < made[0][0]
                cursor.putmulti(made, append=at_end)

    def _entry(self, txn: Transaction, index: LSN, key: bytes, row: bytes) -> LogEntry:
        data = codec.unseal("manifest", key, row)
        metadata = txn.get(key, db=self.raft)
        if metadata is None:
            return LogEntry(index, Term(0), 0, data)
        return codec.decode_raft(index, codec.unseal("raft", key, metadata), data)

    @staticmethod
    def _keys(txn: Transaction, table: object) -> Iterable[bytes]:
        keys: Iterable[bytes] = txn.cursor(table).iternext(keys=True, values=False)  # type: ignore[arg-type]
        return keys

    # --- blobs, positions, meta ---------------------------------------------------------------

    def names(self, txn: Transaction, digest: Digest) -> bool:
        """Whether an entry names the blob."""
        with txn.cursor(self.payload) as cursor:
            return cursor.set_range(digest) and cursor.key().startswith(digest)

    def last_naming(self, txn: Transaction, digest: Digest) -> LSN | None:
        """The last entry that names the blob."""
        with txn.cursor(self.payload) as cursor:
            if cursor.set_range(digest + codec.u64((1 << 64) - 1)):
                found = cursor.prev()
            else:
                found = cursor.last()
            key = cursor.key() if found else b""
            return LSN(codec.from_u64(key[DIGEST_BYTES:])) if key.startswith(digest) else None

    def sizes(self, txn: "lmdb.Transaction[memoryview]", lo: int, hi: int) -> Iterator[int]:
        """The sizes in bytes of the data of the entries [lo, hi). `txn` has buffers, so only the
        length of large rows is read."""
        with txn.cursor(self.manifest) as cursor:
            if lo >= hi or not cursor.set_key(codec.u64(lo)):
                return
            for row in itertools.islice(cursor.iternext(keys=False, values=True), hi - lo):
                yield len(row) - codec.CHECKSUM_BYTES

    def positions(self, txn: Transaction) -> dict[str, LSN]:
        found: dict[str, LSN] = {}
        if self.position is None:
            return found
        for key, row in txn.cursor(self.position):
            position = codec.unseal_message("position", key, row, rows.PositionRow)
            found[bytes(key).decode(errors="backslashreplace")] = LSN(position.lsn)
        return found

    def put_position(self, txn: Transaction, name: str, lsn: LSN) -> None:
        key = name.encode()
        txn.put(key, codec.seal_message(key, rows.PositionRow(lsn=lsn)), db=self.position)

    def get_meta(self, txn: Transaction, key: bytes, kind: type[codec.M]) -> codec.M | None:
        row = txn.get(key, db=self.meta)
        return None if row is None else codec.unseal_message("meta", key, row, kind)

    def put_meta(self, txn: Transaction, key: bytes, message: Message) -> None:
        txn.put(key, codec.seal_message(key, message), db=self.meta)

    def put_identity(self, txn: Transaction, identity: Identity) -> None:
        self.put_meta(
            txn,
            IDENTITY,
            rows.IdentityRow(
                format_version=self.format_version,
                cluster_id=identity.cluster_id,
                member_id=identity.member_id,
                state_generation=identity.state_generation,
                standalone=identity.standalone,
            ),
        )

    def put_configuration(self, txn: Transaction, index: LSN, configuration: Configuration) -> None:
        self.put_meta(
            txn,
            CONF_STATE,
            rows.ConfStateRow(
                index=index,
                voters=configuration.voters,
                learners=configuration.learners,
                voters_outgoing=configuration.voters_outgoing,
                learners_next=configuration.learners_next,
                auto_leave=configuration.auto_leave,
            ),
        )


def holds_nothing(path: Path) -> bool:
    """Whether a log's environment contains only empty tables of ours, because its creation was
    interrupted before the identity was written. Raises Damaged, StorageFailed."""
    environment = open_read_only(path, len(NAMES))
    try:
        with reading(environment, "the log") as txn:
            names = [bytes(key).decode(errors="replace") for key, _ in txn.cursor()]
        if not set(names) <= set(NAMES):
            return False
        tables = open_tables(environment, names, create=False)
        with reading(environment, "the log") as txn:
            return not any(txn.stat(table)["entries"] for table in tables.values())
    finally:
        environment.close()


def _hole(index: int) -> Damaged:
    return Damaged(f"log entry {index} is missing: the volume is damaged; keep it")
