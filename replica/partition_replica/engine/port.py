"""What the runtime asks of an engine: Raft's (`raft`), or none (`plain`).

The runtime and both engines have these types from here, also those that are partition_raft's own.
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
    """What the engine sends for, or took as, a snapshot. `manifest`: an encoded
    TransferManifest."""

    position: Position
    configuration: Configuration
    manifest: bytes


SnapshotSource = Callable[[int, int], TransferHeader | None]
"""(index that is asked for, member it is for) gives the snapshot's header, or None until there is
one."""


@dataclass(frozen=True, slots=True)
class Ready:
    """One Ready, in our types. `hold_messages`: `messages` wait until it is durable, too."""

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
    """The engine at one moment; a leader's `progress` has a row a member."""

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
    """Ticks: of the caller's clock. Sizes in bytes. election_timeout_ticks 0: drawn at random from
    election_tick up to twice that, at each reset; else exactly this."""

    election_tick: int
    heartbeat_tick: int
    uncommitted_bytes_max: int
    entry_cache_bytes_max: int
    election_timeout_ticks: int = 0


class Engine(Protocol):
    """A synchronous step machine: `take_ready` says what to write, send and apply; `persisted` and
    `applied_to` say what was done. Nothing of it is durable. Not thread-safe."""

    def tick(self) -> None: ...
    def campaign(self) -> None: ...
    def step(self, message: Message) -> None:
        """Raises PeerNotFound, InvalidMessage."""
        ...

    def propose(self, data: list[bytes]) -> tuple[LSN, Term]:
        """Proposes consecutive entries; (index of the first, term). Raises ProposalDropped
        where it does not lead, hands leadership over, or has too much under way."""
        ...

    def propose_change(
        self, changes: list[tuple[ChangeKind, int]], context: bytes
    ) -> tuple[LSN, Term]:
        """Raises ConfChangeRefused, ProposalDropped."""
        ...

    def apply_change(self, entry: LogEntry) -> Configuration: ...
    def take_ready(self) -> Ready | None:
        """The next batch, with the engine advanced over it; None where there is nothing."""
        ...

    def persisted(self, number: int) -> None:
        """Everything up to work `number` is durable."""
        ...

    def applied_to(self, index: LSN) -> None: ...
    def read_index(self, context: bytes) -> None: ...
    def transfer_leader(self, member: int) -> None: ...
    def report_unreachable(self, member: int) -> None: ...
    def report_snapshot(self, member: int, succeeded: bool) -> None: ...
    def compact(self, boundary: Position) -> None:
        """Forgets the log up to and including `boundary`, which is applied."""
        ...

    def committed_in_term(self) -> bool:
        """Whether the leader has committed an entry of its own term: it may serve then."""
        ...

    def may_serve(self, applied: Position) -> bool:
        """Whether a leader whose state is at `applied` has everything that was ever acknowledged
        before it led."""
        ...

    def status(self) -> EngineStatus: ...
    def configuration(self) -> Configuration: ...


MakeEngine = Callable[[EntryReader, LSN, EngineSettings, SnapshotSource], Engine]
"""Makes the engine of the log's member from what is durable: (log, applied LSN, settings, source of
snapshots)."""
