"""The log in LMDB: a whole Raft Ready is one transaction and one durable commit.

Tables: `manifest` and `raft` by LSN (the seed's MANIFEST and RAFT files), `payload` from
digest + LSN to nothing (which entries name a blob), `meta`.
"""

from collections.abc import Callable
from pathlib import Path

from google.protobuf.message import Message
from partition_proto.v1 import storage_pb2 as rows

from partition_replica.core.model import (
    Configuration,
    HardState,
    Identity,
    LogBatch,
    LogEntry,
    Position,
    SnapshotSwitch,
)
from partition_replica.errors import Compacted, Damaged
from partition_replica.ids import DIGEST_BYTES, LSN, ClusterID, Digest, MemberID, Term
from partition_replica.storage import codec
from partition_replica.storage.environment import (
    Database,
    Transaction,
    lmdb_failures,
    open_environment,
)

IDENTITY = b"identity"
HARD_STATE = b"hard_state"
BOUNDARY = b"boundary"
CONF_STATE = b"conf_state"
LEASE = b"lease"

BlobDigests = Callable[[LogEntry], list[Digest]]


class LmdbLog:
    """One replica's log. Reads from any thread; writes from one thread at a time.

    `blob_digests` names the blobs (payloads that are not inlined) of an entry.
    """

    def __init__(self, path: Path, new_member: MemberID, blob_digests: BlobDigests) -> None:
        """Opens or creates the log. `new_member` is the ID of a volume that has none yet.

        Raises Damaged for a hole, a row that fails its checksum, a format of another version.
        """
        self._environment = open_environment(path, metasync=True, tables=4)
        self._meta = self._table(b"meta")
        self._manifest = self._table(b"manifest")
        self._raft = self._table(b"raft")
        self._payload = self._table(b"payload")
        self._blob_digests = blob_digests
        self._identity: Identity
        self._boundary: Position
        self._last: Position
        self._hard_state: HardState
        self._configuration: tuple[LSN, Configuration]
        self._lease_transitions: int
        self._load(new_member)

    # --- what is known without reading --------------------------------------------------------

    @property
    def identity(self) -> Identity:
        return self._identity

    @property
    def boundary(self) -> Position:
        """(index, term) at and below which the log is compacted; (0, 0) for an empty one."""
        return self._boundary

    @property
    def last(self) -> Position:
        """The last entry, or the boundary."""
        return self._last

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    @property
    def configuration(self) -> tuple[LSN, Configuration]:
        """(index of the entry it is as of, configuration)."""
        return self._configuration

    @property
    def lease_transitions(self) -> int:
        """The highest operator's token seen."""
        return self._lease_transitions

    # --- reads --------------------------------------------------------------------------------

    def entries(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        """[lo, hi), from lo on: at least one entry if there is any, then up to bytes_max of data.

        Raises Compacted for lo at or below the boundary, IndexError for hi above last + 1, Damaged.
        """
        if lo <= self._boundary.index:
            raise self._compacted(lo)
        if hi > self._last.index + 1:
            raise IndexError(f"entries up to {hi} asked for; the log ends at {self._last.index}")
        found: list[LogEntry] = []
        size = 0
        with self._environment.begin() as txn:
            cursor = txn.cursor(self._raft)
            if lo < hi and not cursor.set_key(codec.u64(lo)):
                if lo <= self._boundary.index:
                    raise self._compacted(lo)
                raise Damaged(f"log entry {lo} is missing: the log has a hole")
            for index in range(lo, hi):
                entry = self._entry(txn, LSN(index), cursor.key(), cursor.value())
                size += len(entry.data)
                if found and bytes_max is not None and size > bytes_max:
                    break
                found.append(entry)
                if index + 1 < hi and not cursor.next():
                    raise Damaged(f"log entry {index + 1} is missing: the log has a hole")
        return found

    def term(self, index: LSN) -> Term:
        """Of the boundary and everything above it. Raises Compacted below, IndexError above."""
        if index == self._boundary.index:
            return self._boundary.term
        if index < self._boundary.index:
            raise self._compacted(index)
        if index > self._last.index:
            raise IndexError(f"term of {index} asked for; the log ends at {self._last.index}")
        key = codec.u64(index)
        with self._environment.begin() as txn:
            row = txn.get(key, db=self._raft)
        if row is None:
            raise Damaged(f"log entry {index} is missing: the log has a hole")
        return codec.decode_term(codec.unseal("raft", key, row))

    def names_blob(self, digest: Digest) -> bool:
        """Whether an entry of the log names it."""
        with self._environment.begin() as txn:
            return self._named(txn, digest)

    # --- writes -------------------------------------------------------------------------------

    def commit(self, batch: LogBatch) -> list[Digest]:
        """Writes a batch in one durable transaction: all of it or nothing.

        An entry at an existing index deletes everything from there on first. Returns the blobs
        that lost their last reference from the log. Raises ValueError, with nothing written, for
        what Raft never asks: a hole, an index at or below the committed one, a term that falls or
        is 0, a hard state whose term or commit falls or whose commit passes the last index.
        """
        released: set[Digest] = set()
        boundary, last, hard_state = self._boundary, self._last, self._hard_state
        identity, configuration = self._identity, self._configuration
        with lmdb_failures("commit of the log"), self._environment.begin(write=True) as txn:
            if batch.snapshot is not None:
                boundary = last = batch.snapshot.position
                configuration = (boundary.index, batch.snapshot.configuration)
                identity = Identity(
                    identity.member_id, identity.cluster_id, batch.snapshot.state_generation
                )
                released |= self._replace_by_snapshot(txn, batch.snapshot, identity)
                hard_state = HardState(
                    max(hard_state.term, boundary.term), hard_state.vote, boundary.index
                )
            for entry in batch.entries:
                if entry.index <= last.index:
                    _check_overwrite(entry, hard_state, boundary)
                    released |= self._truncate(txn, entry.index, last.index)
                    last = self._position(txn, LSN(entry.index - 1), boundary)
                _check_append(entry, last)
                self._put(txn, entry)
                last = Position(entry.index, entry.term)
            if batch.hard_state is not None or batch.snapshot is not None:
                wanted = batch.hard_state or hard_state
                _check_hard_state(wanted, hard_state, last)
                hard_state = wanted
                self._put_meta(
                    txn,
                    HARD_STATE,
                    rows.HardStateRow(
                        term=hard_state.term, vote=hard_state.vote, commit=hard_state.commit
                    ),
                )
            released = {digest for digest in released if not self._named(txn, digest)}
            if batch.snapshot is not None:
                # Before the rows go: a reader meets Compacted, never a hole.
                self._boundary = self._last = boundary
        self._boundary, self._last, self._hard_state = boundary, last, hard_state
        self._identity, self._configuration = identity, configuration
        return sorted(released)

    def save_configuration(self, index: LSN, configuration: Configuration) -> None:
        """Saves the configuration as of the entry at `index`, durably. Raises ValueError for one
        older than the saved."""
        if index < self._configuration[0]:
            raise ValueError(
                f"configuration as of {index} is older than the saved one, of "
                f"{self._configuration[0]}"
            )
        with lmdb_failures("commit of the log"), self._environment.begin(write=True) as txn:
            self._put_configuration(txn, index, configuration)
        self._configuration = (index, configuration)

    def save_lease(self, transitions: int, holder: str) -> None:
        """Remembers the highest operator's token, durably."""
        with lmdb_failures("commit of the log"), self._environment.begin(write=True) as txn:
            self._put_meta(txn, LEASE, rows.LeaseRow(transitions=transitions, holder=holder))
        self._lease_transitions = transitions

    def bootstrap(self, cluster: ClusterID, configuration: Configuration) -> None:
        """Makes the volume the start of a group: boundary (1, 1), so that every newcomer begins
        with a snapshot. The state must be durable at (1, 1) before."""
        start = Position(LSN(1), Term(1))
        identity = Identity(self._identity.member_id, cluster, self._identity.state_generation)
        hard_state = HardState(Term(1), MemberID(0), LSN(1))
        with lmdb_failures("commit of the log"), self._environment.begin(write=True) as txn:
            self._put_identity(txn, identity)
            self._put_meta(txn, BOUNDARY, rows.BoundaryRow(index=1, term=1))
            self._put_configuration(txn, LSN(1), configuration)
            self._put_meta(txn, HARD_STATE, rows.HardStateRow(term=1, commit=1))
        self._identity, self._boundary, self._last = identity, start, start
        self._hard_state, self._configuration = hard_state, (LSN(1), configuration)

    def join(self, cluster: ClusterID) -> None:
        """Ties a new volume to a cluster, as a member that waits for a snapshot."""
        identity = Identity(self._identity.member_id, cluster, self._identity.state_generation)
        with lmdb_failures("commit of the log"), self._environment.begin(write=True) as txn:
            self._put_identity(txn, identity)
        self._identity = identity

    def close(self) -> None:
        self._environment.close()

    # --- rows ---------------------------------------------------------------------------------

    def _table(self, name: bytes) -> Database:
        with lmdb_failures(f"opening table {name.decode()}"):
            return self._environment.open_db(name)

    def _load(self, new_member: MemberID) -> None:
        identity = self._get_meta(IDENTITY, rows.IdentityRow)
        if identity is None:
            self._identity = Identity(new_member, ClusterID(""), 1)
            with lmdb_failures("commit of the log"), self._environment.begin(write=True) as txn:
                self._put_identity(txn, self._identity)
        else:
            if identity.format_version != codec.FORMAT_VERSION:
                raise Damaged(
                    f"the volume has format {identity.format_version}; this version reads "
                    f"{codec.FORMAT_VERSION}: run the version that wrote it"
                )
            self._identity = Identity(
                MemberID(identity.member_id),
                ClusterID(identity.cluster_id),
                identity.state_generation,
            )
        boundary = self._get_meta(BOUNDARY, rows.BoundaryRow) or rows.BoundaryRow()
        self._boundary = Position(LSN(boundary.index), Term(boundary.term))
        hard = self._get_meta(HARD_STATE, rows.HardStateRow) or rows.HardStateRow()
        self._hard_state = HardState(Term(hard.term), MemberID(hard.vote), LSN(hard.commit))
        conf = self._get_meta(CONF_STATE, rows.ConfStateRow) or rows.ConfStateRow()
        self._configuration = (
            LSN(conf.index),
            Configuration(
                tuple(conf.voters),
                tuple(conf.learners),
                tuple(conf.voters_outgoing),
                tuple(conf.learners_next),
                conf.auto_leave,
            ),
        )
        lease = self._get_meta(LEASE, rows.LeaseRow) or rows.LeaseRow()
        self._lease_transitions = lease.transitions
        self._load_last()

    def _load_last(self) -> None:
        """Finds the last entry, and any hole: rows are as many as the indexes they span."""
        with self._environment.begin() as txn:
            cursor = txn.cursor(self._raft)
            if not cursor.last():
                self._last = self._boundary
                return
            last = codec.from_u64(cursor.key())
            count = txn.stat(self._raft)["entries"]
            manifests = txn.stat(self._manifest)["entries"]
            if count != last - self._boundary.index or manifests != count:
                raise Damaged(
                    f"the log spans {self._boundary.index + 1} to {last} and has {count} raft and "
                    f"{manifests} manifest rows: it has a hole"
                )
            payload = codec.unseal("raft", cursor.key(), cursor.value())
            self._last = Position(LSN(last), codec.decode_term(payload))

    def _entry(self, txn: Transaction, index: LSN, key: bytes, raft_row: bytes) -> LogEntry:
        if codec.from_u64(key) != index:
            raise Damaged(f"log entry {index} is missing: the log has a hole")
        manifest_row = txn.get(key, db=self._manifest)
        if manifest_row is None:
            raise Damaged(f"log entry {index} has no manifest row")
        return codec.decode_raft(
            index,
            codec.unseal("raft", key, raft_row),
            codec.unseal("manifest", key, manifest_row),
        )

    def _position(self, txn: Transaction, index: LSN, boundary: Position) -> Position:
        if index == boundary.index:
            return boundary
        key = codec.u64(index)
        row = txn.get(key, db=self._raft)
        if row is None:
            raise Damaged(f"log entry {index} is missing: the log has a hole")
        return Position(index, codec.decode_term(codec.unseal("raft", key, row)))

    def _put(self, txn: Transaction, entry: LogEntry) -> None:
        key = codec.u64(entry.index)
        manifest = b"" if entry.kind else entry.data
        # Ascending keys: appending to the right edge leaves full pages.
        txn.put(key, codec.seal(key, codec.encode_raft(entry)), db=self._raft, append=True)
        txn.put(key, codec.seal(key, manifest), db=self._manifest, append=True)
        for digest in self._blob_digests(entry):
            txn.put(digest + key, b"", db=self._payload)

    def _truncate(self, txn: Transaction, first: LSN, last: LSN) -> set[Digest]:
        """Deletes [first, last]; returns the blobs that the deleted entries named."""
        named: set[Digest] = set()
        for index in range(first, last + 1):
            key = codec.u64(index)
            row = txn.get(key, db=self._raft)
            if row is None:
                raise Damaged(f"log entry {index} is missing: the log has a hole")
            for digest in self._blob_digests(self._entry(txn, LSN(index), key, row)):
                txn.delete(digest + key, db=self._payload)
                named.add(digest)
            txn.delete(key, db=self._raft)
            txn.delete(key, db=self._manifest)
        return named

    def _replace_by_snapshot(
        self, txn: Transaction, snapshot: SnapshotSwitch, identity: Identity
    ) -> set[Digest]:
        named = {
            Digest(bytes(key[:DIGEST_BYTES]))
            for key in txn.cursor(self._payload).iternext(keys=True, values=False)
        }
        for table in (self._raft, self._manifest, self._payload):
            txn.drop(table, delete=False)
        position = snapshot.position
        self._put_meta(txn, BOUNDARY, rows.BoundaryRow(index=position.index, term=position.term))
        self._put_configuration(txn, position.index, snapshot.configuration)
        self._put_identity(txn, identity)
        return named

    def _named(self, txn: Transaction, digest: Digest) -> bool:
        cursor = txn.cursor(self._payload)
        return cursor.set_range(digest) and cursor.key().startswith(digest)

    def _get_meta(self, key: bytes, kind: type[codec.M]) -> codec.M | None:
        with self._environment.begin() as txn:
            row = txn.get(key, db=self._meta)
        return None if row is None else codec.unseal_message("meta", key, row, kind)

    def _put_meta(self, txn: Transaction, key: bytes, message: Message) -> None:
        txn.put(key, codec.seal_message(key, message), db=self._meta)

    def _put_identity(self, txn: Transaction, identity: Identity) -> None:
        self._put_meta(
            txn,
            IDENTITY,
            rows.IdentityRow(
                format_version=codec.FORMAT_VERSION,
                cluster_id=identity.cluster_id,
                member_id=identity.member_id,
                state_generation=identity.state_generation,
            ),
        )

    def _put_configuration(
        self, txn: Transaction, index: LSN, configuration: Configuration
    ) -> None:
        self._put_meta(
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

    def _compacted(self, index: LSN) -> Compacted:
        first = self._boundary.index + 1
        return Compacted(
            f"entry {index} is compacted; the log begins at {first}: read the state, and go on "
            "from there",
            first,
            self._hard_state.commit,
        )


def _check_overwrite(entry: LogEntry, hard_state: HardState, boundary: Position) -> None:
    if entry.index <= max(hard_state.commit, boundary.index):
        raise ValueError(
            f"entry {entry.index} would overwrite a committed one (committed {hard_state.commit})"
        )


def _check_append(entry: LogEntry, last: Position) -> None:
    if entry.index != last.index + 1:
        raise ValueError(f"entry {entry.index} behind {last.index} would leave a hole")
    if entry.term < max(last.term, 1):
        raise ValueError(f"entry {entry.index} has term {entry.term}, below {max(last.term, 1)}")


def _check_hard_state(wanted: HardState, saved: HardState, last: Position) -> None:
    if wanted.term < saved.term or wanted.commit < saved.commit:
        raise ValueError(f"hard state {wanted} falls below the saved {saved}")
    if wanted.commit > last.index:
        raise ValueError(f"commit index {wanted.commit} passes the last index {last.index}")
