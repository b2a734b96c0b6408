"""The engine of a standalone log, without Raft: an entry is committed once it is durable.

It is the same step machine as Raft's, so the code above it is the same for both. It leads from the
start, writes entries without a term, and returns them for the apply once they are durable.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from partition_replica.core.model import Configuration, LogEntry, Position
from partition_replica.core.ports import EntryReader
from partition_replica.engine.port import (
    ChangeKind,
    ConfChangeRefused,
    Message,
    PeerNotFound,
    PeerProgress,
    ProposalDropped,
    Ready,
)
from partition_replica.ids import LSN, MemberID, Term

REPLAY_BYTES_MAX = 4 * 1024**2
"""Bytes per Ready of entries that an earlier process left unapplied."""

TICKS_BETWEEN_ROUNDS = 100
"""No tick makes this engine act, so its loop sleeps. An arbitrary number."""


@dataclass(frozen=True, slots=True)
class StandaloneStatus:
    """Implements engine.port.EngineStatus."""

    id: int
    commit: int
    last_index: int
    role: str = "leader"
    term: int = 0
    lead_transferee: int | None = None
    progress: Sequence[PeerProgress] = ()
    mirror_bytes: int = 0


class StandaloneEngine:
    """Implements engine.port.Engine. Created at each start from the durable log."""

    def __init__(
        self, member: MemberID, log: EntryReader, applied: LSN, *, uncommitted_bytes_max: int
    ) -> None:
        self._member = member
        self._log = log
        self._uncommitted_bytes_max = uncommitted_bytes_max
        self._first_new = LSN(log.last.index + 1)
        self._replayed = applied
        self._last = log.last.index
        self._durable = log.last.index
        self._handed_on = log.last.index
        self._proposed: list[LogEntry] = []
        self._under_way: deque[tuple[int, list[LogEntry]]] = deque()
        self._uncommitted_bytes = 0
        self._committed: list[LogEntry] = []
        self._reads: list[tuple[int, bytes]] = []
        self._number = 0
        self._announced = False

    def tick(self) -> None: ...
    def ticks_to_act(self) -> int:
        return TICKS_BETWEEN_ROUNDS  # it never acts by itself

    def only_a_sign_of_life(self, message: Message) -> bool:
        return False

    def campaign(self) -> None: ...
    def step(self, message: Message) -> None:
        raise PeerNotFound(
            f"member {message.sender:x} sent a message, but this partition is standalone"
        )

    def propose(self, data: list[bytes]) -> tuple[LSN, Term]:
        size = sum(map(len, data))
        if self._uncommitted_bytes and self._uncommitted_bytes + size > self._uncommitted_bytes_max:
            raise ProposalDropped("too many proposed bytes are not durable yet")
        self._uncommitted_bytes += size
        first = LSN(self._last + 1)
        for offset, body in enumerate(data):
            self._proposed.append(LogEntry(LSN(first + offset), Term(0), 0, body))
        self._last = LSN(self._last + len(data))
        return first, Term(0)

    def announce_commit(self) -> None:
        """There is nobody to tell."""

    def propose_change(
        self, changes: list[tuple[ChangeKind, int]], context: bytes
    ) -> tuple[LSN, Term]:
        raise ConfChangeRefused(
            "this partition is standalone: enable replication first (EnableReplication)"
        )

    def apply_change(self, entry: LogEntry) -> Configuration:
        """Called only for entries that Raft wrote before replication was disabled. The saved
        configuration contains them."""
        return self.configuration()

    def take_ready(self) -> Ready | None:
        role = None if self._announced else "leader"
        replay = self._replay()
        if not (role or replay or self._proposed or self._committed or self._reads):
            return None
        self._announced = True
        self._number += 1
        entries, self._proposed = self._proposed, []
        if entries:
            self._under_way.append((self._number, entries))
        committed = replay
        if not replay and self._replayed >= self._handed_on:
            committed, self._committed = self._committed, []
        reads, self._reads = self._reads, []
        return Ready(
            number=self._number,
            role=role,
            leader=int(self._member),
            hard_state=None,
            entries=entries,
            snapshot=None,
            messages=[],
            persisted_messages=[],
            committed=committed,
            read_states=reads,
            must_sync=bool(entries),
            hold_messages=False,
        )

    def _replay(self) -> list[LogEntry]:
        """The next entries that were durable but not applied when the engine was created."""
        if self._replayed >= self._handed_on:
            return []
        found = self._log.read(LSN(self._replayed + 1), LSN(self._handed_on + 1), REPLAY_BYTES_MAX)
        self._replayed = found[-1].index
        return found

    def persisted(self, number: int) -> None:
        while self._under_way and self._under_way[0][0] <= number:
            _, entries = self._under_way.popleft()
            self._committed += entries
            self._durable = entries[-1].index
            self._uncommitted_bytes -= sum(len(entry.data) for entry in entries)
            assert self._uncommitted_bytes >= 0, "entries became durable that were never proposed"

    def applied_to(self, index: LSN) -> None: ...
    def read_index(self, context: bytes) -> None:
        self._reads.append((self._durable, context))

    def transfer_leader(self, member: int) -> None: ...
    def report_unreachable(self, member: int) -> None: ...
    def report_snapshot(self, member: int, succeeded: bool) -> None: ...
    def compact(self, boundary: Position) -> None: ...

    def committed_in_term(self) -> bool:
        return True

    def may_serve(self, applied: Position) -> bool:
        return applied.index >= self._first_new - 1

    def status(self) -> StandaloneStatus:
        return StandaloneStatus(int(self._member), self._durable, self._last)

    def configuration(self) -> Configuration:
        return self._log.configuration[1]
