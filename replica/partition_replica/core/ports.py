"""What the runtime needs of the outside, as Protocols. `storage.memory` is the reference of the
storage ports; the LMDB ones must not be told from it by anything but durability. `services` is the
other side: what the outside asks of the runtime."""

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
from partition_replica.ids import LSN, ClusterID, Digest, SessionID, Term

FIRST = Position(LSN(1), Term(1))
"""Where a new group's log begins: its first configuration is in no entry."""

NOTHING = Position(LSN(0), Term(0))


def never() -> bool:
    """The `cancelled` of those who don't cancel."""
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
        """One more reference from the tree; `data` for an inlined one that may be new here."""
        ...

    def drop_payload_reference(self, digest: Digest) -> None:
        """One reference less; the last one forgets the content."""
        ...

    def get_session(self, session: SessionID) -> Session | None: ...
    def put_session(self, session: SessionID, row: Session) -> None: ...
    def delete_session(self, session: SessionID) -> None:
        """With its results."""
        ...

    def expired_sessions(self, clock_ms: int) -> list[SessionID]:
        """Every session that has expired at `clock_ms` and is still stored."""
        ...

    def session_count(self) -> int:
        """Sessions that are stored."""
        ...

    def get_result(self, session: SessionID, sequence: int) -> ProposalResult | None: ...
    def put_result(self, session: SessionID, sequence: int, result: ProposalResult) -> None: ...
    def drop_results_below(self, session: SessionID, sequence: int) -> None: ...

    def put_member(self, member: int, address: str) -> None: ...
    def delete_member(self, member: int) -> None: ...

    @property
    def time_ms(self) -> int:
        """The wall clock of the last entry that carried one, milliseconds since 1970."""
        ...

    @time_ms.setter
    def time_ms(self, value: int) -> None: ...

    @property
    def clock_ms(self) -> int:
        """The clock by which sessions expire, in milliseconds (`core.sessions.advance_clock`)."""
        ...

    @clock_ms.setter
    def clock_ms(self, value: int) -> None: ...


class LogView(Protocol):
    """What is known of a log without reading it. Each property may be read from any thread; two of
    them that are read after each other may be of two moments."""

    @property
    def identity(self) -> Identity: ...

    @property
    def status(self) -> InitStatus:
        """UNKNOWN until `initialize` returned."""
        ...

    @property
    def boundary(self) -> Position:
        """(0, 0) for a log from its start; the term is 0 in a standalone log."""
        ...

    @property
    def first_stored(self) -> LSN:
        """The lowest LSN with rows, at most boundary + 1; last + 1 where there is none."""
        ...

    @property
    def base(self) -> LSN:
        """Up to where the state was imported instead of applied; 0 for all others."""
        ...

    @property
    def last(self) -> Position:
        """The last *entry*, or the boundary: its term is not the hard state's."""
        ...

    @property
    def committed(self) -> LSN:
        """Of a replicated log the hard state's commit index, of a plain one its last LSN."""
        ...

    @property
    def hard_state(self) -> HardState: ...

    @property
    def configuration(self) -> tuple[LSN, Configuration]:
        """(index of the entry it is as of, configuration). With the hard state it is
        raft.Storage's InitialState."""
        ...

    @property
    def backfill(self) -> Backfill | None:
        """How far a backfill is; None where none is under way."""
        ...

    @property
    def fencing_token(self) -> int:
        """The highest operator's token seen."""
        ...


