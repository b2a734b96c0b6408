"""The engine's clock. It counts ticks, and wakes the loop only for one that makes the engine act.

**Naps.** Most ticks only count: a leader's between two heartbeats, and a follower's while it hears
of its leader. The loop says after each round how many ticks it can do without (`nap`). Ticks that
passed meanwhile are taken together (`take`), at the next message or when the nap ends, and before
the message. So the engine sees ticks and messages in the order in which they came.

**The fast clock** is for a follower whose connection from the leader broke. If a leader's process
dies, its kernel closes its connections at once. The followers need not wait a whole election
time-out to act on that. So a follower ticks FAST_TICKS_A_TICK times faster from the end of the
leader's stream until it hears of a leader, becomes leader, or an election time-out of the normal
clock has passed. No time-out changes in ticks.

**One broken stream, and a leader that lives.** The follower asks for pre-votes early. The leader
and the other followers ignore it: they heard of the leader within an election time-out of their own
clocks, which are not fast. Pre-votes change neither term nor vote, and the leader's next message
makes the member a follower again.

**All streams broken, and a leader that lives.** The leader connects again after
`backoff.PEER_CONNECTION`'s first pause, which is far shorter than `vote_refused_s`. Its greeting
ends the fast clock. If it takes longer, for example because the network rejects its connections,
the followers elect another leader after one fast election time-out. That is safe, as every election
is. It costs one change of leader that a slow clock would have avoided, and it is at most one per
reset: the new leader's streams are not those that broke.

**Leases.** A leader's lease (`lease`) stands on its followers' refusal to vote for nearly a whole
election time-out. The fast clock shortens that in seconds, though not in ticks, and a follower
cannot tell a dead leader from a live one behind a reset. So the two exclude each other: with lease
reads no clock is fast.

A lost node or a cut link sends no FIN and no RST. The end of a stream by keepalive comes after more
than an election time-out, when the follower knows of no leader or of another one.
"""

import asyncio
from collections.abc import Callable

FAST_TICKS_A_TICK = 10
"""Ticks of the fast clock in the time of one normal tick. With the default tick of 100 ms a fast
election time-out is 100 to 200 ms: longer than a reconnection of a live leader (10 ms, and a
handshake), and than the round trips and fsyncs of an election, so that two candidates rarely split
the votes."""

LATE_TICKS = 1.0
"""A nap that ends this many ticks too late counts as one tick: the process was stopped, or had no
processor, and messages that came meanwhile may still wait in their sockets."""

EARLY_S = 1e-6
"""A timer may fire this much too early, because times are rounded."""


def vote_refused_s(tick_s: float, election_ticks: int) -> float:
    """Seconds for which a follower, by its own clock, at least refuses its vote after it has heard
    of its leader, whatever happens to its connections. It counts whole ticks, and the first one may
    come at once. A live leader has to reconnect within this time."""
    return (election_ticks - 1) * tick_s / FAST_TICKS_A_TICK


class Ticker:
    """Counts the engine's ticks. A tick may be late, and is never made up for: between two rounds
    of the loop, no more ticks pass than the nap has. On the event loop."""

    def __init__(self, tick_s: float, election_ticks: int, wake: Callable[[], None]) -> None:
        """`wake` is called when a nap ends. Then `take` and `nap` are due."""
        self._slow_s = tick_s
        self._fast_for_s = election_ticks * tick_s
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._counted_at = 0.0
        """When the last tick passed that is counted."""
        self._nap_ticks = 1
        self._due = 0
        """Ticks of the nap that are counted and not taken yet."""
        self._fast_until = 0.0
        self.fast = False
        """Whether the fast clock runs."""

    def start(self) -> None:
        self._running = True
        self._counted_at = self._loop.time()
        self._set_timer()

    def stop(self) -> None:
        self._running = False
        self._cancel_timer()

    def take(self) -> int:
        """The ticks that passed since the last call: at most those of the nap. Call it before the
        engine is told of anything else."""
        self._count()
        due, self._due = self._due, 0
        self._nap_ticks -= due
        return due

    def nap(self, ticks: int) -> None:
        """Calls `wake` when this many ticks have passed, at least one. Call it after `take`, when
        the engine has been told of everything."""
        self._nap_ticks = max(1, ticks)
        # Under load this is called for each message. A timer that is a little too early may stay.
        if self._timer is None or not 0 <= self._ends_at() - self._timer_at < self._tick_s:
            self._set_timer()

    def hurry(self) -> None:
        """Starts the fast clock. It ends after an election time-out of the normal clock: without a
        quorum, faster elections would only be more elections. The next tick is a fast one, counted
        from the last tick."""
        self._count()
        now = self._loop.time()
        self.fast = True
        self._fast_until = now + self._fast_for_s
        self._counted_at = max(self._counted_at, now - self._tick_s)  # at most one tick at once
        self._set_timer()

    def calm(self) -> None:
        """Ends the fast clock. The next tick comes a normal tick after the last one."""
        if self.fast:
            self._count()
            self.fast = False
            self._set_timer()

    @property
    def _tick_s(self) -> float:
        return self._slow_s / FAST_TICKS_A_TICK if self.fast else self._slow_s

    def _ends_at(self) -> float:
        # From the last tick, so that a connection that comes and goes does not stop the clock.
        return self._counted_at + (self._nap_ticks - self._due) * self._tick_s

    def _count(self) -> None:
        """Counts the ticks that have passed."""
        now, tick_s, left = self._loop.time(), self._tick_s, self._nap_ticks - self._due
        if not self._running or left <= 0:
            return
        late_s = now - self._ends_at()
        if late_s < -EARLY_S:
            passed = int((now - self._counted_at + EARLY_S) / tick_s)
            self._due += passed
            self._counted_at += passed * tick_s
        else:
            self._due += left if late_s < LATE_TICKS * tick_s else 1
            self._counted_at = now
        if self.fast and now >= self._fast_until:
            self.fast = False

    def _set_timer(self) -> None:
        self._cancel_timer()
        if self._running:
            self._timer_at = self._ends_at()
            self._timer = self._loop.call_at(max(self._timer_at, self._loop.time()), self._fired)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fired(self) -> None:
        self._timer = None
        if self._ends_at() > self._loop.time() + EARLY_S:
            self._set_timer()  # the nap was prolonged
        else:
            self._count()
            self._wake()
