"""What a leader lets into its log, so that a commit is an answer.

A leader answers most appends when they are committed. That is only true if the apply, which comes
later, cannot find the session gone, the sequence used or the sequence acknowledged. So the leader
looks before it proposes: at the applied state, and at what it proposed itself and is not applied
yet. What leaders before it proposed is applied when it begins to serve.
"""

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.limits import SESSIONS_MAX
from partition_replica.core.model import Applied, ProposalResult
from partition_replica.core.sessions import ELAPSED_MS_MAX, WITHOUT_EFFECT, Verdict, judge
from partition_replica.errors import SessionExpired
from partition_replica.ids import LSN, SessionID, Term
from partition_replica.runtime.proposals import Pending, Proposals, Sequence, refusal, sequence_of
from partition_replica.storage.state import LmdbState
from partition_replica.storage.volume import Volume


class Admission:
    """One replica's, while it leads. On the event loop."""

    def __init__(self, volume: Volume, proposals: Proposals) -> None:
        self._volume = volume
        self._proposals = proposals
        self._closing: set[int] = set()
        self._marks: dict[int, int] = {}
        """By session: the highest acknowledged_below that was proposed."""
        self._batch: set[Sequence] = set()
        self._clock_ms: int | None = None
        """Of sessions, behind the last entry that was proposed; None before the first one."""
        self._batch_clock_ms = 0
        self._now_ms = self._proposed_ms = 0
        self.term = 0

    def lead(self, term: int, now_s: float) -> None:
        """A leader begins; `now_s` is a monotonic clock."""
        self.term = term
        self._closing.clear()
        self._marks.clear()
        self._clock_ms = None
        self._now_ms = self._proposed_ms = int(now_s * 1000)

    def begin_batch(self, now_s: float) -> int:
        """How many milliseconds passed since the last entry, for the first entry of this batch."""
        if self._clock_ms is None:
            self._clock_ms = self._volume.state.clock_ms
        self._batch.clear()
        self._now_ms = int(now_s * 1000)
        elapsed_ms = min(self._now_ms - self._proposed_ms, ELAPSED_MS_MAX)
        self._batch_clock_ms = self._clock_ms + elapsed_ms
        return elapsed_ms

    def admit(self, pending: Pending) -> bool:
        """Whether to propose it; else it is answered. Sets `wait_applied` where only the apply can
        tell."""
        if pending.future.done():
            return False
        match pending.body.WhichOneof("body"):
            case "close_session":
                self._forget_old()
                self._closing.add(pending.body.close_session.session_id)
                return True
            case "open_session":
                return True
        return self._admit_proposal(pending)

    def proposed(self) -> None:
        """The batch is in the engine's log."""
        self._clock_ms = self._batch_clock_ms
        self._proposed_ms = self._now_ms

    def _admit_proposal(self, pending: Pending) -> bool:
        proposal = pending.body.proposal
        session = SessionID(proposal.session_id)
        row, earlier = self._volume.state.get_session(session, proposal.sequence)
        mark = max(row.acknowledged_below if row else 0, self._marks.get(session, 0))
        verdict = judge(proposal.sequence, pending.body.content_digest, mark, earlier)
        if earlier is not None:
            pending.settle(_stored(verdict, earlier))
            return False
        if row is None or session in self._closing or row.expired(self._batch_clock_ms):
            # Nothing that comes before this entry in the log can bring the session back, and no
            # activity of it that is not applied yet can have expired it.
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
        if sequence in self._batch or self._proposals.under_way(sequence):
            pending.wait_applied = True
        self._batch.add(sequence)
        if proposal.acknowledged_below > mark:
            self._forget_old()
            self._marks[session] = proposal.acknowledged_below
        return True

    def _forget_old(self) -> None:
        """Sessions that are gone, once there are more than can be open."""
        if len(self._closing) + len(self._marks) <= 2 * SESSIONS_MAX:
            return
        state = self._volume.state
        self._closing = {s for s in self._closing if state.get_session(SessionID(s), 0)[0]}
        self._marks = {
            s: mark
            for s, mark in self._marks.items()
            if (row := state.get_session(SessionID(s), 0)[0]) and row.acknowledged_below < mark
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
