"""What a leader lets into its log, so that a commit is an answer.

A leader answers most appends when they are committed. That is only true if the apply, which comes
later, cannot find the session gone, the sequence used or the sequence acknowledged. So the leader
looks before it proposes: at the applied state, and at what it proposed itself and is not applied
yet. What leaders before it proposed is applied when it begins to serve.
"""

from dataclasses import dataclass

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.limits import SESSIONS_MAX
from partition_replica.core.model import Applied, ProposalResult, Session
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
    """What this leader proposed of a session: its state may lag behind that."""

    acknowledged_below: int = 0
    last_active_ms: int = 0
    closed: bool = False

    def applied_in(self, row: Session | None) -> bool:
        """Whether the session's row says as much, or no row comes any more."""
        if row is None:
            return True
        return (
            not self.closed
            and row.acknowledged_below >= self.acknowledged_below
            and row.last_active_ms >= self.last_active_ms
        )


NOTHING = _Proposed()


class Admission:
    """One replica's, while it leads. On the event loop. A batch counts when `proposed` is called:
    the engine may drop one."""

    def __init__(self, states: StateGenerations, proposals: Proposals) -> None:
        self._states = states
        self._proposals = proposals
        self._sessions: dict[int, _Proposed] = {}
        self._batch_sessions: dict[int, _Proposed] = {}
        self._batch_sequences: set[Sequence] = set()
        self._clock_ms: int | None = None
        """Of sessions, behind the last entry that was proposed; None before the first one."""
        self._batch_clock_ms = 0
        self._now_ms = self._proposed_ms = 0
        self.term = 0

    def lead(self, term: int, now_s: float) -> None:
        """A leader begins; `now_s` is a monotonic clock."""
        self.term = term
        self._sessions.clear()
        self._clock_ms = None
        self._now_ms = self._proposed_ms = int(now_s * 1000)

    def begin_batch(self, now_s: float) -> int:
        """How many milliseconds passed since the last entry, for the first entry of this batch."""
        if self._clock_ms is None:
            self._clock_ms = self._states.current.clock_ms
        self._batch_sessions.clear()
        self._batch_sequences.clear()
        self._now_ms = int(now_s * 1000)
        elapsed_ms = min(self._now_ms - self._proposed_ms, ELAPSED_MS_MAX)
        self._batch_clock_ms = self._clock_ms + elapsed_ms
        return elapsed_ms

    def admit(self, pending: PendingProposal) -> bool:
        """Whether to propose it; else it is answered, or waits for another try of its own. Sets
        `wait_applied` where only the apply can tell."""
        if pending.future.done():
            return False
        match pending.body.WhichOneof("body"):
            case "close_session":
                session = pending.body.close_session.session_id
                self._batch_sessions[session] = _Proposed(closed=True)
                return True
            case "open_session":
                return True
        return self._admit_proposal(pending)

    def proposed(self) -> None:
        """The batch is in the engine's log."""
        self._clock_ms = self._batch_clock_ms
        self._proposed_ms = self._now_ms
        self._sessions |= self._batch_sessions
        self._forget_old()

    def _admit_proposal(self, pending: PendingProposal) -> bool:
        proposal = pending.body.proposal
        session = SessionID(proposal.session_id)
        row, earlier = self._states.current.get_session(session, proposal.sequence)
        known = self._batch_sessions.get(session) or self._sessions.get(session, NOTHING)
        mark = max(row.acknowledged_below if row else 0, known.acknowledged_below)
        verdict = judge(proposal.sequence, pending.body.content_digest, mark, earlier)
        if earlier is not None:
            pending.settle(_stored(verdict, earlier))
            return False
        if self._proposals.follow(pending):
            return False
        if not self._alive(row, known):
            pending.fail(
                SessionExpired(
                    f"session {session} does not exist, or has expired; nothing was written by "
                    "this request: open a new session"
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
        mark = max(mark, proposal.acknowledged_below)
        self._batch_sessions[session] = _Proposed(mark, self._batch_clock_ms)
        return True

    def _alive(self, row: Session | None, known: _Proposed) -> bool:
        """Whether the session lives when an entry of this batch is applied."""
        if row is None or known.closed:
            return False
        active_ms = max(row.last_active_ms, known.last_active_ms)
        return not Session(row.time_to_live_ms, active_ms, 1).expired(self._batch_clock_ms)

    def _forget_old(self) -> None:
        """Sessions whose rows say all of it, once there are more than can be open."""
        if len(self._sessions) <= 2 * SESSIONS_MAX:
            return
        state = self._states.current
        self._sessions = {
            session: known
            for session, known in self._sessions.items()
            if not known.applied_in(state.get_session(SessionID(session), 0)[0])
        }


def answer_of(state: LmdbState, body: types.EntryBody) -> Applied | None:
    """The answer to a sequence whose result is stored; None if there is none. It holds for ever, so
    anybody may give it who has it. Raises SequenceReused, PreconditionFailed."""
    proposal = body.proposal
    _, earlier = state.get_session(SessionID(proposal.session_id), proposal.sequence)
    if earlier is None:
        return None
    applied = _stored(judge(proposal.sequence, body.content_digest, 0, earlier), earlier)
    error = refusal(applied)
    if error is not None:
        raise error
    return applied


def _stored(verdict: Verdict, earlier: ProposalResult) -> Applied:
    if verdict is Verdict.REUSED:
        return Applied(earlier.lsn, earlier.term, WITHOUT_EFFECT[verdict])
    return Applied(earlier.lsn, earlier.term, WITHOUT_EFFECT[Verdict.REPEATED], earlier)
