"""Which ticks only count, and which answers only say that a member lives."""

import partition_raft as raft
import pytest

from raft.tests.group import Group, Peer

ELECTION_TICKS = 10
TIMEOUT_TICKS = 13


def group_of(size: int = 3, *, heartbeat_tick: int = 2, voters: list[int] | None = None) -> Group:
    return Group(
        size,
        voters=voters,
        election_tick=ELECTION_TICKS,
        heartbeat_tick=heartbeat_tick,
        min_election_tick=TIMEOUT_TICKS,
        max_election_tick=TIMEOUT_TICKS + 1,
    )


def acts(peer: Peer) -> bool:
    """Whether a tick makes it do something, which is done but not delivered."""
    peer.node.tick()
    return bool(peer.work())


@pytest.mark.parametrize("heartbeat_tick", [1, 2, 3, 9])
def test_a_leader_acts_at_the_tick_that_it_names(heartbeat_tick: int) -> None:
    """Heartbeats, and every ELECTION_TICKS the check of the quorum, without which it would lead for
    ever."""
    group = group_of(heartbeat_tick=heartbeat_tick)
    leader = group.elect(1)
    passed = 0
    while leader.role == "leader":
        ticks = leader.node.ticks_to_act()
        assert 1 <= ticks <= heartbeat_tick
        for _ in range(ticks - 1):
            assert not acts(leader), "it said that it would not"
        acts(leader)
        passed += ticks
    assert passed == 2 * ELECTION_TICKS, "nobody answered: the second check ends its leadership"


def test_a_follower_acts_at_the_tick_that_it_names() -> None:
    group = group_of()
    group.elect(1)
    follower = group.peers[2]
    assert follower.node.ticks_to_act() == TIMEOUT_TICKS
    for left in range(TIMEOUT_TICKS, 1, -1):
        assert follower.node.ticks_to_act() == left
        assert not acts(follower)
    assert follower.node.ticks_to_act() == 1
    assert acts(follower)
    assert follower.role == "precandidate"


def test_hearing_of_the_leader_begins_the_count_anew() -> None:
    group = group_of()
    group.elect(1)
    follower = group.peers[2]
    group.tick(5, 2)
    assert follower.node.ticks_to_act() == TIMEOUT_TICKS - 5
    group.tick(2, 1)
    assert follower.node.ticks_to_act() == TIMEOUT_TICKS


def test_a_member_without_a_vote_never_acts() -> None:
    group = group_of(voters=[1, 2])
    stranger = group.peers[3]
    for _ in range(5 * TIMEOUT_TICKS):
        assert stranger.node.ticks_to_act() >= 1
        assert not acts(stranger)


def answers_of(leader: Peer, member: Peer) -> list[raft.Message]:
    """What the member answers to what the leader sends now, none of it delivered."""
    for message in leader.work():
        if message.to == member.number:
            member.node.step(raft.Message.decode(message.encode()))
    found = [raft.Message.decode(message.encode()) for message in member.work()]
    return [message for message in found if message.kind == raft.MessageKind.HEARTBEAT_RESPONSE]


def heartbeat(leader: Peer) -> None:
    for _ in range(leader.node.ticks_to_act()):
        leader.node.tick()


def test_an_answer_of_a_member_that_has_everything_is_a_sign_of_life() -> None:
    group = group_of()
    leader, member = group.elect(1), group.peers[2]
    heartbeat(leader)
    (answer,) = answers_of(leader, member)
    assert leader.node.only_a_sign_of_life(answer)
    assert not member.node.only_a_sign_of_life(answer), "only a leader is told of life"
    leader.node.step(answer)
    assert leader.work() == [], "nothing follows from it"


def test_an_answer_of_a_member_that_lacks_entries_is_more() -> None:
    """The leader sends what is missing."""
    group = group_of()
    leader, member = group.elect(1), group.peers[2]
    group.cut = {2}
    leader.node.propose([b"missing"])
    group.settle()
    group.cut = set()
    heartbeat(leader)
    (answer,) = answers_of(leader, member)
    assert not leader.node.only_a_sign_of_life(answer)
    leader.node.step(answer)
    assert [message.kind for message in leader.work()] == [raft.MessageKind.APPEND]


def test_an_answer_that_a_read_waits_for_is_more() -> None:
    group = group_of()
    leader, member = group.elect(1), group.peers[2]
    leader.reads.clear()
    leader.node.read_index(b"c" * 24)
    (answer,) = answers_of(leader, member)
    assert not leader.node.only_a_sign_of_life(answer)
    leader.node.step(answer)
    leader.work()
    assert [context for _, context in leader.reads] == [b"c" * 24]


def test_an_answer_of_another_term_is_more() -> None:
    group = group_of()
    leader, member = group.elect(1), group.peers[2]
    heartbeat(leader)
    (answer,) = answers_of(leader, member)
    for number in (2, 1):  # it leads again, in a later term
        group.tick(ELECTION_TICKS, 3)  # so that it votes
        group.elect_among(number)
    assert leader.node.status().term > answer.term
    assert not leader.node.only_a_sign_of_life(answer)
