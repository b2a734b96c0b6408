"""The engine's clock, with a fast clock for a follower whose connection from the leader broke.

If a leader's process dies, its kernel closes its connections at once. The followers need not wait a
whole election time-out to act on that. So a follower ticks FAST_TICKS_A_TICK times faster from the
end of the leader's stream until it hears of a leader, becomes leader, or an election time-out of
the normal clock has passed. No time-out changes in ticks.

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


def vote_refused_s(tick_s: float, election_ticks: int) -> float:
    """Seconds for which a follower, by its own clock, at least refuses its vote after it has heard
    of its leader, whatever happens to its connections. It counts whole ticks, and the first one may
    come at once. A live leader has to reconnect within this time."""
    return (election_ticks - 1) * tick_s / FAST_TICKS_A_TICK


class Ticker:
    """Calls `ticked` once per tick. A tick may be late, and is never made up for. On the event
    loop."""

    def __init__(self, tick_s: float, election_ticks: int, ticked: Callable[[], None]) -> None:
        self._tick_s = tick_s
        self._fast_for_s = election_ticks * tick_s
        self._ticked = ticked
        self._loop = asyncio.get_running_loop()
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._ticked_at = 0.0
        self._fast_until = 0.0
        self.fast = False
        """Whether the fast clock runs."""

    def start(self) -> None:
        self._running = True
        self._ticked_at = self._loop.time()
        self._set_timer()

    def stop(self) -> None:
        self._running = False
        self._cancel_timer()

    def hurry(self) -> None:
        """Starts the fast clock. It ends after an election time-out of the normal clock: without a
        quorum, faster elections would only be more elections. The next tick is a fast one, counted
        from the last tick."""
        self.fast = True
        self._fast_until = self._loop.time() + self._fast_for_s
        self._set_timer()

    def calm(self) -> None:
        """Ends the fast clock. The next tick comes a normal tick after the last one."""
        if self.fast:
            self.fast = False
            self._set_timer()

    def _set_timer(self) -> None:
        self._cancel_timer()
        if self._running:
            tick_s = self._tick_s / FAST_TICKS_A_TICK if self.fast else self._tick_s
            # From the last tick, so that a connection that comes and goes does not stop the clock.
            at = max(self._ticked_at + tick_s, self._loop.time())
            self._timer = self._loop.call_at(at, self._tick)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        if self.fast and self._loop.time() >= self._fast_until:
            self.fast = False
        self._ticked_at = self._loop.time()
        self._set_timer()
        self._ticked()
