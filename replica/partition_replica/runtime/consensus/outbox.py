"""Sends the engine's messages, and leaves out answers to heartbeats that tell nothing new.

A leader asks with each heartbeat whether a member lives. Twice or three times in an election
time-out is enough for its check of the quorum. An idle leader wakes for each answer, so an idle
member leaves out those between.

It leaves out none that matters. After any other message it answers the next heartbeat, because the
leader sends lost entries again when it gets an answer. A new leader or term gets an answer at once,
and so does a heartbeat that a read waits for.
"""

from collections.abc import Callable, Sequence

from partition_replica.core.ports import PeerTransport
from partition_replica.engine.port import Message, MessageKind

ANSWERED_FOR_ELECTIONS = 0.3
"""Election time-outs for which an answer lasts. With heartbeats five times in that time-out, every
second one is answered."""


class Outbox:
    """Of one member. On the event loop."""

    def __init__(
        self, transport: PeerTransport, election_s: float, now: Callable[[], float]
    ) -> None:
        """`now`: seconds of a monotonic clock."""
        self._transport = transport
        self._lasts_s = ANSWERED_FOR_ELECTIONS * election_s
        self._now = now
        self._answered: tuple[int, int] | None = None
        """The leader that got the last answer, and the term, if nothing was sent since."""
        self._answered_at = 0.0

    def send(self, messages: Sequence[Message], send_state: Callable[[Message], None]) -> None:
        """Gives messages to the transport; those that begin a state transfer to `send_state`."""
        by_member: dict[int, list[bytes]] = {}
        for message in messages:
            if message.kind == MessageKind.SNAPSHOT:
                send_state(message)
            elif not self._says_nothing_new(message):
                by_member.setdefault(message.to, []).append(message.encode())
        for member, encoded in by_member.items():
            self._transport.send(member, encoded)

    def _says_nothing_new(self, message: Message) -> bool:
        if message.kind != MessageKind.HEARTBEAT_RESPONSE:
            self._answered = None
            return False
        asked, now = (message.to, message.term), self._now()
        lasts = asked == self._answered and now < self._answered_at + self._lasts_s
        if lasts and not message.has_context:
            return True
        self._answered, self._answered_at = asked, now
        return False
