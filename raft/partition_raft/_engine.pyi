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
    """Header of a snapshot; `data` is the store's own."""

    index: int
    term: int
    conf_state: ConfState
    data: bytes
    def __init__(self, index: int, term: int, conf_state: ConfState, data: bytes) -> None: ...

@final
class Message:
    @staticmethod
    def decode(data: bytes) -> Message:
        """Decodes a peer's bytes. Raises InvalidMessage; bound their number before."""

    def encode(self) -> bytes: ...
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
    """Ticks and limits; sizes in bytes. Raises InvalidConfig for what raft-rs would not run with.

    The election timeout is drawn anew from [min_election_tick, max_election_tick) at each reset;
    0 means election_tick and twice election_tick.
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
    """One member. Not thread-safe: the thread that made it is the only one that may call it.

    Every method may raise FatalEngineError (a panic of the engine, a failure of the storage);
    from then on every call does.
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
        """Restarts a member from what is durable.

        boundary, last: (index, term); equal where the log is empty. entries: a contiguous tail
        that ends at last and begins at or below commit + 1. Raises InvalidConfig where these
        contradict each other.
        """

    def tick(self) -> bool: ...
    def campaign(self) -> None: ...
    def step(self, message: Message) -> None:
        """Takes a peer's message. Raises PeerNotFound, InvalidMessage."""

    def propose(self, data: list[bytes]) -> tuple[int, int]:
        """Appends `data` as consecutive entries; (index of the first, term). ProposalDropped."""

    def propose_conf_change(
        self, changes: list[tuple[int, int]], joint: bool = ..., context: bytes = ...
    ) -> tuple[int, int]:
        """(kind, member) pairs; (index, term). Raises ConfChangeRefused, ProposalDropped."""

    def apply_conf_change(self, entry: Entry) -> ConfState: ...
    def has_ready(self) -> bool: ...
    def ready(self) -> Ready: ...
    def advance_append_async(self) -> None: ...
    def on_persist_ready(self, number: int) -> None: ...
    def advance_apply_to(self, index: int) -> None: ...
    def compact(self, index: int, term: int) -> None: ...
    def read_index(self, context: bytes) -> None:
        """Asks for a read index; dropped silently without a leader or a commit in its term."""

    def transfer_leader(self, member: int) -> None: ...
    def report_unreachable(self, member: int) -> None: ...
    def report_snapshot(self, member: int, succeeded: bool) -> None: ...
    def committed_to_current_term(self) -> bool: ...
    def status(self) -> Status: ...
    def conf_state(self) -> ConfState: ...
    def mirrored(self) -> list[tuple[int, int]]: ...

def encode_conf_change(changes: list[tuple[int, int]], joint: bool = ...) -> bytes: ...
def decode_conf_change(entry: Entry) -> list[tuple[int, int]]: ...
