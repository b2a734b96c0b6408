"""Proposals in progress (queued, proposed, committed, applied) and their waiting callers."""

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Batch
from dataclasses import dataclass, field

from partition_replica.core.limits import SESSIONS_MAX, Limits
from partition_replica.core.model import Applied, LogEntry
from partition_replica.core.proposed_entry import ProposedEntry
from partition_replica.core.sessions import WITHOUT_EFFECT, judge
from partition_replica.errors import (
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    PreconditionFailed,
    ReplicaError,
    SequenceAcknowledged,
    SequenceReused,
    SessionExpired,
    SessionsFull,
    not_leading,
)
from partition_replica.ids import LSN, Term

REPLACED = "an entry of another leader replaced this one"

Sequence = tuple[int, int]
"""(session ID, sequence), which identifies a proposal."""


class PendingProposal(ABC):
    """One proposal and whoever waits for its answer. The answer is an Applied; without a `result`
    if it is answered at commit."""

    __slots__ = ("entry", "size", "wait_applied")

    def __init__(self, entry: ProposedEntry, *, wait_applied: bool) -> None:
        self.entry = entry
        self.size = len(entry.encoded)
        self.wait_applied = wait_applied

    @property
    @abstractmethod
    def over(self) -> bool:
        """Whether it is answered, or nobody waits any more."""

    @abstractmethod
    def fail(self, error: ReplicaError) -> None:
        """Does nothing if it is over."""

    @abstractmethod
    def succeed(self, applied: Applied) -> None:
        """Does nothing if it is over."""

    def settle(self, applied: Applied) -> None:
        """Answers with the outcome of the apply, or with a result stored before."""
        error = refusal(applied)
        if error is None:
            self.succeed(applied)
        else:
            self.fail(error)


