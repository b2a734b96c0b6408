"""The ports to the log, the state and the other members, as Protocols. `storage.memory` and
`storage.memory_log` are the reference implementations of the storage ports; the LMDB ones must
differ from them in durability only. `services` has the ports that callers of the runtime use."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from partition_replica.core.model import (
    Backfill,
    Configuration,
    HardState,
    Identity,
    InitStatus,
    LogBatch,
    LogEntry,
    Position,
    ProposalResult,
    Session,
    TreeEntry,
)
from partition_replica.core.payloads import ArrivingPayload
from partition_replica.ids import LSN, ClusterID, Digest, SessionID, Term

FIRST = Position(LSN(1), Term(1))
"""The position after which a new group's log begins. Its first configuration has no entry."""

NOTHING = Position(LSN(0), Term(0))


def never() -> bool:
    """A `cancelled` argument for callers that never cancel."""
    return False


class StateView(Protocol):
    """The state machine's tables inside one transaction, as `core.apply` sees them."""

    def get_value(self, key: bytes) -> bytes | None: ...
    def put_value(self, key: bytes, value: bytes) -> None: ...
    def delete_value(self, key: bytes) -> None: ...

    def get_tree_entry(self, path: bytes) -> TreeEntry | None: ...
    def put_tree_entry(self, path: bytes, node: TreeEntry) -> None: ...
    def delete_tree_entry(self, path: bytes) -> None: ...
    def has_children(self, path: bytes) -> bool: ...

    def add_payload_reference(self, digest: Digest, size: int, data: bytes | None) -> None:
        """Adds a reference from the tree. `data`: the content of an inline payload, which may be
        new, otherwise None."""
        ...

    def drop_payload_reference(self, digest: Digest) -> None:
        """Drops a reference. The content is deleted with the last one."""
        ...

    def get_session(self, session: SessionID) -> Session | None: ...
    def put_session(self, session: SessionID, row: Session) -> None: ...
    def delete_session(self, session: SessionID) -> None:
        """Deletes a session and its results."""
        ...

    def expired_sessions(self, clock_ms: int) -> list[SessionID]:
        """The stored sessions that have expired at `clock_ms`."""
        ...

    def session_count(self) -> int:
        """The number of stored sessions."""
        ...

    def get_result(self, session: SessionID, sequence: int) -> ProposalResult | None: ...
    def put_result(self, session: SessionID, sequence: int, result: ProposalResult) -> None: ...
    def drop_results_below(self, session: SessionID, sequence: int) -> None: ...

    def put_member(self, member: int, address: str) -> None: ...
    def delete_member(self, member: int) -> None: ...

    @property
    def time_ms(self) -> int:
        """The wall-clock time in the last entry that has one, in milliseconds since 1970."""
        ...

    @time_ms.setter
    def time_ms(self, value: int) -> None: ...

    @property
    def clock_ms(self) -> int:
        """The session clock, in milliseconds (`core.sessions.advance_clock`)."""
        ...

    @clock_ms.setter
    def clock_ms(self, value: int) -> None: ...


class LogView(Protocol):
    """Properties of a log that are known without reading it. Any thread may read them. Two reads
    are not atomic: the log may change in between."""

    @property
    def identity(self) -> Identity: ...

    @property
    def status(self) -> InitStatus:
        """UNKNOWN until `initialize` has returned."""
        ...

    @property
    def boundary(self) -> Position:
        """(0, 0) for a log that is not compacted; the term is 0 in a standalone log."""
        ...

    @property
    def first_stored(self) -> LSN:
        """The lowest LSN with rows, at most boundary + 1; last + 1 if there are no rows."""
        ...

    @property
    def base(self) -> LSN:
        """The LSN up to which the state was imported as a base instead of applied; 0 without a
        base."""
        ...

    @property
    def last(self) -> Position:
        """The position of the last entry, or the boundary. Its term may be below the hard
        state's."""
        ...

    @property
    def committed(self) -> LSN:
        """The hard state's commit index of a replicated log, the last LSN of a standalone one."""
        ...

    @property
    def hard_state(self) -> HardState: ...

    @property
    def configuration(self) -> tuple[LSN, Configuration]:
        """(the LSN as of which it is saved, configuration). Together with the hard state, this is
        raft.Storage's InitialState."""
        ...

    @property
    def backfill(self) -> Backfill | None:
        """The progress of a backfill; None if no backfill is in progress."""
        ...

    @property
    def fencing_token(self) -> int:
        """The highest fencing token of an operator so far."""
        ...


