"""The leader's lease: for how long no other member can become the leader.

A member that hears from the leader ignores votes and pre-votes for an election time-out. So while a
quorum has heard from this leader recently enough, nobody else commits anything, and the leader may
answer a linearizable read from its own commit index without asking the quorum again.

The lease begins when a round of the read index is *sent*, and counts once a quorum has answered
that round. raft-rs has a lease of its own (ReadOnlyOption::LeaseBased), which we do not use. It
lasts until the leader steps down, and the check of the quorum lets a leader go on for up to two
election time-outs after a quorum last heard from it. The others wait for one.

What the lease relies on is in docs/appends.md: clocks that run equally fast within
CLOCK_DRIFT_MAX, and a clock that counts the time for which the machine is suspended.
"""

import time
from collections.abc import Callable

CLOCK_DRIFT_MAX = 0.1
"""How much faster another member's clock may run, as a share of the lease."""

GAP_TICKS = 3
"""A leader whose last tick is further back has been stopped, or has no processor: no lease."""

ROUNDS_MAX = 64
"""Rounds that are sent and not answered, of which the lease knows when they were sent."""

Clock = Callable[[], tuple[float, float]]
"""Returns (seconds that count suspension of the machine, seconds that do not)."""


def machine_clock() -> tuple[float, float]:
    """CLOCK_BOOTTIME and CLOCK_MONOTONIC."""
    # In this order a pause between the two looks like a suspension, never the other way round.
    running = time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.clock_gettime(time.CLOCK_BOOTTIME), running


class LeaderLease:
    """The lease of one member. On the event loop, without I/O."""

    def __init__(self, election_ticks: int, tick_s: float, clock: Clock = machine_clock) -> None:
        """`election_ticks`: for which a follower keeps its promise. Its first tick may come right
        after it heard from the leader, so the promise is one tick shorter."""
        self._tick_s = tick_s
        self._duration_s = (election_ticks - 1) * tick_s * (1 - CLOCK_DRIFT_MAX)
        self._clock = clock
        self._asked: dict[bytes, float] = {}
        self._asked_at = 0.0
        self._until = 0.0
        self._forbidden = False
        now, running = clock()
        self._ticked_at, self._suspended_s = now, now - running

    # --- what happens -------------------------------------------------------------------------

    def ticked(self) -> None:
        """Call it once per tick. A gap since the last call ends the lease."""
        now, running = self._clock()
        self._look_for_gap(now, running)
        self._ticked_at, self._suspended_s = now, now - running

    def asked(self, context: bytes) -> None:
        """A round of the read index is sent after this call."""
        self._asked_at = self._asked[context] = self._clock()[0]
        if len(self._asked) > ROUNDS_MAX:
            del self._asked[next(iter(self._asked))]

    def confirmed(self, context: bytes) -> None:
        """A quorum has answered the round."""
        at = self._asked.pop(context, None)
        if at is not None and not self._forbidden:
            self._until = max(self._until, at + self._duration_s)

    def end(self) -> None:
        """Ends the lease; rounds that are under way give none. After a change of the members other
        quorums decide."""
        self._until = 0.0
        self._asked.clear()

    def forbid(self) -> None:
        """This leader asks another member to take over, which needs not wait for anything. From
        here on it has no lease in its term, also if the other one fails."""
        self.end()
        self._forbidden = True

    def role_changed(self) -> None:
        self.end()
        self._forbidden = False

    # --- what may be done ---------------------------------------------------------------------

    def holds(self) -> bool:
        """Whether nobody else can be the leader at this moment. Ask before the commit index is
        read, and again before the answer is given if anything was awaited in between."""
        if not self._until:
            return False
        now, running = self._clock()
        self._look_for_gap(now, running)
        return now < self._until

    def wants_round(self) -> bool:
        """Whether another round should be sent now, so that the lease goes on."""
        now = self._clock()[0]
        half_over = now > self._until - self._duration_s / 2
        return half_over and now >= self._asked_at + self._tick_s and not self._forbidden

    def _look_for_gap(self, now: float, running: float) -> None:
        """Ends the lease if this process, or the machine, has been stopped since the last tick."""
        stopped = now - self._ticked_at > GAP_TICKS * self._tick_s
        suspended = now - running - self._suspended_s > self._tick_s / 2
        if stopped or suspended:
            self.end()