class AwaitedProposal(PendingProposal):
    """A proposal that one task awaits. Created on the event loop."""

    __slots__ = ("future",)

    def __init__(self, entry: ProposedEntry, *, wait_applied: bool) -> None:
        super().__init__(entry, wait_applied=wait_applied)
        self.future: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        return self.future.done()

    def fail(self, error: ReplicaError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def succeed(self, applied: Applied) -> None:
        if not self.future.done():
            self.future.set_result(applied)


def refusal(applied: Applied) -> ReplicaError | None:  # noqa: PLR0911  # a flat match over kinds
    """Returns the error of an applied proposal that was refused, or None if it succeeded."""
    match applied.kind:
        case "session_expired":
            return SessionExpired(
                "the session was closed or has expired; this request wrote nothing. Open a new "
                "session"
            )
        case "sessions_full":
            return SessionsFull(
                f"{SESSIONS_MAX} sessions are open, the maximum: close some, or wait until one "
                "expires"
            )
        case "session_exists":
            return Overloaded("the session ID that the leader drew exists already: retry")
        case "sequence_acknowledged":
            return SequenceAcknowledged(
                "the sequence is below acknowledged_below, so its result is deleted; this request "
                "wrote nothing. Use the next sequence, and acknowledge only sequences that were "
                "answered"
            )
        case "sequence_reused":
            return SequenceReused(
                "the sequence was used before with different content; this request wrote nothing. "
                "Use the next sequence"
            )
    if applied.result is not None and applied.result.precondition_failed:
        return PreconditionFailed("a precondition did not hold; this request wrote nothing")
    return None


@dataclass(slots=True)
class _UnderWay:
    """A sequence in the log that is not applied yet, and its later tries, which wait for it."""

    sequence: Sequence
    term: Term
    followers: list[PendingProposal] = field(default_factory=list)


class Proposals:
    """All proposals of this leader. Bounded by count and bytes; above that, `add` raises
    Overloaded."""

    def __init__(
        self,
        limits: Limits,
        *,
        leader: Callable[[], tuple[int, str]] = lambda: (0, ""),
        hurry: Callable[[LSN], None] = lambda _: None,
    ) -> None:
        """`leader` returns (member ID, address) as far as known. `hurry` is told the LSNs whose
        apply is waited for (`Applier.hurry`)."""
        self._limits = limits
        self._hurry = hurry
        self._leader = leader
        self._queue: deque[PendingProposal] = deque()
        self._queued_bytes = 0
        self._waiting: dict[int, tuple[Term, PendingProposal]] = {}
        self._unapplied: dict[int, _UnderWay] = {}
        """Sequences that this leader proposed and that are not applied yet, by LSN."""
        self._last_of: dict[Sequence, int] = {}
        """The last LSN in `_unapplied`, by sequence."""
        self._followers = 0

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def waiting(self) -> int:
        return len(self._waiting) + self._followers

    def add(self, batch: Batch[PendingProposal]) -> int:
        """Queues proposals, from the first one on, as long as they fit. Returns how many, at least
        one of a batch that is not empty. Raises Overloaded if there is no room for the first."""
        limits = self._limits
        added = 0
        for pending in batch:
            over = self._queued_bytes + pending.size > limits.proposals_queued_bytes_max
            if over or self.queued + self.waiting >= limits.proposals_queued_max:
                break
            self._queue.append(pending)
            self._queued_bytes += pending.size
            added += 1
        if batch and not added:
            raise Overloaded(
                f"{self.queued + self.waiting} proposals wait (at most "
                f"{limits.proposals_queued_max}, or {limits.proposals_queued_bytes_max} bytes): "
                "retry with backoff"
            )
        return added

    def take(self) -> list[PendingProposal]:
        """Returns the next batch, in order. It is empty only if nothing is queued."""
        taken: list[PendingProposal] = []
        size = 0
        while self._queue and len(taken) < self._limits.proposal_batch_max:
            size += self._queue[0].size
            if taken and size > self._limits.proposal_batch_bytes_max:
                break
            pending = self._queue.popleft()
            self._queued_bytes -= pending.size
            taken.append(pending)
        return taken

    def proposed(self, first: LSN, term: Term, batch: list[PendingProposal]) -> None:
        for offset, pending in enumerate(batch):
            self._waiting[first + offset] = (term, pending)
            if pending.wait_applied:
                self._hurry(LSN(first + offset))
            if pending.entry.sequence:
                sequence = sequence_of(pending)
                self._unapplied[first + offset] = _UnderWay(sequence, term)
                self._last_of[sequence] = first + offset

    def dropped(self, batch: Batch[PendingProposal], *, leads: bool) -> None:
        """The engine took none of them, because it transfers leadership, or because too much is
        uncommitted."""
        error = (
            Overloaded(
                f"more than {self._limits.uncommitted_bytes_max} bytes are proposed but not "
                "committed: retry with backoff"
            )
            if leads
            else NoLeader("leadership is being transferred: retry with backoff")
        )
        for pending in batch:
            pending.fail(error)

    def follow(self, pending: PendingProposal) -> bool:
        """Lets a second try wait for the first one, if this leader proposed it and it is not
        applied yet. Returns whether it waits. The apply of the first try then answers both, even if
        the session ends meanwhile."""
        lsn = self._last_of.get(sequence_of(pending))
        if lsn is None:
            return False
        self._hurry(LSN(lsn))
        self._unapplied[lsn].followers.append(pending)
        self._followers += 1
        return True

    def committed(self, entry: LogEntry) -> None:
        """Answers proposals that wait only for the commit. (index, term) identifies an entry:
        another term at this index means that ours is lost."""
        waiting = self._waiting.get(entry.index)
        if waiting is None:
            return
        term, pending = waiting
        if _replaced(term, entry.term):
            del self._waiting[entry.index]
            pending.fail(not_leading(REPLACED, self._leader()))
        elif not pending.wait_applied:
            del self._waiting[entry.index]
            pending.succeed(Applied(entry.index, entry.term, "committed"))

    def applied(self, applied: Applied) -> None:
        under_way = self._unapplied.pop(applied.index, None)
        if under_way is not None:
            if self._last_of.get(under_way.sequence) == applied.index:
                del self._last_of[under_way.sequence]
            self._followers -= len(under_way.followers)
            for pending in under_way.followers:
                if _replaced(under_way.term, applied.term):
                    pending.fail(not_leading(REPLACED, self._leader()))
                else:
                    pending.settle(_as_a_second_try(pending, applied))
        waiting = self._waiting.pop(applied.index, None)
        if waiting is None:
            return
        pending = waiting[1]
        if _replaced(waiting[0], applied.term):
            pending.fail(not_leading(REPLACED, self._leader()))
            return
        pending.settle(applied)

    def leadership_lost(self, leader: tuple[int, str]) -> None:
        """Fails all proposals. Proposed ones may still be committed; queued ones are in no log."""
        waiting = [pending for _, pending in self._waiting.values()]
        for under_way in self._unapplied.values():
            waiting += under_way.followers
        for pending in waiting:
            pending.fail(
                OutcomeUnknown(
                    "leadership was lost while the proposal was in progress: it may have taken "
                    "effect. Retry the same sequence at the leader"
                )
            )
        self._waiting.clear()
        self._unapplied.clear()
        self._last_of.clear()
        self._followers = 0
        for pending in self._queue:
            pending.fail(not_leading("leadership was lost", leader))
        self._queue.clear()
        self._queued_bytes = 0


def _as_a_second_try(pending: PendingProposal, first: Applied) -> Applied:
    """The result of the first try, as the answer to a later try of the same sequence."""
    if first.result is None:
        return first
    entry = pending.entry
    verdict = judge(entry.sequence, entry.content_digest, 0, first.result)
    return Applied(first.index, first.term, WITHOUT_EFFECT[verdict], first.result)


def sequence_of(pending: PendingProposal) -> Sequence:
    return pending.entry.session, pending.entry.sequence


def _replaced(proposed: Term, found: Term) -> bool:
    """Whether the entry at our index is not ours. Entries of a standalone log are proposed without
    a term, and no other writer exists; a backfill may give them a term meanwhile."""
    return proposed not in (0, found)
