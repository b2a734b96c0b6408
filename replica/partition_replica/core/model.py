"""Values that layers hand to each other."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term


class InitStatus(StrEnum):
    """What a log is with regard to Raft (the seed's InitStatus)."""

    UNKNOWN = "unknown"
    """Not initialised yet, or its initialisation failed or was cancelled."""
    UNBOOTSTRAPPED = "unbootstrapped"
    """New: no entry, no hard state."""
    NEEDS_BACKFILL = "needs_backfill"
    """It was written without Raft, at least in part: entries lack Raft metadata. Also if Raft was
    on before, where the seed says bootstrapped and mends the entries by the way."""
    BOOTSTRAPPED = "bootstrapped"
    """Raft's: a hard state is saved, and every entry has its metadata."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a volume is. cluster_id is empty until it belongs to a cluster; standalone: its log is
    a plain one, written without Raft."""

    member_id: MemberID
    cluster_id: ClusterID
    state_generation: int
    standalone: bool = False


@dataclass(frozen=True, slots=True)
class Position:
    """A place in the log. Terms of stored entries and boundaries are 1 or above."""

    index: LSN
    term: Term


@dataclass(frozen=True, slots=True)
class Backfill:
    """How far the writing of Raft metadata is. `term` is what entries without one get; [first,
    next) is done, up to and including `target` is to do. Entries appended meanwhile get the term
    at once."""

    term: Term
    first: LSN
    next: LSN
    target: LSN

    @property
    def complete(self) -> bool:
        return self.next > self.target


@dataclass(frozen=True, slots=True)
class HardState:
    """What Raft must find again: Raft thesis, figure 3.1."""

    term: Term
    vote: MemberID
    commit: LSN


@dataclass(frozen=True, slots=True)
class Configuration:
    """The group's members by role, ascending; joint while voters_outgoing is not empty."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False

    @property
    def members(self) -> frozenset[int]:
        return frozenset(self.voters + self.learners + self.voters_outgoing + self.learners_next)

    @property
    def joint(self) -> bool:
        return bool(self.voters_outgoing)

    def is_quorum(self, members: frozenset[int] | set[int]) -> bool:
        """A majority of the voters and, in joint consensus, of the outgoing ones too.

        False for a configuration without voters: nothing is ever on a quorum of nobody.
        """
        if not self.voters:
            return False
        return all(
            2 * sum(voter in members for voter in voters) > len(voters)
            for voters in (self.voters, self.voters_outgoing)
            if voters
        )


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A row of the log. `kind`: 0 normal, 1 and 2 configuration changes; `data` is an encoded
    EntryBody for normal entries, or empty. Term 0: an entry of a standalone log, without
    metadata."""

    index: LSN
    term: Term
    kind: int
    data: bytes
    context: bytes = b""


@dataclass(frozen=True, slots=True)
class StateSwitch:
    """A staged snapshot that the log adopts: everything of it is durable already."""

    position: Position
    configuration: Configuration
    state_generation: int


@dataclass(slots=True)
class LogBatch:
    """What one durable commit of the log writes, in this order: snapshot, entries, hard state."""

    entries: list[LogEntry] = field(default_factory=list)
    hard_state: HardState | None = None
    snapshot: StateSwitch | None = None

    @property
    def empty(self) -> bool:
        return not self.entries and self.hard_state is None and self.snapshot is None


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """An entry of the tree. Directories have neither size nor digest."""

    directory: bool
    mode: int
    size: int = 0
    digest: Digest = b""  # type: ignore[assignment]  # of directories: none


@dataclass(frozen=True, slots=True)
class Ineffective:
    """What of an entry had no effect: all of it, or what `outcomes` says, a byte (types.Outcome) an
    operation."""

    whole: bool
    outcomes: bytes = b""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file of the tree as of LSN `applied`, with its content: the bytes, or the blob's file."""

    node: TreeEntry
    content: bytes | Path
    applied: LSN


@dataclass(frozen=True, slots=True)
class Session:
    """A client's session. Times are in milliseconds of the state's clock (`StateView.clock_ms`)."""

    time_to_live_ms: int
    last_active_ms: int
    acknowledged_below: int

    @property
    def lives_until_ms(self) -> int:
        """The last moment at which the session exists, unless it becomes active before."""
        return self.last_active_ms + self.time_to_live_ms

    def expired(self, clock_ms: int) -> bool:
        return self.lives_until_ms < clock_ms


@dataclass(frozen=True, slots=True)
class ProposalResult:
    """What a proposal did, at which (lsn, term); term is 0 if the entry was written without Raft.
    `outcomes`: one byte (types.Outcome) per operation; empty if all were applied.
    `content_digest`: of the proposal's content.

    Results of entries written before format 2 have neither term nor digest.
    """

    lsn: LSN
    term: Term
    precondition_failed: bool = False
    outcomes: bytes = b""
    content_digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Applied:
    """What applying one entry did.

    kind: "empty", "configuration", "imported", "proposal", "duplicate" (`result` is the earlier
    one), "session_opened", "session_closed"; or, without effect, "session_expired",
    "sequence_acknowledged", "sequence_reused", "sessions_full", "session_exists".
    """

    index: LSN
    term: Term
    kind: str
    result: ProposalResult | None = None


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member as this replica sees it; `matched` and what follows are known to a leader only."""

    member: int
    address: str
    voter: bool
    matched: int = 0
    recently_active: bool = False
    progress: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica at one moment. role: "unbootstrapped", "joining", "switching", or the
    engine's. history: "" while it is not known here."""

    cluster: str
    member: int
    incarnation: int
    role: str
    term: int
    leader: tuple[int, str]
    first_index: int
    last_index: int
    committed: int
    applied: int
    members: list[MemberStatus]
    configuration_changing: bool
    disk_full: bool
    disk_free_bytes: int
    disk_total_bytes: int
    serving: bool
    session_count: int
    standalone: bool
    backfill: Backfill | None
    stored_from: int
    low_water_mark: int
    history: str


FINDINGS_MAX = 1000


@dataclass(slots=True)
class VerifyReport:
    """findings: what is wrong, each naming where, at most FINDINGS_MAX. unchecked: what could not
    be checked, and why. counts: what was read, by name, and "findings", all of them."""

    findings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def find(self, text: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)
        self.count("findings")

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by