class EntryReader(LogView, Protocol):
    """Reads entries, from any thread. What it returns is the caller's."""

    def entries(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        """raft.Storage's Entries: [lo, hi), from lo on: at least one entry if there is any, then
        up to bytes_max bytes of data; None means no limit.

        Raises Compacted for lo at or below the boundary, Unavailable for hi above last + 1 and
        where there is no entry above the boundary at all. The seed counts entries instead of
        bytes, and has an error of its own for hi above last + 1. raft-rs never asks that: it
        checks hi against the last index first, and a violation is a panic, which ends the process.
        """
        ...

    def read(self, lo: LSN, hi: LSN, bytes_max: int | None) -> list[LogEntry]:
        """Like `entries`, for consumers: down to `first_stored`, which may lie below the boundary.

        Raises Compacted for lo below it, Unavailable for hi above last + 1.
        """
        ...

    def term(self, index: LSN) -> Term:
        """raft.Storage's Term: of the boundary and everything above it, so of first - 1, too; 0 at
        0 of a log from its start. Raises Compacted below, Unavailable above. The seed says
        Compacted for first - 1, too, and for a last entry that is pruned it says the hard state's
        term: a member would then claim a newer log than it has."""
        ...


class EntryWriter(Protocol):
    """Writes what Raft decides."""

    def commit(self, batch: LogBatch) -> list[Digest]:
        """Writes a batch in one durable transaction: all of it or nothing.

        An entry at an existing index deletes everything from there on first. Raises
        `ValueError` for a hole, an index at or below the committed one, a term below the
        previous entry's or of 0 (in a standalone log: other than 0), and a hard state whose term or
        commit falls (which the seed saves: a member could vote twice in a term) or whose commit
        passes the last index. Returns the digests whose last
        reference in the log went.
        """
        ...

    def save_configuration(self, index: LSN, configuration: Configuration) -> None:
        """As of the entry at `index`. Raises ValueError for one older than the saved."""
        ...


class StandaloneLog(Protocol):
    """Writes to a log without Raft."""

    def append(self, expected: LSN | None, bodies: Sequence[bytes]) -> LSN:
        """Compare-and-append to a standalone log: the bodies become entries from `expected` on, or
        from wherever the log ends where it is None. Returns the first one's LSN. Raises ValueError,
        with nothing written, where the log does not end right before `expected`, or is Raft's."""
        ...

    def truncate_from(self, lsn: LSN) -> list[Digest]:
        """Deletes [lsn, last] of a standalone log; past the end does nothing. Raises ValueError at
        or below any position, so below the low-water mark: it was applied or acknowledged; and
        while a backfill is under way. Returns the digests that went."""
        ...


class LogFormation(EntryReader, Protocol):
    """Makes a new volume part of a group, and knows which operator commands it."""

    def bootstrap(
        self, cluster: ClusterID, configuration: Configuration, start: Position = FIRST
    ) -> None:
        """Makes a new volume the start of a group: boundary `start`, (1, 1) unless its state is
        taken over, which must be durable at `start` before. Raises ValueError for less."""
        ...

    def bootstrap_standalone(self, cluster: ClusterID, start: Position = NOTHING) -> None:
        """Makes a new volume a standalone partition. Its first entry will be LSN 1, or the one
        behind `start`, which its state must be at durably; a term of it stays as a backfill's
        lower bound."""
        ...

    def join(self, cluster: ClusterID) -> None:
        """Ties a new volume to a cluster, as a member that waits for a snapshot."""
        ...

    def save_fencing_token(self, transitions: int, holder: str) -> None:
        """Remembers an operator's token. Raises ValueError for one below the highest seen."""
        ...


class Positions(LogView, Protocol):
    """Who still needs which entries: consumers, durably, and holds, in memory."""

    @property
    def positions(self) -> dict[str, LSN]:
        """A copy: "applied", the consumers', which are durable, and as "snapshot" the lowest LSN
        that is held."""
        ...

    @property
    def consumer_count(self) -> int:
        """Consumers registered."""
        ...

    @property
    def low_water_mark(self) -> LSN:
        """min(all positions) + 1: entries below may go."""
        ...

    def register(self, name: str, lsn: LSN) -> None:
        """A consumer that has everything up to `lsn`. Raises ValueError for a name that is taken
        or not allowed, for more than CONSUMERS_MAX, for an `lsn` above the last entry, and
        Compacted where what it would read next is gone. That `lsn` is committed is the caller's to
        know: the saved commit index may lag."""
        ...

    def unregister(self, name: str) -> None:
        """Raises KeyError for an unknown name."""
        ...

    def acknowledge(self, name: str, lsn: LSN) -> None:
        """Moves a position up, durably for consumers. The same again does nothing. Raises KeyError
        for an unknown name, ValueError for an LSN that falls or passes the last entry."""
        ...

    def hold(self, lsns: Collection[LSN]) -> None:
        """Holds the log behind each of these LSNs, instead of those before; none lets go. In
        memory. One that is further behind than consumers may be does not count; the others do."""
        ...


class CompactableLog(EntryReader, Positions, Protocol):
    """Drops entries that nobody needs any more."""

    def compaction_target(self, step_entries: int) -> LSN | None:
        """Up to where `compact` may go now by positions and retention: so that at most
        trail_entries stay below the low-water mark, and at most trail_bytes of data and of weighed
        blobs. None where nothing goes, or where bytes are no reason and fewer than step_entries
        would go. Bytes are measured a part of the log a call: what it says may be too low at first,
        and is right when it is asked again."""
        ...

    def compact(self, index: LSN) -> None:
        """Moves the boundary up to `index`, durably; rows stay until `prune`. At or below the
        boundary it does nothing. Raises ValueError above the applied position or the last entry."""
        ...

    def prune(self, rows_max: int) -> tuple[int, list[Digest]]:
        """Deletes up to rows_max rows at or below the boundary that no consumer needs, lowest
        first, in one transaction; (rows deleted, digests whose last reference went). A failed
        deletion raises PruneFailed, has changed nothing, and may be tried again; a failed commit,
        which is where a full disk shows, raises StorageFailed like any other."""
        ...


class PayloadNames(Protocol):
    """Which payloads stored entries name."""

    def names_blob(self, digest: Digest) -> bool:
        """Whether a stored entry names it."""
        ...

    def last_naming(self, digest: Digest) -> LSN | None:
        """The last stored entry that names a blob."""
        ...

    def weigh(self, lsn: LSN, digest: Digest, size: int) -> None:
        """Counts a blob of `size` bytes, which nothing but the log names any more, with the entry
        at `lsn`, the last one that names it, as long as that is stored. In memory."""
        ...


class ReplicationSwitch(LogView, Protocol):
    """Gives a log Raft's metadata, and takes them away."""

    def backfill_bytes(self) -> int:
        """What the metadata of every stored entry would take, at most."""
        ...

    def begin_backfill(self) -> Backfill:
        """Begins to give Raft metadata to a standalone log, durably, or says how far an earlier one
        is.

        The term is 1 + max(saved term, highest term in the log); entries that have one keep it. In
        the seed it is the saved term, so 0 in a log that Raft never wrote, and may fall behind an
        entry's.
        Raises ValueError for a log that is Raft's already, or of no cluster.
        """
        ...

    def step_backfill(self, rows_max: int) -> Backfill:
        """Writes metadata for the next rows, in one transaction with the progress: a crash leaves
        the rows before and the place to go on from. ValueError where none is under way."""
        ...

    def backfilled_position(self, applied: LSN) -> Position:
        """`applied` with the term that its entry has when a backfill under way is complete, also
        where that entry is gone from the log. ValueError where none is under way."""
        ...

    def finish_backfill(self, applied: Position) -> None:
        """Makes the log Raft's, in one transaction: hard state {term, vote none, commit last},
        voters [self] as of last, boundary at `applied`, which must be 1 or above: a log without
        any entry needs one first, which does nothing.

        `applied` is what `backfilled_position` says; the state must be durable there, with that
        term. Raises ValueError for anything else, and where the backfill is not complete.
        """
        ...

    def disable_replication(self) -> None:
        """Makes Raft's log a plain one: everything in it counts as committed. Only for a sole
        voter; raises ValueError for any other configuration, and for changes not in it yet."""
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
    """The seed's ReplicaLogStore: a log, its Raft state, and the positions of those who use it.

    An entry is at an LSN, from 1; `boundary` is the (index, term) up to which Raft's log is
    compacted, so [boundary + 1, last] is what Raft may ask for (etcd/raft, storage.go). Rows at or
    below the boundary may still be stored, for consumers, from `first_stored` on.

    A log is *replicated* (Raft writes it: `commit` with terms from 1) or *plain* (identity
    .standalone: `append`, or `commit` of entries with term 0; what is durable is committed).

    Reads may come from any thread and own what they return. Writes may, too, and happen one at a
    time; each is one transaction that is durable when the call returns, or has not happened when it
    raises. Everything but the constructor, the properties and `close` raises Stopping once it is
    closed, Damaged for rows that are not what was written, StorageFailed where a write or fsync
    fails: after that nothing of the object may be used.
    """

    def initialize(
        self, applied: LSN, cancelled: Callable[[], bool] = never, *, prune: bool = True
    ) -> InitStatus:
        """Registers the position `applied`, prunes what no position needs (unless that is left to
        a caller that has no time now), and notifies the consumer once if anything is committed.

        Raises Damaged for an `applied` outside of [boundary, last], Cancelled where `cancelled()`
        became true; the status stays UNKNOWN then, and the same object can be initialised again.
        """
        ...

    def subscribe(self, consumer: Callable[[LSN, LSN], None]) -> None:
        """`consumer(low-water mark, committed)` is called, on the writing thread, after each
        durable rise of `committed`; never for an append that commits nothing."""
        ...

    def close(self) -> None:
        """Waits for a write or prune step under way. Closing twice is fine."""
        ...


class PeerTransport(Protocol):
    """How the runtime reaches other members. Sending never blocks and may lose."""

    def send(self, member: int, messages: list[bytes]) -> None:
        """Queues encoded messages to a member; over the peer's limit they are dropped."""
        ...

    def set_addresses(self, addresses: dict[int, str]) -> None:
        """The members as of the applied configuration; others are disconnected."""
        ...

    def learn_address(self, member: int, address: str) -> None:
        """An address that a member said itself when it connected; the configuration's wins."""
        ...

    async def push_payload(self, member: int, digest: Digest, file: Path, size: int) -> None:
        """Returns when the member holds it durably. Raises PeerFailed."""
        ...

    async def fetch_payload(
        self, member: int, digest: Digest, offset: int = 0
    ) -> tuple[int, AsyncIterator[bytes]]:
        """(size, its content from `offset` on in chunks). Raises PeerFailed, the iterator too."""
        ...

    def fetch_payloads(
        self, member: int, digests: Sequence[Digest]
    ) -> AsyncGenerator[list[bytes], None]:
        """The contents of some payloads in their order, a few at a time: at most
        PAYLOADS_A_CALL_MAX, each of at most PAYLOAD_BATCHED_BYTES_MAX. Raises PeerFailed."""
        ...

    async def send_state(
        self, member: int, message: bytes, file: Path, size: int, digest: bytes
    ) -> int:
        """Sends a snapshot's state file, from where an earlier attempt broke off, and returns when
        the member has installed it: how many payloads it had to fetch. Raises PeerFailed."""
        ...


class PeerFailed(Exception):
    """A call to another member failed: unreachable, too slow, or refused. Try another, or later.
    `refused`: it won't take this, however often it is sent."""

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
