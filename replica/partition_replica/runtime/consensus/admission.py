"""The leader's check of a proposal before it enters the log, so that a commit is an answer.

A leader answers most appends once they are committed. The answer is only right if the later apply
can't find the session expired, or the sequence used or acknowledged. So the leader checks first:
the applied state, and its own proposals that are not applied yet. Entries of earlier leaders are
applied by the time it serves.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from partition_replica.core.limits import SESSIONS_MAX
from partition_replica.core.model import Applied, ProposalResult, Session
from partition_replica.core.proposed_entry import ProposedEntry
from partition_replica.core.sessions import ELAPSED_MS_MAX, WITHOUT_EFFECT, Verdict, judge
from partition_replica.errors import SessionExpired
from partition_replica.ids import LSN, SessionID, Term
from partition_replica.runtime.consensus.proposals import (
    PendingProposal,
    Proposals,
    Sequence,
    refusal,
    sequence_of,
)
from partition_replica.storage.generations import StateGenerations
from partition_replica.storage.state import LmdbState


@dataclass(frozen=True, slots=True)
class _Proposed:
    """What this leader proposed for a session. The applied state may lag behind it."""

    acknowledged_below: int = 0
    last_active_ms: int = 0
    closed: bool = False

    def applied_in(self, row: Session | None) -> bool:
        """Whether the session's row includes it already, or the session has no row any more."""
        if row is None:
            return True
        return (
            not self.closed
            and row.acknowledged_below >= self.acknowledged_below
            and row.last_active_ms >= self.last_active_ms
        )


NOTHING = _Proposed()


class Admission:
    """The admission of one replica while it leads. On the event loop. A batch counts only once
    `proposed` is called, because the engine may drop it."""

    def __init__(self, states: StateGenerations, proposals: Proposals) -> None:
        self._states = states
        self._proposals = proposals
        self._sessions: dict[int, _Proposed] = {}
        self._batch_sessions: dict[int, _Proposed] = {}
        self._batch_sequences: set[Sequence] = set()
        self._rows: dict[int, tuple[Session | None, dict[int, ProposalResult]]] = {}
        """What the state has of the batch's sessions: each row, and results of its sequences."""
        self._clock_ms: int | None = None
        """The session clock after the last proposed entry; None before the first one."""
        self._batch_clock_ms = 0
        self._now_ms = self._proposed_ms = 0
        self.term = 0

    def lead(self, term: int, now_s: float) -> None:
        """Called when this replica becomes the leader. now_s: a monotonic clock, in seconds."""
        self.term = term
        self._sessions.clear()
        self._clock_ms = None
        self._now_ms = self._proposed_ms = int(now_s * 1000)

    def begin_batch(self, now_s: float, batch: Iterable[PendingProposal]) -> int:
        """Returns the milliseconds since the last proposed entry, for the first entry of this
        batch."""
        self._read_rows(batch)
        if self._clock_ms is None:
            self._clock_ms = self._states.current.clock_ms
        self._batch_sessions.clear()
        self._batch_sequences.clear()
        self._now_ms = int(now_s * 1000)
        elapsed_ms = min(self._now_ms - self._proposed_ms, ELAPSED_MS_MAX)
        self._batch_clock_ms = self._clock_ms + elapsed_ms
        return elapsed_ms

    def admit(self, pending: PendingProposal) -> bool:
        """Whether to propose it. If not, it is answered already, or waits for an earlier try of the
        same sequence. Sets `wait_applied` if only the apply can decide."""
        if pending.over:
            return False
        match pending.entry.kind:
            case "close_session":
                self._batch_sessions[pending.entry.session] = _Proposed(closed=True)
                return True
            case "open_session":
                return True
        return self._admit_proposal(pending)

    def proposed(self) -> None:
        """Called once the engine has accepted the batch."""
        self._clock_ms = self._batch_clock_ms
        self._proposed_ms = self._now_ms
        self._sessions |= self._batch_sessions
        self._forget_old()

    def _read_rows(self, batch: Iterable[PendingProposal]) -> None:
        """Reads the state once per session. What was applied since is among this leader's own
        proposals, which `_sessions` and `Proposals.follow` know."""
        asked: dict[int, tuple[int, int]] = {}
        for pending in batch:
            sequence = pending.entry.sequence
            if sequence:
                low, high = asked.get(pending.entry.session, (sequence, sequence))
                asked[pending.entry.session] = min(low, sequence), max(high, sequence)
        state = self._states.current
        self._rows = {
            session: state.get_results(SessionID(session), low, high)
            for session, (low, high) in asked.items()
        }

    def _admit_proposal(self, pending: PendingProposal) -> bool:
        entry = pending.entry
        session = entry.session
        row, results = self._rows[session]
        earlier = results.get(entry.sequence)
        known = self._batch_sessions.get(session) or self._sessions.get(session, NOTHING)
        mark = max(row.acknowledged_below if row else 0, known.acknowledged_below)
        verdict = judge(entry.sequence, entry.content_digest, mark, earlier)
        if earlier is not None:
            pending.settle(_stored(verdict, earlier))
            return False
        if self._proposals.follow(pending):
            return False
        if not self._alive(row, known):
            pending.fail(
                SessionExpired(
                    f"session {session} does not exist or has expired; this request wrote nothing. "
                    "Open a new session"
                )
            )
            return False
        if verdict is Verdict.ACKNOWLEDGED:
            pending.settle(Applied(LSN(0), Term(0), WITHOUT_EFFECT[verdict]))
            return False
        sequence = sequence_of(pending)
        if sequence in self._batch_sequences:
            pending.wait_applied = True
        self._batch_sequences.add(sequence)
        mark = max(mark, entry.acknowledged_below)
        self._batch_sessions[session] = _Proposed(mark, self._batch_clock_ms)
        return True

    def _alive(self, row: Session | None, known: _Proposed) -> bool:
        """Whether the session still exists when an entry of this batch is applied."""
        if row is None or known.closed:
            return False
        active_ms = max(row.last_active_ms, known.last_active_ms)
        return not Session(row.time_to_live_ms, active_ms, 1).expired(self._batch_clock_ms)

    def _forget_old(self) -> None:
        """Forgets sessions whose rows include everything, once too many are known."""
        if len(self._sessions) <= 2 * SESSIONS_MAX:
            return
        state = self._states.current
        self._sessions = {
            session: known
            for session, known in self._sessions.items()
            if not known.applied_in(state.get_session(SessionID(session), 0)[0])
        }


def answer_of(state: LmdbState, entry: ProposedEntry) -> Applied | None:
    """Returns the stored answer to a sequence, or None if no result is stored. A stored answer
    never changes, so any replica may return it. Raises SequenceReused, PreconditionFailed."""
    _, earlier = state.get_session(SessionID(entry.session), entry.sequence)
    return None if earlier is None else answer_of_result(earlier, entry)


def answer_of_result(earlier: ProposalResult, entry: ProposedEntry) -> Applied:
    """The answer to a sequence whose stored result is `earlier`. Raises as `answer_of`."""
    applied = _stored(judge(entry.sequence, entry.content_digest, 0, earlier), earlier)
    error = refusal(applied)
    if error is not None:
        raise error
    return applied


def _stored(verdict: Verdict, earlier: ProposalResult) -> Applied:
    if verdict is Verdict.REUSED:
        return Applied(earlier.lsn, earlier.term, WITHOUT_EFFECT[verdict])
    return Applied(earlier.lsn, earlier.term, WITHOUT_EFFECT[Verdict.REPEATED], earlier)
