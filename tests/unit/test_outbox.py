"""Which answers to heartbeats are sent, and which say nothing new."""

from types import SimpleNamespace
from typing import Any, cast

from partition_replica.engine.port import MessageKind
from partition_replica.runtime.consensus.outbox import ANSWERED_FOR_ELECTIONS, Outbox

ELECTION_S = 1.0
HEARTBEAT_S = 0.2
LEADER, OTHER = 2, 3
APPEND_RESPONSE = 4


def message(kind: int, to: int = LEADER, term: int = 7, *, context: bool = False) -> Any:
    return SimpleNamespace(
        kind=kind, to=to, term=term, has_context=context, encode=lambda: b"%d" % kind
    )


def answer(to: int = LEADER, term: int = 7, *, context: bool = False) -> Any:
    return message(MessageKind.HEARTBEAT_RESPONSE, to, term, context=context)


class Sent:
    """What an outbox gives to the transport, at times of the test's own clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.to: list[int] = []
        self.states: list[Any] = []
        transport: Any = SimpleNamespace(send=self._send)
        self._outbox = Outbox(transport, ELECTION_S, lambda: self.now)

    def _send(self, member: int, encoded: list[bytes]) -> None:
        self.to += [member] * len(encoded)

    def count(self, *messages: Any) -> int:
        """Of these messages, how many are sent."""
        before = len(self.to) + len(self.states)
        self._outbox.send(cast("Any", messages), self.states.append)
        return len(self.to) + len(self.states) - before


def test_an_idle_member_answers_every_second_heartbeat() -> None:
    """So an election time-out of the leader, of five heartbeats, has two answers or three."""
    sent = Sent()
    counts = []
    for _ in range(8):
        counts.append(sent.count(answer()))
        sent.now += HEARTBEAT_S
    assert counts == [1, 0] * 4
    assert ANSWERED_FOR_ELECTIONS < 0.5, "a lost answer leaves another one"


def test_after_anything_else_the_next_heartbeat_is_answered() -> None:
    """The leader sends entries that were lost when it gets an answer."""
    sent = Sent()
    for _ in range(4):
        assert sent.count(message(APPEND_RESPONSE)) == 1
        assert sent.count(answer()) == 1
        sent.now += HEARTBEAT_S


def test_a_read_gets_its_answer() -> None:
    sent = Sent()
    assert [sent.count(answer(context=True)) for _ in range(5)] == [1] * 5
    assert sent.count(answer()) == 0, "the leader has just been answered"


def test_a_new_leader_or_term_gets_its_answer() -> None:
    sent = Sent()
    assert [sent.count(answer(term=term)) for term in (7, 7, 8, 8)] == [1, 0, 1, 0]
    assert [sent.count(answer(OTHER, 9)), sent.count(answer(OTHER, 9))] == [1, 0]


def test_all_other_messages_are_sent() -> None:
    sent = Sent()
    heartbeats = [message(MessageKind.HEARTBEAT, to) for to in (LEADER, OTHER)]
    assert sent.count(*heartbeats, *heartbeats) == 4
    assert sorted(sent.to) == [LEADER, LEADER, OTHER, OTHER]
    assert sent.count(message(MessageKind.SNAPSHOT, OTHER)) == 1
    assert [state.to for state in sent.states] == [OTHER]
