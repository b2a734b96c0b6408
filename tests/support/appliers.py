"""An applier on a state that notes what it applies, and those who wait for it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogEntry, Position
from partition_replica.ids import LSN, Digest, Term
from partition_replica.runtime.consensus.applier import Applier, ApplyHooks
from partition_replica.runtime.consensus.proposals import PendingProposal, Proposals
from partition_replica.runtime.consensus.waits import AppliedWaits
from partition_replica.runtime.metrics import Metrics

from tests.support import proposals
from tests.support.proposals import body, proposal, set_key

T = TypeVar("T")

NEVER_S = 3600.0
WAIT_S = 30


class State:
    """Notes the batches that it applies, each once `go` is set."""

    def __init__(self) -> None:
        self.applied = Position(LSN(0), Term(1))
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def apply(
        self, entries: list[LogEntry], members: dict[int, str | None]
    ) -> tuple[list[Applied], list[Digest]]:
        assert self.go.wait(WAIT_S)
        assert entries[0].index == self.applied.index + 1
        self.batches.append([int(entry.index) for entry in entries])
        self.applied = Position(entries[-1].index, Term(1))
        return [Applied(entry.index, Term(1), "empty") for entry in entries], []


class Group:
    """An applier, and those who wait for it."""

    def __init__(self, limits: Limits) -> None:
        self.state = State()
        self.entries: list[LogEntry] = []
        self.changes: list[int] = []
        log = SimpleNamespace(read=lambda lo, hi, _: self.entries[lo - 1 : hi - 1])
        self.applier = Applier(
            cast("Any", log),
            cast("Any", SimpleNamespace(current=self.state)),
            cast("Any", None),
            limits,
            Metrics(),
        )
        self.waits = AppliedWaits(16, hurry=self.applier.hurry)
        self.proposals = Proposals(limits, hurry=self.applier.hurry)
        self.applier.start(ApplyHooks(change=self._change, done=self._done))

    async def _change(self, entry: LogEntry) -> None:
        self.changes.append(int(entry.index))

    def _done(self, results: list[Applied]) -> None:
        for applied in results:
            self.proposals.applied(applied)
        self.waits.advance(results[-1].index)

    def commit(self, count: int, *, kind: int = 0, size: int = 0) -> None:
        first = len(self.entries) + 1
        added = [
            LogEntry(LSN(lsn), Term(1), kind, b"x" * size) for lsn in range(first, first + count)
        ]
        self.entries += added
        self.applier.add(added)

    async def rest(self) -> None:
        """Until all that is to be applied now is applied."""
        for _ in range(5):
            await asyncio.sleep(0)
            await self.applier.call(lambda: None)


@asynccontextmanager
async def group(**limits: Any) -> AsyncIterator[Group]:
    limits.setdefault("apply_delay_s", NEVER_S)
    found = Group(Limits(**limits))
    running = asyncio.create_task(found.applier.run())
    try:
        yield found
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.to_thread(found.applier.close)


async def within(waiting: Awaitable[T]) -> T:
    return await asyncio.wait_for(waiting, WAIT_S)


def pending(sequence: int, *, wait_applied: bool) -> PendingProposal:
    found = body(proposal(1, sequence, [set_key(b"k", b"v")]))
    return proposals.pending(types.EntryBody(proposal=found.proposal), wait_applied=wait_applied)
