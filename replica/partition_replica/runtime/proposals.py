"""Proposals on their way: queued, proposed, committed, applied; and who waits for which."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from partition_proto.v1 import types_pb2 as types

from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogEntry
from partition_replica.errors import (
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    PreconditionFailed,
    ReplicaError,
    SessionExpired,
)
from partition_replica.ids import LSN, Term


@dataclass(slots=True)
class Pending:
    """One proposal. The future's result is an Applied; at commit, one without a result."""

    body: types.EntryBody
    size: int
    wait_applied: bool
    future: "asyncio.Future[Applied]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, error: ReplicaError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def succeed(self, applied: Applied) -> None:
        if not self.future.done():
            self.future.set_result(applied)


class Proposals:
    """Bounded by count and bytes; over it, Overloaded."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queue: deque[Pending] = deque()
        self._queued_bytes = 0
        self._waiting: dict[int, tuple[Term, Pending]] = {}

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, pending: Pending) -> None:
        limits = self._limits
        over = self._queued_bytes + pending.size > limits.proposals_queued_bytes_max
        if over or len(self._queue) + len(self._waiting) >= limits.proposals_queued_max:
            raise Overloaded(
                f"{len(self._queue) + len(self._waiting)} proposals wait (at most "
                f"{limits.proposals_queued_max}, or {limits.proposals_queued_bytes_max} bytes): "
                "retry with back-off"
            )
        self._queue.append(pending)
        self._queued_bytes += pending.size

    def take(self) -> list[Pending]:
        """The next batch, in order; at least one where there is any."""
        taken: list[Pending] = []
        size = 0
        while self._queue and len(taken) < self._limits.proposal_batch_max:
            size += self._queue[0].size
            if taken and size > self._limits.proposal_batch_bytes_max:
                break
            pending = self._queue.popleft()
            self._queued_bytes -= pending.size
            taken.append(pending)
        return taken

    def proposed(self, first: LSN, term: Term, batch: list[Pending]) -> None:
        for offset, pending in enumerate(batch):
            self._waiting[first + offset] = (term, pending)

    def committed(self, entry: LogEntry) -> None:
        """Answers those that wait for the commit only. (index, term) names an entry uniquely:
        another term at this index means that ours is gone for good."""
        waiting = self._waiting.get(entry.index)
        if waiting is None:
            return
        term, pending = waiting
        if _replaced(term, entry.term):
            del self._waiting[entry.index]
            pending.fail(NotLeader("another leader's entry took this one's place; retry there"))
        elif not pending.wait_applied:
            del self._waiting[entry.index]
            pending.succeed(Applied(entry.index, entry.term, "committed"))

    def applied(self, applied: Applied) -> None:
        waiting = self._waiting.pop(applied.index, None)
        if waiting is None:
            return
        pending = waiting[1]
        if _replaced(waiting[0], applied.term):
            pending.fail(NotLeader("another leader's entry took this one's place; retry there"))
            return
        match applied.kind:
            case "session_expired":
                pending.fail(SessionExpired("the session is gone; nothing was written"))
            case "sessions_full":
                pending.fail(Overloaded("all sessions are taken; wait until one expires"))
            case _:
                if applied.result is not None and applied.result.precondition_failed:
                    pending.fail(
                        PreconditionFailed("a precondition did not hold; nothing was written")
                    )
                else:
                    pending.succeed(applied)

    def leadership_lost(self, leader: tuple[int, str]) -> None:
        """What was proposed may still be committed; what was only queued is not in any log."""
        for _, pending in self._waiting.values():
            pending.fail(
                OutcomeUnknown(
                    "leadership was lost while the proposal was under way: it may have taken "
                    "effect; retry the same sequence at the leader"
                )
            )
        self._waiting.clear()
        for pending in self._queue:
            pending.fail(NotLeader("leadership was lost; retry at the leader", leader))
        self._queue.clear()
        self._queued_bytes = 0


def _replaced(proposed: Term, found: Term) -> bool:
    """Whether the entry that was found at our index is not ours. A plain log's entries are proposed
    without a term, and nobody else's come in between; a backfill may give them one meanwhile."""
    return proposed not in (0, found)