class EntryReader(LogView, Protocol):
    """Reads entries, from any thread. The caller owns the results."""

    def entries(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        """raft.Storage's Entries: the entries [lo, hi) from lo on, at least one if there is any,
        and up to bytes_max bytes of data; None means no limit.

        Raises Compacted for lo at or below the boundary, Unavailable for hi above last + 1 and if
        there is no entry above the boundary. The seed counts entries instead of bytes, and has an
        error of its own for hi above last + 1. raft-rs never requests that: it first checks hi
        against the last index, and a violation is a panic, which ends the process.
        """
        ...

    def read(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        """As `entries`, for consumers: from `first_stored` on, which may be below the boundary.

        Raises Compacted for lo below it, Unavailable for hi above last + 1.
        """
        ...

    def term(self, index: LSN) -> Term:
        """raft.Storage's Term, from the boundary to the last LSN. It is 0 for LSN 0 of a log that
        is not compacted. Raises Compacted below, Unavailable above. The seed raises Compacted for
        the boundary, too, and returns the hard state's term for a last entry that is pruned: a
        member would then claim a newer log than it has."""
        ...


class EntryWriter(Protocol):
    """Writes a replicated log."""

    def commit(self, batch: LogBatch) -> list[Digest]:
        """Writes a batch atomically and durably. Returns the digests whose last reference in the
        log was deleted.

        An entry at an existing index first deletes all entries from that index on. Raises
        ValueError for a gap, an index at or below the commit index, a term that is 0 or below the
        previous entry's (in a standalone log: a term other than 0), a hard state whose term or
        commit index falls (the seed allows that: a member could vote twice in a term), and a commit
        index above the last LSN.
        """
        ...

    @property
    def journaled_count(self) -> int:
        """The number of entries that are durable in the log's journal alone."""
        ...

    def checkpoint(self) -> None:
        """Writes what the journal has to the log's tables, durably. Other processes that read the
        tables see it then. Raises DiskFull, which changes nothing, and StorageFailed."""
        ...

    def save_configuration(self, index: LSN, configuration: Configuration) -> None:
        """Saves the configuration as of the entry at `index`. Raises ValueError if it is older than
        the saved one."""
        ...


class StandaloneLog(Protocol):
    """Writes a standalone log."""

    def append(self, expected: LSN | None, bodies: Sequence[bytes]) -> LSN:
        """Compare-and-append: the bodies become entries from `expected` on, or after the last
        entry if it is None. Returns the LSN of the first one. Raises ValueError, and writes
        nothing, if the next LSN is not `expected`, or if the log is replicated."""
        ...

    def truncate_from(self, lsn: LSN) -> list[Digest]:
        """Deletes the entries [lsn, last] of a standalone log; above the last LSN it does nothing.
        Returns the digests whose last reference in the log was deleted. Raises ValueError if a
        position is at or above `lsn`, because these entries are applied or acknowledged, and while
        a backfill is in progress."""
        ...


class LogFormation(EntryReader, Protocol):
    """Makes a new volume part of a group, and stores the operator's fencing token."""

    def bootstrap(
        self, cluster: ClusterID, configuration: Configuration, start: Position = FIRST
    ) -> None:
        """Makes a new volume the first one of a group, with the boundary `start`. If the volume has
        the state of another group, `start` is its position, at which it must already be durable.
        Raises ValueError for a start below (1, 1)."""
        ...

    def bootstrap_standalone(self, cluster: ClusterID, start: Position = NOTHING) -> None:
        """Makes a new volume a standalone one. Its first entry gets LSN 1, or the one after
        `start`, at which its state must already be durable. A term in `start` stays as a lower
        bound for a backfill."""
        ...

    def join(self, cluster: ClusterID) -> None:
        """Binds a new volume to a group, as a future member that waits for a state transfer."""
        ...

    def save_fencing_token(self, transitions: int, holder: str) -> None:
        """Saves an operator's token. Raises ValueError for one below the highest so far."""
        ...


class Positions(LogView, Protocol):
    """The positions that keep entries: consumers, which are durable, and holds, in memory."""

    @property
    def positions(self) -> dict[str, LSN]:
        """A copy of all positions: "applied", those of the consumers, and as "snapshot" the lowest
        LSN of the holds."""
        ...

    @property
    def consumer_count(self) -> int:
        """The number of registered consumers."""
        ...

    @property
    def low_water_mark(self) -> LSN:
        """min(all positions) + 1. No position needs entries below it."""
        ...

    def register(self, name: str, lsn: LSN) -> None:
        """Registers a consumer that has received all entries up to `lsn`. Raises ValueError for a
        name that is taken or not allowed, for more than CONSUMERS_MAX, and for an `lsn` above the
        last entry; Compacted if its next entry is pruned. The caller must know that `lsn` is
        committed: the saved commit index may lag."""
        ...

    def unregister(self, name: str) -> None:
        """Removes a consumer. Raises KeyError for an unknown name."""
        ...

    def acknowledge(self, name: str, lsn: LSN) -> None:
        """Moves a position up, durably for consumers. The current LSN has no effect. Raises
        KeyError for an unknown name, ValueError for a lower LSN or one above the last entry."""
        ...

    def hold(self, lsns: Collection[LSN]) -> None:
        """Replaces all holds, which are in memory: holds the log after each of these LSNs. An empty
        collection releases all. A hold that is further behind than consumers may be is ignored."""
        ...


class CompactableLog(EntryReader, Positions, Protocol):
    """Drops entries that no position needs."""

    def compaction_target(self, step_entries: int) -> LSN | None:
        """The LSN up to which `compact` may go by positions and retention, or None to do nothing.

        At most trail_entries stay below the low-water mark, and at most trail_bytes of data and of
        weighed blobs. None if fewer than step_entries would be compacted, unless bytes exceed their
        limit. Each call measures a part of the log, so the first results may be too low."""
        ...

    def compact(self, index: LSN) -> None:
        """Moves the boundary up to `index`, durably; rows stay until `prune`. At or below the
        boundary it does nothing. Raises ValueError above the applied position or the last entry."""
        ...

    def prune(self, rows_max: int) -> tuple[int, list[Digest]]:
        """Deletes up to rows_max rows at or below the boundary that no position needs, lowest
        first, in one transaction. Returns (the number of deleted rows, the digests whose last
        reference in the log was deleted). A failed deletion raises PruneFailed, changes nothing,
        and may be retried. A failed commit, for example on a full disk, raises StorageFailed."""
        ...


class PayloadNames(Protocol):
    """The payloads that stored entries name."""

    def names_blob(self, digest: Digest) -> bool:
        """Whether a stored entry names the blob."""
        ...

    def last_naming(self, digest: Digest) -> LSN | None:
        """The last stored entry that names the blob, or None."""
        ...

    def weigh(self, lsn: LSN, digest: Digest, size: int) -> None:
        """Counts a blob of `size` bytes that only the log names with the entry at `lsn`, the last
        one that names it, while that entry is stored. In memory."""
        ...


class ReplicationSwitch(LogView, Protocol):
    """Converts a log between standalone and replicated."""

    def backfill_bytes(self) -> int:
        """An upper bound of the size of all stored entries' metadata."""
        ...

    def begin_backfill(self) -> Backfill:
        """Begins a backfill of a standalone log, durably, or returns the progress of an earlier
        one.

        The term is 1 + max(saved term, highest term in the log); entries with a term keep it. The
        seed uses the saved term. That is 0 in a log that was never replicated, and may be below an
        entry's.
        Raises ValueError if the log is replicated, or belongs to no group.
        """
        ...

    def step_backfill(self, rows_max: int) -> Backfill:
        """Writes metadata for the next rows and the progress in one transaction, so a backfill
        resumes there after a crash. Raises ValueError if no backfill is in progress."""
        ...

    def backfilled_position(self, applied: LSN) -> Position:
        """`applied` with the term that its entry has once the backfill is complete, also if the
        entry is pruned. Raises ValueError if no backfill is in progress."""
        ...

    def finish_backfill(self, applied: Position) -> None:
        """Makes the log replicated, in one transaction: hard state {term, no vote, commit last},
        voters [self] as of last, boundary `applied`. That must be 1 or above: an empty log first
        needs an entry without operations.

        `applied` is the result of `backfilled_position`, at which the state must be durable, with
        that term. Raises ValueError for any other one, and if the backfill is not complete.
        """
        ...

    def disable_replication(self) -> None:
        """Makes a replicated log standalone: all of its entries count as committed. Raises
        ValueError unless this member is the sole voter, and for a configuration change that is not
        applied yet."""
        ...


class LogStorage(
    EntryWriter,
    StandaloneLog,
    LogFormation,
    CompactableLog,
    PayloadNames,
    ReplicationSwitch,
    Protocol,
):
    """The seed's ReplicaLogStore: a log, its Raft state, and its positions.

    Entries have LSNs from 1. `boundary` is the (index, term) up to which Raft's log is compacted,
    so Raft may request [boundary + 1, last] (etcd/raft, storage.go). Rows at or below the boundary
    may still be stored, for consumers, from `first_stored` on.

    A log is *replicated* (Raft writes it: `commit` with terms from 1) or *standalone* (identity
    .standalone: `append`, or `commit` of entries with term 0; all durable entries are committed).

    Any thread may read, and the caller owns the results. Any thread may write, one at a time; each
    write is one transaction, which is durable when the call returns and has no effect when it
    raises. All methods except the constructor, the properties and `close` raise Stopping after
    `close`, Damaged for damaged rows, and StorageFailed if a write or fsync fails; after that the
    object must not be used.
    """

    def initialize(
        self, applied: LSN, cancelled: Callable[[], bool] = never, *, prune: bool = True
    ) -> InitStatus:
        """Registers the position `applied`, prunes entries that no position needs if `prune`, and
        calls the subscribed consumer once if an entry is committed.

        Raises Damaged for an `applied` outside of [boundary, last], Cancelled once `cancelled()`
        is true. Then the status stays UNKNOWN, and the object can be initialized again.
        """
        ...

    def subscribe(self, consumer: Callable[[LSN, LSN], None]) -> None:
        """Sets the `consumer(low-water mark, committed)` to call on the writing thread, each time
        after `committed` has risen durably."""
        ...

    def close(self) -> None:
        """Waits for a write or prune step in progress, and closes the log. May be repeated."""
        ...


class PeerTransport(Protocol):
    """Sends messages, payloads and states to other members, and fetches payloads from them. `send`
    never blocks, and its messages may be lost."""

    def send(self, member: int, messages: list[bytes]) -> None:
        """Queues encoded messages to a member. Messages above the queue's limit are dropped."""
        ...

    def set_addresses(self, addresses: dict[int, str]) -> None:
        """Sets the members of the applied configuration; others are disconnected."""
        ...

    def learn_address(self, member: int, address: str) -> None:
        """Adds the address that a member sent when it connected. The configuration's address has
        precedence."""
        ...

    async def push_payload(self, member: int, digest: Digest, file: Path, size: int) -> None:
        """Sends a payload; returns once the member has stored it durably. Raises PeerFailed."""
        ...

    async def push_arriving(
        self, member: int, digest: Digest, size: int, arriving: ArrivingPayload
    ) -> None:
        """As `push_payload`, with content that is still arriving here. The member refuses it if it
        ends early."""
        ...

    async def push_payloads(self, member: int, blobs: Sequence[tuple[Digest, Path, int]]) -> None:
        """Sends payloads (digest, file, size): at most PAYLOADS_A_CALL_MAX, each of at most
        PAYLOAD_BATCHED_BYTES_MAX. Returns once the member has stored all of them durably. Raises
        PeerFailed."""
        ...

    async def fetch_payload(
        self, member: int, digest: Digest, offset: int = 0
    ) -> tuple[int, AsyncIterator[bytes]]:
        """Returns (the payload's size, its content from `offset` on in chunks). The call and the
        iterator raise PeerFailed."""
        ...

    def fetch_payloads(
        self, member: int, digests: Sequence[Digest]
    ) -> AsyncGenerator[list[bytes], None]:
        """Yields the contents of payloads in their order, a few at a time. At most
        PAYLOADS_A_CALL_MAX digests, each of at most PAYLOAD_BATCHED_BYTES_MAX. Raises
        PeerFailed."""
        ...

    async def send_state(
        self, member: int, message: bytes, file: Path, size: int, digest: bytes
    ) -> int:
        """Sends a state file, and resumes an interrupted attempt. Returns once the member has
        installed it: the number of payloads that it had to fetch. Raises PeerFailed."""
        ...


class PeerFailed(Exception):
    """A call to another member failed: it is unreachable, too slow, or refused the call. Try
    another member, or retry later. `refused`: a retry at this member does not help."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
