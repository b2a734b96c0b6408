"""Waits for the state to reach an LSN, and for the leader's read index."""

import asyncio
import heapq
import itertools
from collections.abc import Callable

from partition_replica.errors import NoLeader, Overloaded
from partition_replica.ids import LSN
from partition_replica.runtime.consensus.lease import LeaderLease


class AppliedWaits:
    """Futures by LSN, resolved in order as the state advances. The number of distinct LSNs is
    bounded by the maximum lag of the apply."""

    def __init__(self, callers_max: int, *, hurry: Callable[[LSN], None] = lambda _: None) -> None:
        """`hurry` is told which LSN a caller begins to wait for (`Applier.hurry`)."""
        self._callers_max = callers_max
        self._hurry = hurry
        self._callers = 0
        self._heap: list[LSN] = []
        self._waiting: dict[LSN, dict[asyncio.Future[None], None]] = {}
        self.applied = LSN(0)
        self._changed: asyncio.Event = asyncio.Event()
        self._closed = False

    async def reach(self, index: LSN) -> None:
        """Returns once the state is at `index`. Raises NoLeader if the member closes or is closed.
        For the replica's own work, which is never refused because too many callers wait."""
        if index <= self.applied:
            return
        if self._closed:
            raise _closing()
        self._hurry(index)
        if index not in self._waiting:
            self._waiting[index] = {}
            heapq.heappush(self._heap, index)
        futures = self._waiting[index]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        futures[future] = None
        try:
            await future
        finally:
            futures.pop(future, None)

    async def reach_for_caller(self, index: LSN) -> None:
        """The same for the call of a client. Raises Overloaded if too many calls wait."""
        if index <= self.applied:
            return
        if self._callers >= self._callers_max:
            raise Overloaded(
                f"{self._callers} calls wait for the apply, the maximum: retry with backoff"
            )
        self._callers += 1
        try:
            await self.reach(index)
        finally:
            self._callers -= 1

    def advance(self, index: LSN) -> None:
        self.applied = index
        while self._heap and self._heap[0] <= index:
            for future in self._waiting.pop(heapq.heappop(self._heap)):
                if not future.done():
                    future.set_result(None)
        self.wake()

    def wake(self) -> None:
        """Wakes the tasks that wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Returns when the state advances next, when `wake` is called, or when the waits are
        closed."""
        self._hurry(LSN(self.applied + 1))
        await self._changed.wait()

    def close(self) -> None:
        """Ends all waits, later ones too: `reach` raises NoLeader, `change` returns."""
        self._closed = True
        for futures in self._waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(_closing())
        self._waiting.clear()
        self._heap.clear()
        self._changed.set()


def _closing() -> NoLeader:
    return NoLeader("this member is closing: retry with backoff")


class ReadIndexes:
    """Read indexes in rounds. All requests that arrive during one round share the next round.

    A leader asks a quorum. A follower asks its leader, through the engine, one round at a time.

    The engine silently drops a request that it can't answer, because there is no leader or nothing
    is committed in the term. Then the time-out of each request ends it.
    """

    def __init__(
        self, waiting_max: int, lease: LeaderLease | None = None, token: bytes = b""
    ) -> None:
        """`lease`: is told of the rounds, and may answer reads without one. `token`: of this member
        and start alone. A leader answers a follower by the round's name, and must not take it for a
        round of another member, nor the follower an answer for one of its next start."""
        self._token = token
        self._asked_leader_at = 0.0
        self._waiting_max = waiting_max
        self.lease = lease
        self._renewing = False
        self._next: list[asyncio.Future[LSN]] = []
        self._under_way: dict[bytes, list[asyncio.Future[LSN]]] = {}
        self._serial = itertools.count(1)
        self._waiting = 0

    @property
    def wanted(self) -> bool:
        return bool(self._next) or self._renewing

    @property
    def asked(self) -> bool:
        """Whether requests wait, for a round or for its answer."""
        return bool(self._next or self._under_way)

    def leased(self) -> bool:
        """Whether a read may be answered at this moment without a round. While reads ask, rounds
        are sent now and then that nobody waits for, so that the lease goes on."""
        if self.lease is None:
            return False
        holds = self.lease.holds()
        self._renewing = self._renewing or (holds and self.lease.wants_round())
        return holds

    async def get(self, timeout_s: float) -> LSN:
        """The index that a linearizable read has to wait for. Raises NoLeader, Overloaded."""
        if self._waiting >= self._waiting_max:
            raise Overloaded(
                f"{self._waiting_max} reads wait here, the maximum: retry with backoff"
            )
        future: asyncio.Future[LSN] = asyncio.get_running_loop().create_future()
        self._next.append(future)
        self._waiting += 1
        try:
            return await asyncio.wait_for(future, timeout_s)
        except TimeoutError as error:
            raise NoLeader(
                f"no quorum confirmed the leader within {timeout_s} s: retry with backoff"
            ) from error
        finally:
            self._waiting -= 1

    def wants_leader(self, now: float, again_s: float) -> bool:
        """Whether a follower should ask its leader now: if requests wait and no round is under way.
        Of a round without an answer for `again_s` seconds, the requests wait again: it is lost, or
        was for another leader."""
        if self._under_way:
            if now < self._asked_leader_at + again_s:
                return False
            self.ask_again()
        # Who was cancelled or timed out needs no round.
        self._next = [future for future in self._next if not future.done()]
        if self._next:
            self._asked_leader_at = now
        return bool(self._next)

    def ask_again(self) -> None:
        """The requests of rounds that are under way share the next round instead."""
        earlier = [future for futures in self._under_way.values() for future in futures]
        self._next = earlier + self._next
        self._under_way.clear()

    def start(self, *, leading: bool = True) -> bytes:
        """Begins a round; returns the context to give to the engine. leading: a quorum is asked,
        and not the leader."""
        context = self._token + next(self._serial).to_bytes(8, "big")
        self._under_way[context] = self._next
        self._next = []
        self._renewing = False
        if self.lease is not None and leading:
            self.lease.asked(context)
        return context

    def confirmed(self, index: int, context: bytes) -> None:
        if self.lease is not None:
            self.lease.confirmed(context)
        for future in self._under_way.pop(context, []):
            if not future.done():
                future.set_result(LSN(index))

    def fail(self) -> None:
        """Fails all requests: leadership is lost, so no answer will come."""
        for futures in (*self._under_way.values(), self._next):
            for future in futures:
                if not future.done():
                    future.set_exception(NoLeader("leadership was lost: retry at the new leader"))
        self._under_way.clear()
        self._next = []
        self._renewing = False
