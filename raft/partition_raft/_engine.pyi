"""Types of the compiled module. Indexes and terms are unsigned 64-bit; member IDs start at 1."""

from logging import Logger
from typing import final

from partition_raft import ColdStorage

class EngineError(Exception): ...
class ProposalDropped(EngineError): ...
class PeerNotFound(EngineError): ...
class InvalidMessage(EngineError): ...
class InvalidConfig(EngineError): ...
class ConfChangeRefused(EngineError): ...
class Compacted(EngineError): ...
class FatalEngineError(EngineError): ...
class EngineMisuse(FatalEngineError): ...

@final
class HardState:
    term: int
    vote: int
    commit: int
    def __init__(self, term: int, vote: int, commit: int) -> None: ...

@final
class ConfState:
    """Members by role, ascending."""

    voters: list[int]
    learners: list[int]
    voters_outgoing: list[int]
    learners_next: list[int]
    auto_leave: bool
    def __init__(
        self,
        voters: list[int] = ...,
        learners: list[int] = ...,
        voters_outgoing: list[int] = ...,
        learners_next: list[int] = ...,
        auto_leave: bool = ...,
    ) -> None: ...

@final
class Entry:
    def __init__(
        self, index: int, term: int, data: bytes = ..., kind: int = ..., context: bytes = ...
    ) -> None: ...
    def row(self) -> tuple[int, int, int, bytes, bytes]:
        """Returns (index, term, kind, data, context). Cheaper than the properties."""

    @property
    def index(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def kind(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def context(self) -> bytes: ...

@final
class Snapshot:
    """Header of a snapshot; `data` is defined by the store."""

    index: int
    term: int
    conf_state: ConfState
    data: bytes
    def __init__(self, index: int, term: int, conf_state: ConfState, data: bytes) -> None: ...

@final
class Message:
    @staticmethod
    def decode(data: bytes) -> Message:
        """Decodes a peer's bytes. The caller must bound their number. Raises InvalidMessage."""

    def encode(self) -> bytes: ...
    def blob_digests(self) -> list[bytes] | None:
        """Returns the digests of the blobs that the entries name; None if only protobuf can
        tell."""

    @property
    def kind(self) -> int: ...
    @property
    def to(self) -> int: ...
    @property
    def sender(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def index(self) -> int: ...
    @property
    def commit(self) -> int: ...
    @property
    def reject(self) -> bool: ...
    @property
    def has_context(self) -> bool:
        """Whether it carries the context of a read index."""

    @property
    def entry_count(self) -> int: ...
    @property
    def entries(self) -> list[Entry]: ...
    @property
    def snapshot(self) -> Snapshot | None: ...

@final
class SoftState:
    leader_id: int
    role: str

@final
class Ready:
    number: int
    soft_state: SoftState | None
    hard_state: HardState | None
    entries: list[Entry]
    snapshot: Snapshot | None
    messages: list[Message]
    persisted_messages: list[Message]
    committed_entries: list[Entry]
    read_states: list[tuple[int, bytes]]
    must_sync: bool
    term_or_vote_changed: bool

@final
class PeerProgress:
    id: int
    matched: int
    next_index: int
    state: str
    recent_active: bool

@final
class Status:
    id: int
    term: int
    vote: int
    commit: int
    applied: int
    leader_id: int
    role: str
    first_index: int
    last_index: int
    lead_transferee: int | None
    progress: list[PeerProgress]
    mirror_first: int
    mirror_bytes: int
    cold_reads: int

@final
class Config:
    """Ticks and limits; sizes are in bytes. Raises InvalidConfig for values that raft-rs does not
    accept.

    At each reset, the election timeout is drawn again from [min_election_tick, max_election_tick).
    0 stands for election_tick and twice election_tick.
    """

    id: int
    election_tick: int
    heartbeat_tick: int
    min_election_tick: int
    max_election_tick: int
    max_size_per_msg: int
    max_inflight_msgs: int
    max_uncommitted_size: int
    max_committed_size_per_ready: int
    mirror_bytes_max: int
    def __init__(
        self,
        id: int,
        *,
        election_tick: int = ...,
        heartbeat_tick: int = ...,
        min_election_tick: int = ...,
        max_election_tick: int = ...,
        max_size_per_msg: int = ...,
        max_inflight_msgs: int = ...,
        max_uncommitted_size: int = ...,
        max_committed_size_per_ready: int = ...,
        mirror_bytes_max: int = ...,
    ) -> None: ...

@final
class Node:
    """One member. Not thread-safe: only the thread that created it may call it.

    Every method may raise FatalEngineError (a panic of the engine, a failure of the storage). From
    then on, every call raises it.
    """

    def __init__(
        self,
        config: Config,
        *,
        hard_state: HardState,
        conf_state: ConfState,
        boundary: tuple[int, int],
        last: tuple[int, int],
        applied: int,
        entries: list[Entry],
        storage: ColdStorage,
        logger: Logger,
    ) -> None:
        """Starts a member from its durable state.

        boundary, last: (index, term); equal if the log is empty. entries: a contiguous tail that
        ends at last and begins at or below commit + 1. Raises InvalidConfig if these contradict
        each other.
        """

    def tick(self) -> bool: ...
    def campaign(self) -> None: ...
    def step(self, message: Message) -> None:
        """Processes a peer's message. Raises PeerNotFound, InvalidMessage."""

    def propose(self, data: list[bytes]) -> tuple[int, int]:
        """Proposes `data` as consecutive entries. Returns (index of the first, term). Raises
        ProposalDropped."""

    def announce_commit(self) -> None:
        """At the leader: sends its commit index to the others, with entries that they lack. New
        entries carry it anyway; without them, nothing else does before the next heartbeat."""

    def propose_conf_change(
        self, changes: list[tuple[int, int]], joint: bool = ..., context: bytes = ...
    ) -> tuple[int, int]:
        """Proposes a configuration change of (kind, member) pairs. Returns (index, term). Raises
        ConfChangeRefused, ProposalDropped."""

    def apply_conf_change(self, entry: Entry) -> ConfState: ...
    def has_ready(self) -> bool: ...
    def ready(self) -> Ready: ...
    def advance_append_async(self) -> None: ...
    def on_persist_ready(self, number: int) -> None: ...
    def advance_apply_to(self, index: int) -> None: ...
    def compact(self, index: int, term: int) -> None: ...
    def read_index(self, context: bytes) -> None:
        """Requests a read index. The request is dropped silently if there is no leader, or it has
        not committed an entry of its term."""

    def transfer_leader(self, member: int) -> None: ...
    def report_unreachable(self, member: int) -> None: ...
    def report_snapshot(self, member: int, succeeded: bool) -> None: ...
    def ticks_to_act(self) -> int:
        """The number of ticks until the engine acts by itself, at least 1: until it sends
        heartbeats, checks its quorum or begins an election. All ticks before that one only count.
        Any other call may change it."""

    def only_a_sign_of_life(self, message: Message) -> bool:
        """Whether a leader would only note that a member lives if it stepped this message now: it
        is an answer to a heartbeat, the member has all entries, and no read waits for it."""

    def committed_to_current_term(self) -> bool: ...
    def status(self) -> Status: ...
    def conf_state(self) -> ConfState: ...
    def mirrored(self) -> list[tuple[int, int]]: ...

def encode_conf_change(changes: list[tuple[int, int]], joint: bool = ...) -> bytes: ...
def decode_conf_change(entry: Entry) -> list[tuple[int, int]]: ...
def seal_row(key: bytes, payload: bytes) -> bytes:
    """Returns the row of a payload: the CRC-32 of key and payload, 4 bytes, then the payload."""

def blob_digests(body: bytes) -> list[bytes] | None:
    """Returns the digests of the blobs that an encoded EntryBody names; None if only protobuf can
    tell."""
