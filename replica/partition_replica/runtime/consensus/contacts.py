"""When a member last heard of each other one, and whether its leader's connection broke."""

from collections.abc import Callable

from partition_replica.engine.port import Message, MessageKind
from partition_replica.runtime.consensus.roster import Roster
from partition_replica.runtime.consensus.ticker import Ticker

FROM_LEADERS = frozenset({MessageKind.APPEND, MessageKind.HEARTBEAT, MessageKind.SNAPSHOT})
"""The messages that only a leader sends."""


class Contacts:
    """Of one member. Starts and ends the fast clock of `ticker`. On the event loop."""

    def __init__(
        self,
        roster: Roster,
        ticker: Ticker,
        now: Callable[[], float],
        term: Callable[[], int],
    ) -> None:
        """`now`: seconds of a monotonic clock. `term`: the member's current one."""
        self._roster = roster
        self._ticker = ticker
        self._now = now
        self._term = term
        self._heard: dict[int, float] = {}
        self._led_at = now()
        self._lost_leader = 0

    def received(self, message: Message) -> None:
        """A message of a leader of this member's term, or of a later one, ends the fast clock."""
        self._heard[message.sender] = self._now()
        # An append of the leader that was lost says nothing: it may have waited for its blobs.
        late = message.sender == self._lost_leader and message.kind == MessageKind.APPEND
        if not self._ticker.fast or late or message.kind not in FROM_LEADERS:
            return
        if message.term >= self._term():
            self._ticker.calm()

    def disconnected(self, member: int) -> bool:
        """The last stream of `member` has ended. Starts the fast clock if it leads; returns whether
        it does."""
        if member != self._roster.leader:
            return False
        self._lost_leader = member
        self._ticker.hurry()
        return True

    def connected(self, member: int) -> None:
        """A stream of `member` has begun. If it is the leader whose stream had ended, ends the fast
        clock: the leader lives, and its next heartbeat may come later than a fast election."""
        if member == self._lost_leader:
            self._lost_leader = 0
            self._ticker.calm()

    def heard_at(self, member: int) -> float:
        """When a message of `member` arrived last; minus infinity if none did."""
        return self._heard.get(member, float("-inf"))

    def leaderless_s(self, *, leads: bool) -> float:
        """Seconds without a leader, as far as this member knows: since it led itself, or last
        received a message of its leader. The engine's leader is not enough: a learner's engine
        never forgets it."""
        now = self._now()
        if leads:
            self._led_at = now
        elif self._roster.leader:
            self._led_at = max(self._led_at, self.heard_at(self._roster.leader))
        return now - self._led_at
