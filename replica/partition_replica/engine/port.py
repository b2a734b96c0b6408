"""The interface of an engine: Raft's (`raft`) or the standalone one (`standalone`).

The runtime and both engines import these types from here, including those of partition_raft.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from partition_raft import (
    ChangeKind,
    ConfChangeRefused,
    InvalidMessage,
    Message,
    MessageKind,
    PeerNotFound,
    PeerProgress,
    ProposalDropped,
)

from partition_replica.core.model import Configuration, HardState, LogEntry, Position
from partition_replica.core.ports import EntryReader
from partition_replica.ids import LSN, Term

__all__ = [
    "ChangeKind",
    "ConfChangeRefused",
    "Engine",
    "EngineSettings",
    "EngineStatus",
    "InvalidMessage",
    "MakeEngine",
    "Message",
    "MessageKind",
    "PeerNotFound",
    "PeerProgress",
    "ProposalDropped",
    "Ready",
    "SnapshotSource",
    "TransferHeader",
]


@dataclass(frozen=True, slots=True)
class TransferHeader:
    """Raft's snapshot message: the header of a state transfer that the engine sends or received.
    `manifest`: an encoded TransferManifest."""

    position: Position
    configuration: Configuration
    manifest: bytes


SnapshotSource = Callable[[int, int], TransferHeader | None]
"""(requested index, receiving member ID) returns the header of a state transfer, or None until one
is prepared."""


@dataclass(frozen=True, slots=True)
class Ready:
    """One Ready of the engine, in our types. `hold_messages`: `messages`, too, must not be sent
    before the Ready is durable."""

    number: int
    role: str | None
    leader: int
    hard_state: HardState | None
    entries: list[LogEntry]
    snapshot: TransferHeader | None
    messages: list[Message]
    persisted_messages: list[Message]
    committed: list[LogEntry]
    read_states: list[tuple[int, bytes]]
    must_sync: bool
    hold_messages: bool


class EngineStatus(Protocol):
    """The engine's state at one moment. A leader's `progress` has one row per member."""

    @property
    def id(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def commit(self) -> int: ...
    @property
    def role(self) -> str: ...
    @property
    def last_index(self) -> int: ...
    @property
    def lead_transferee(self) -> int | None: ...
    @property
    def progress(self) -> Sequence[PeerProgress]: ...
    @property
    def mirror_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Times in ticks of the caller's clock, sizes in bytes. election_timeout_ticks: if 0, the
    time-out is drawn at each reset, from election_tick up to twice that; otherwise it is exactly
    this."""

    election_tick: int
    heartbeat_tick: int
    uncommitted_bytes_max: int
    entry_cache_bytes_max: int
    election_timeout_ticks: int = 0


class Engine(Protocol):
    """A synchronous step machine. `take_ready` returns what to write, send and apply; the caller
    reports back through `persisted` and `applied_to`. The engine itself stores nothing durably. Not
    thread-safe."""

    def tick(self) -> None: ...
    def ticks_to_act(self) -> int:
        """The number of ticks until the engine acts by itself, at least 1: until it sends
        heartbeats, checks its quorum or begins an election. All ticks before that one only count.
        Any other call may change it."""
        ...

    def only_a_sign_of_life(self, message: Message) -> bool:
        """Whether a leader would only note that a member lives if it stepped this message now: it
        is an answer to a heartbeat, the member has all entries, and no read waits for it. Such a
        message may be stepped later, before the next tick or message."""
        ...

    def campaign(self) -> None: ...
    def step(self, message: Message) -> None:
        """Raises PeerNotFound, InvalidMessage."""
        ...

    def propose(self, data: list[bytes]) -> tuple[LSN, Term]:
        """Proposes consecutive entries; returns (index of the first, term). Raises ProposalDropped
        if it does not lead, is transferring leadership, or has too many uncommitted bytes."""
        ...

    def announce_commit(self) -> None:
        """At a leader: sends its commit index to the others. The engine does not do that by itself,
        because the next append carries the index, too. At other members it does nothing."""
        ...

    def propose_change(
        self, changes: list[tuple[ChangeKind, int]], context: bytes
    ) -> tuple[LSN, Term]:
        """Raises ConfChangeRefused, ProposalDropped."""
        ...

    def apply_change(self, entry: LogEntry) -> Configuration: ...
    def take_ready(self) -> Ready | None:
        """Returns the next batch and advances the engine past it; None if nothing is to do."""
        ...

    def persisted(self, number: int) -> None:
        """Reports that everything up to Ready `number` is durable."""
        ...

    def applied_to(self, index: LSN) -> None: ...
    def read_index(self, context: bytes) -> None: ...
    def transfer_leader(self, member: int) -> None: ...
    def report_unreachable(self, member: int) -> None: ...
    def report_snapshot(self, member: int, succeeded: bool) -> None: ...
    def compact(self, boundary: Position) -> None:
        """Drops the log up to and including `boundary`, which must be applied."""
        ...

    def committed_in_term(self) -> bool:
        """Whether the leader has committed an entry of its own term, so that it may serve."""
        ...

    def may_serve(self, applied: Position) -> bool:
        """Whether the state at `applied` contains everything that was acknowledged before this
        leader's term."""
        ...

    def status(self) -> EngineStatus: ...
    def configuration(self) -> Configuration: ...


MakeEngine = Callable[[EntryReader, LSN, EngineSettings, SnapshotSource], Engine]
"""Creates the engine of the log's member: (log, applied LSN, settings, source of state
transfers)."""
