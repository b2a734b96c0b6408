"""Configuration changes that wait for the engine, and their callers."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from partition_replica.engine.port import ChangeKind, ConfChangeRefused, Engine, ProposalDropped
from partition_replica.errors import MembershipRefused, ReplicaError, not_leading
from partition_replica.ids import LSN, Term


@dataclass(slots=True)
class Change:
    """A configuration change that waits for the engine. The future's result is its (LSN, term)."""

    changes: list[tuple[ChangeKind, int]]
    context: bytes
    future: "asyncio.Future[tuple[LSN, Term]]" = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def fail(self, error: ReplicaError) -> None:
        if not self.future.done():
            self.future.set_exception(error)


class Changes:
    """The changes that this leader has not proposed yet. On the event loop."""

    def __init__(self) -> None:
        self._waiting: deque[Change] = deque()

    def add(self, change: Change) -> None:
        self._waiting.append(change)

    def propose(self, engine: Engine) -> None:
        """Proposes all of them, in order. One that the engine refuses fails: its caller retries."""
        while self._waiting:
            change = self._waiting.popleft()
            if change.future.done():
                continue
            try:
                change.future.set_result(engine.propose_change(change.changes, change.context))
            except (ConfChangeRefused, ProposalDropped) as error:
                change.fail(MembershipRefused(str(error)))

    def leadership_lost(self, leader: tuple[int, str]) -> None:
        """Fails all of them: they are in no log. leader: (member ID or 0, address or "")."""
        while self._waiting:
            self._waiting.popleft().fail(not_leading("leadership was lost", leader))
