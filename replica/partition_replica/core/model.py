"""Values that the layers pass to each other."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from partition_replica.ids import LSN, ClusterID, Digest, MemberID, Term


class InitStatus(StrEnum):
    """Whether a log has Raft's metadata (the seed's InitStatus)."""

    UNKNOWN = "unknown"
    """Not initialized yet, or the initialization failed or was cancelled."""
    UNBOOTSTRAPPED = "unbootstrapped"
    """New: no entry, no hard state."""
    NEEDS_BACKFILL = "needs_backfill"
    """Entries lack Raft's metadata, because the log was written without Raft, at least in part. The
    seed reports a log that was replicated before as bootstrapped instead, and repairs its entries
    when it reads them."""
    BOOTSTRAPPED = "bootstrapped"
    """Replicated: a hard state is saved, and every entry has its metadata."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity of a volume. cluster_id: empty until the volume belongs to a group; standalone:
    its log is written without Raft."""

    member_id: MemberID
    cluster_id: ClusterID
    state_generation: int
    standalone: bool = False


class RecoveryStep(StrEnum):
    """How far the recovery of a lost quorum has come."""

    ACCEPTED = "accepted"
    """The loss is accepted. The log is still the former cluster's."""
    SWITCHED = "switched"
    """The log belongs to the new cluster. The state lacks entries or its history."""
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class QuorumRecovery:
    """The last recovery of a lost quorum on a volume. cluster_id: of the new group. token: of the
    accepted loss. last: the last entry of the former cluster's log, from SWITCHED on."""

    cluster_id: ClusterID
    former_cluster_id: ClusterID
    token: str
    step: RecoveryStep
    last: "Position"

    @property
    def pending(self) -> bool:
        return self.step is not RecoveryStep.COMPLETE


@dataclass(frozen=True, slots=True)
class Position:
    """A position in a log: index (LSN) and term. The term is 1 or above, or 0 in a standalone
    log."""

    index: LSN
    term: Term


@dataclass(frozen=True, slots=True)
class Backfill:
    """The progress of a backfill. `term`: the term for entries without one. The entries [first,
    next) are done, [next, target] are not. Entries that are appended meanwhile get the term at
    once."""

    term: Term
    first: LSN
    next: LSN
    target: LSN

    @property
    def complete(self) -> bool:
        return self.next > self.target


@dataclass(frozen=True, slots=True)
class HardState:
    """Raft's persistent state: Raft thesis, figure 3.1."""

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
        """Whether `members` include a majority of the voters and, in joint consensus, also of the
        outgoing ones. False for a configuration without voters."""
        if not self.voters:
            return False
        return all(
            2 * sum(voter in members for voter in voters) > len(voters)
            for voters in (self.voters, self.voters_outgoing)
            if voters
        )


# Not frozen, although nobody changes one: each entry of the log is made several times, and making a
# frozen dataclass takes four times as long.
@dataclass(slots=True, unsafe_hash=True)
class LogEntry:
    """An entry of the log. `kind`: 0 normal, 1 and 2 configuration changes. `data`: the encoded
    EntryBody of a normal entry, or empty. Term 0: an entry of a standalone log, without
    metadata."""

    index: LSN
    term: Term
    kind: int
    data: bytes
    context: bytes = b""


@dataclass(frozen=True, slots=True)
class StateSwitch:
    """A received state that the log makes current. It must already be durable."""

    position: Position
    configuration: Configuration
    state_generation: int


@dataclass(slots=True)
class LogBatch:
    """The content of one durable commit of the log, in this order: a received state (`snapshot`),
    entries, hard state."""

    entries: list[LogEntry] = field(default_factory=list)
    hard_state: HardState | None = None
    snapshot: StateSwitch | None = None

    @property
    def empty(self) -> bool:
        return not self.entries and self.hard_state is None and self.snapshot is None


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A file or directory of the tree. size: bytes. Directories have neither size nor digest."""

    directory: bool
    mode: int
    size: int = 0
    digest: Digest = b""  # type: ignore[assignment]  # empty for directories


@dataclass(frozen=True, slots=True)
class Ineffective:
    """The parts of an entry without effect: the whole entry, or according to `outcomes`, one byte
    (types.Outcome) per operation."""

    whole: bool
    outcomes: bytes = b""


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """A file of the tree as of LSN `applied`, with its content: the bytes, or the blob's file."""

    node: TreeEntry
    content: bytes | Path
    applied: LSN


class Session(NamedTuple):
    """A client's session. Times are in milliseconds of the state's clock (`StateView.clock_ms`)."""

    time_to_live_ms: int
    last_active_ms: int
    acknowledged_below: int

    @property
    def lives_until_ms(self) -> int:
        """The last time at which the session exists, unless it becomes active before."""
        return self.last_active_ms + self.time_to_live_ms

    def expired(self, clock_ms: int) -> bool:
        return self.last_active_ms + self.time_to_live_ms < clock_ms


class ProposalResult(NamedTuple):
    """The effect of a proposal, and the (lsn, term) of its entry; the term is 0 if the entry was
    written without Raft. `outcomes`: one byte (types.Outcome) per operation, or empty if all were
    applied. `content_digest`: the content digest of the proposal.

    Results of entries written before format 2 have neither term nor content digest.
    """

    lsn: LSN
    term: Term
    precondition_failed: bool = False
    outcomes: bytes = b""
    content_digest: bytes = b""


@dataclass(slots=True)  # not frozen: each entry makes one, and that would take four times as long
class Applied:
    """The effect of applying one entry.

    kind: "empty", "configuration", "imported", "proposal", "duplicate" (`result` is the stored
    one), "session_opened", "session_closed". These kinds have no effect: "session_expired",
    "sequence_acknowledged", "sequence_reused", "sessions_full", "session_exists".
    """

    index: LSN
    term: Term
    kind: str
    result: ProposalResult | None = None


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member, seen from this replica. Only a leader knows `matched` and the fields after it."""

    member: int
    address: str
    voter: bool
    matched: int = 0
    recently_active: bool = False
    progress: str = ""


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """The status of a replica. role: "unbootstrapped", "joining", "switching", or the engine's
    role. history: "" while this replica does not know it."""

    cluster: str
    member: int
    incarnation: int
    role: str
    term: int
    leader: tuple[int, str]
    first_index: int
    last_index: int
    last_term: int
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
    """The report of a verification. findings: what is wrong, and where, at most FINDINGS_MAX;
    unchecked: what could not be checked, and why; counts: the number of items read, by name, and
    "findings", the number of all findings."""

    findings: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def find(self, text: str) -> None:
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(text)
        self.count("findings")

    def count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


@dataclass(frozen=True, slots=True)
class Fence:
    """A volume that no replica may serve. transitions, holder: the fencing token of the operator
    that ordered it. cluster_id, member_id: of the volume, "" and 0 if unknown."""

    transitions: int = 0
    holder: str = ""
    cluster_id: str = ""
    member_id: int = 0
