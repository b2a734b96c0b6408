"""The binding, as a group sees it."""

import logging
import struct

import partition_raft as raft
import pytest

from raft.tests.group import Group, MemoryStore, Peer


def test_election_and_replication() -> None:
    group = Group()
    leader = group.elect(1)
    first, term = leader.node.propose([b"a", b"b", b"c"])
    assert (first, term) == (3, 2)  # 2 is the leader's own empty entry
    group.settle()
    assert [p.applied for p in group.peers.values()] == [[b"a", b"b", b"c"]] * 3
    assert {p.node.status().term for p in group.peers.values()} == {2}
    assert [(p.id, p.matched) for p in leader.node.status().progress] == [(1, 5), (2, 5), (3, 5)]


def test_a_batch_is_one_message() -> None:
    group = Group()
    leader = group.elect(1)
    leader.node.propose([b"x"] * 100)
    appends = [m for m in leader.work() if m.kind == raft.MessageKind.APPEND and m.to == 2]
    assert [m.entry_count for m in appends] == [100]


def test_the_commit_index_travels_with_entries_or_when_it_is_announced() -> None:
    """Not in a message of its own for each commit."""
    group = Group(announces=False)
    leader, follower = group.elect(1), group.peers[2]
    group.tick(2, 1)  # heartbeats carry it, too
    group.settle()
    leader.node.propose([b"one"])
    group.settle()
    assert (leader.applied, follower.applied) == ([b"one"], [])
    leader.node.propose([b"two"])
    group.settle()
    assert (leader.applied, follower.applied) == ([b"one", b"two"], [b"one"])
    leader.node.announce_commit()
    group.settle()
    assert follower.applied == [b"one", b"two"]
    follower.node.announce_commit()
    assert not follower.node.has_ready(), "only a leader has one to announce"


def test_followers_refuse_proposals() -> None:
    group = Group()
    group.elect(1)
    with pytest.raises(raft.ProposalDropped):
        group.peers[2].node.propose([b"x"])


def test_conflicting_entries_are_overwritten() -> None:
    group = Group()
    old = group.elect(1)
    group.cut = {1}
    old.node.propose([b"lost-1", b"lost-2"])
    group.settle()
    assert old.store.last == (4, 2)
    new = group.elect_among(2, 3)
    new.node.propose([b"kept"])
    group.settle()
    group.cut = set()
    group.tick(5, new.number)
    assert [p.applied for p in group.peers.values()] == [[b"kept"]] * 3
    assert old.store.last == new.store.last
    assert old.node.mirrored()[-2:] == new.node.mirrored()[-2:]


def test_pre_vote_keeps_a_cut_off_member_from_raising_the_term() -> None:
    group = Group()
    leader = group.elect(1)
    group.cut = {3}
    group.tick(60, 3)
    group.cut = set()
    group.tick(3)
    assert leader.role == "leader"
    assert leader.node.status().term == 2
    assert group.peers[3].leader == 1


def test_check_quorum_ends_a_leader_without_followers() -> None:
    group = Group()
    leader = group.elect(1)
    group.cut = {1}
    group.tick(25, 1)
    assert leader.role != "leader"


def test_learners_receive_and_do_not_vote() -> None:
    group = Group(3, voters=[1])
    leader = group.elect(1)
    leader.store.snapshots = raft.Snapshot(2, 2, raft.ConfState([1], [2]), b"")
    leader.node.propose_conf_change([(raft.ChangeKind.ADD_LEARNER, 2)], context=b"address")
    group.settle()
    assert leader.node.conf_state() == raft.ConfState([1], [2])
    leader.node.propose([b"x"])
    group.settle()
    assert group.peers[2].applied[-1:] == [b"x"]
    group.cut = {2}
    leader.node.propose([b"y"])
    group.settle()
    assert leader.applied[-1] == b"y"  # no quorum of learners is asked


def test_joint_consensus_replaces_members_at_once() -> None:
    group = Group(5, voters=[1, 2, 3])
    leader = group.elect(1)
    changes = [
        (raft.ChangeKind.REMOVE, 2),
        (raft.ChangeKind.REMOVE, 3),
        (raft.ChangeKind.ADD_VOTER, 4),
        (raft.ChangeKind.ADD_VOTER, 5),
    ]
    leader.store.snapshots = raft.Snapshot(2, 2, raft.ConfState([1, 2, 3]), b"")
    leader.node.propose_conf_change(changes, joint=True)
    joint = []
    while leader.node.has_ready() or group.queue:
        group.settle()
        joint.append(leader.node.conf_state())
    group.tick(3, 1)
    assert leader.node.conf_state() == raft.ConfState([1, 4, 5])


def test_one_configuration_change_at_a_time() -> None:
    group = Group()
    leader = group.elect(1)
    leader.node.propose_conf_change([(raft.ChangeKind.ADD_LEARNER, 4)])
    with pytest.raises(raft.ConfChangeRefused, match="in progress"):
        leader.node.propose_conf_change([(raft.ChangeKind.ADD_LEARNER, 5)])


def test_read_index_needs_a_quorum() -> None:
    group = Group()
    leader = group.elect(1)
    leader.node.propose([b"x"])
    group.settle()
    leader.node.read_index(b"one")
    group.settle()
    assert leader.reads == [(3, b"one")]
    group.cut = {1}
    leader.node.read_index(b"two")
    group.settle()
    assert leader.reads == [(3, b"one")]


def test_a_follower_asks_its_leader_for_a_read_index() -> None:
    group = Group()
    leader = group.elect(1)
    leader.node.propose([b"x"])
    group.settle()
    follower = group.peers[2]
    follower.node.read_index(b"one")
    group.settle()
    assert follower.reads == [(3, b"one")]
    assert leader.reads == []
    group.cut = {1, 2}  # both from the third one, and from each other
    follower.node.read_index(b"two")
    group.settle()
    assert follower.reads == [(3, b"one")]


def test_a_leader_without_a_quorum_gives_no_follower_a_read_index() -> None:
    group = Group(5)
    group.elect(1)
    group.settle()
    follower = group.peers[2]
    asked = asking(follower, b"one")
    group.cut = {3, 4, 5}
    group.peers[1].node.step(asked)
    group.settle()
    assert follower.reads == []
    group.cut = set()
    group.tick(3)
    assert [context for _, context in follower.reads] == [b"one"], "the next heartbeat asks again"


def asking(follower: Peer, context: bytes) -> raft.Message:
    """What a follower sends to ask for a read index."""
    follower.node.read_index(context)
    (message,) = follower.work()
    return raft.Message.decode(message.encode())


def test_who_does_not_lead_forwards_no_request_for_a_read_index() -> None:
    group = Group()
    group.elect(1)
    asked = asking(group.peers[2], b"one")
    group.peers[1].node.transfer_leader(3)
    group.settle()
    group.peers[1].node.step(asked)
    group.settle()
    assert group.peers[2].reads == []


def read_index(kind: int, term: int, context: bytes, *, sender: int = 2, entries: int = 1) -> bytes:
    entry = b"\x22" + bytes([len(context)]) + context
    encoded = bytes([8, kind, 16, 1, 24, sender, *([32, term] if term else [])])
    return encoded + (b"\x3a" + bytes([len(entry)]) + entry) * entries


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (read_index(15, 9, b"one"), "term is 9"),
        (read_index(16, 0, b"one"), "term is 0"),
        (read_index(15, 0, b""), "context of 1 to 64"),
        (read_index(15, 0, b"x" * 65), "context of 1 to 64"),
        (read_index(15, 0, b"one", entries=2), "context of 1 to 64"),
        (read_index(15, 0, b"one", entries=0), "context of 1 to 64"),
        (read_index(16, 2, b"one", entries=2), "context of 1 to 64"),
        (read_index(15, 0, b"one", sender=9), "no member"),
        (read_index(3, 9, b"one"), "no term or no index"),
        (read_index(15, 0, b"one") + b"\x08\x03", "kind stands behind"),
    ],
)
def test_a_lying_request_for_a_read_index_is_refused(message: bytes, why: str) -> None:
    group = Group()
    leader = group.elect(1)
    with pytest.raises(raft.InvalidMessage, match=why):
        leader.node.step(raft.Message.decode(message))
    leader.node.tick()


def test_leadership_is_handed_over() -> None:
    group = Group()
    group.elect(1)
    group.peers[1].node.transfer_leader(3)
    group.settle()
    assert group.peers[3].role == "leader"
    assert group.peers[1].leader == 3


def test_a_follower_behind_the_boundary_gets_a_snapshot() -> None:
    group = Group()
    leader = group.elect(1)
    group.cut = {3}
    leader.node.propose([b"a", b"b", b"c"])
    group.settle()
    leader.store.boundary = (5, 2)
    for index in range(2, 6):
        del leader.store.entries_by_index[index]
    leader.node.compact(5, 2)
    leader.store.snapshots = raft.Snapshot(5, 2, raft.ConfState([1, 2, 3]), b"where it is")
    group.cut = set()
    group.tick(3, 1)
    leader.node.report_snapshot(3, True)
    leader.node.propose([b"d"])
    group.settle()
    group.tick(3, 1)
    assert group.peers[3].store.boundary == (5, 2)
    assert group.peers[3].applied == [b"d"]


def test_an_unavailable_snapshot_is_asked_for_again() -> None:
    group = Group()
    leader = group.elect(1)
    group.cut = {3}
    leader.node.propose([b"a"])
    group.settle()
    leader.store.boundary = (3, 2)
    leader.node.compact(3, 2)
    group.cut = set()
    group.tick(5, 1)
    assert group.peers[3].store.boundary == (1, 1)
    leader.store.snapshots = raft.Snapshot(3, 2, raft.ConfState([1, 2, 3]), b"")
    group.tick(5, 1)
    assert group.peers[3].store.boundary == (3, 2)


def test_restart_from_the_store() -> None:
    group = Group()
    leader = group.elect(1)
    leader.node.propose([b"a"])
    group.settle()
    for number in group.peers:
        group.restart(number)
    group.elect_among(1, 2, 3).node.propose([b"b"])
    group.settle()
    assert [p.applied for p in group.peers.values()] == [[b"a", b"b"]] * 3


def test_a_restarted_member_with_unapplied_changes_does_not_campaign() -> None:
    """raft-rs looks for them in one answer of the storage: a short one would hide them."""
    group = Group()
    leader = group.elect(1)
    for member in (4, 5):
        leader.node.propose([b"filler"])
        leader.node.propose_conf_change([(raft.ChangeKind.ADD_LEARNER, member)])
        group.settle()
    store = leader.store
    store.conf_state = raft.ConfState([1, 2, 3])
    peer = Peer(1, store, 2, announces=True)
    peer.node.campaign()
    assert peer.node.status().role == "follower"


def test_term_or_vote_is_announced() -> None:
    group = Group(1)
    node = group.peers[1].node
    node.campaign()
    ready = node.ready()
    assert ready.term_or_vote_changed
    assert ready.hard_state == raft.HardState(2, 1, 1)


def test_calls_out_of_order_are_refused_and_fatal() -> None:
    group = Group(1)
    node = group.peers[1].node
    node.campaign()
    node.ready()
    for call in (node.tick, node.ready, lambda: node.propose([b"x"])):
        with pytest.raises(raft.EngineMisuse):
            call()
    node.advance_append_async()
    with pytest.raises(raft.EngineMisuse):
        node.advance_append_async()


def test_a_failing_storage_poisons_the_node() -> None:
    group = Group(3, mirror_bytes_max=1)
    leader = group.elect(1)
    group.cut = {3}
    leader.node.propose([b"x" * 100])
    group.settle()
    leader.store.fail = OSError("the disk is gone")
    group.cut = set()
    with pytest.raises(raft.FatalEngineError, match="the disk is gone") as caught:
        group.tick(10, 1)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.raises(raft.FatalEngineError, match="stopped before"):
        leader.node.tick()


def test_a_panic_is_fatal_and_says_why() -> None:
    group = Group(1)
    group.elect(1)
    node = group.peers[1].node
    with pytest.raises(raft.FatalEngineError, match="(?s)panicked.*applied"):
        node.advance_apply_to(999)
    with pytest.raises(raft.FatalEngineError, match="stopped before"):
        node.status() and node.tick()


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ({"kind": 8, "to": 1, "sender": 2, "term": 9, "commit": 999}, "claims commit"),
        ({"kind": 8, "to": 7, "sender": 2, "term": 9}, "meant for"),
        ({"kind": 3, "to": 1, "sender": 2, "term": 0}, "term is 0"),
        ({"kind": 2, "to": 1, "sender": 2, "term": 9}, "proposals"),
        ({"kind": 3, "to": 1, "sender": 2, "term": 9, "index": 5, "entry": 8}, "stands where"),
    ],
)
def test_lying_messages_are_refused_before_the_engine(message: dict[str, int], why: str) -> None:
    group = Group()
    with pytest.raises(raft.InvalidMessage, match=why):
        group.peers[1].node.step(raft.Message.decode(encode(**message)))
    group.peers[1].node.tick()  # the node lives


@pytest.mark.parametrize(
    "data",
    [
        b"\x0b" * 100_000,  # groups in groups: the codec would recurse
        b"\x3a\xff\xff\xff\xff\x0f",  # a length behind the end
        b"\x08",  # cut short
        b"\xff" * 11,  # a number without an end
        b"\x4a\x02\x0b\x0b",  # a group inside the snapshot
    ],
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(raft.InvalidMessage):
        raft.Message.decode(data)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hard_state": raft.HardState(1, 0, 9)}, "commit index 9"),
        ({"applied": 9}, "applied index 9"),
        ({"boundary": (1, 0), "last": (1, 0)}, "terms start at 1"),
        ({"last": (0, 0)}, "below the boundary"),
    ],
)
def test_a_store_that_contradicts_itself_is_refused(change: dict[str, object], why: str) -> None:
    values: dict[str, object] = {
        "hard_state": raft.HardState(1, 0, 1),
        "conf_state": raft.ConfState([1]),
        "boundary": (1, 1),
        "last": (1, 1),
        "applied": 1,
        "entries": [],
        "storage": MemoryStore(),
        "logger": logging.getLogger("test"),
    }
    with pytest.raises(raft.InvalidConfig, match=why):
        raft.Node(raft.Config(1), **(values | change))  # type: ignore[arg-type]


def test_the_mirror_is_trimmed_to_its_limit_and_cold_reads_go_to_python() -> None:
    group = Group(3, mirror_bytes_max=10_000)
    leader = group.elect(1)
    group.cut = {3}
    for _ in range(100):
        leader.node.propose([b"x" * 1000])
        group.settle()
    status = leader.node.status()
    assert status.mirror_bytes <= 10_000
    assert status.mirror_first > 90
    before = status.cold_reads
    group.cut = set()
    group.tick(10, 1)
    assert group.peers[3].store.last == leader.store.last
    assert leader.node.status().cold_reads > before


def encode(
    kind: int, to: int, sender: int, term: int, commit: int = 0, index: int = 0, entry: int = 0
) -> bytes:
    """An eraftpb.Message by hand."""
    out = b""
    for field, value in ((1, kind), (2, to), (3, sender), (4, term), (6, index), (8, commit)):
        out += varint(field << 3) + varint(value)
    if entry:
        body = varint(2 << 3) + varint(1) + varint(3 << 3) + varint(entry)
        out += varint(7 << 3 | 2) + varint(len(body)) + body
    return out


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + struct.pack("B", value)


def test_a_late_answer_does_not_undo_the_promise_to_a_leader() -> None:
    """Who follows a leader votes for nobody else for an election time-out: the leader's lease
    relies on it. A late refusal of an earlier request for votes, of a higher term, must not make
    the member forget its leader, or it would grant the vote."""
    group = Group(5, min_election_tick=10, max_election_tick=11)
    old, wavers, rival, voter = (group.peers[n] for n in (1, 2, 3, 4))
    group.elect(1)

    def deliver(messages: list[raft.Message], to: Peer) -> None:
        for message in messages:
            if message.to == to.number:
                to.node.step(raft.Message.decode(message.encode()))

    for peer in (wavers, rival, voter):  # nobody hears of the leader for a while
        for _ in range(10):
            peer.node.tick()
    asks, asks_too = wavers.work(), rival.work()
    voter.work()
    for peer in (wavers, voter):
        deliver(asks_too, peer)
    deliver(wavers.work() + voter.work(), rival)
    votes = rival.work()
    deliver(votes, voter)
    voter.work()
    deliver(asks, voter)
    late = voter.work()
    old.node.read_index(b"x" * 24)
    deliver(old.work(), wavers)
    wavers.work()
    assert wavers.node.status().leader_id == 1
    before = wavers.node.status()
    deliver(late, wavers)
    deliver(votes, wavers)
    wavers.work()
    after = wavers.node.status()
    assert (after.term, after.vote, after.leader_id) == (before.term, before.vote, 1)


def test_a_leader_that_was_removed_confirms_no_read() -> None:
    """Of the one voter that is left, it knows neither what that commits nor that it leads."""
    group = Group(2)
    old, other = group.elect(1), group.peers[2]
    old.node.propose_conf_change([(raft.ChangeKind.REMOVE, 1)])
    group.settle()
    assert list(old.node.conf_state().voters) == [2]
    for _ in range(25):
        other.node.tick()
        other.work()
    other.node.propose([b"new"])
    other.work()
    assert other.applied == [b"new"]
    old.reads.clear()
    old.node.read_index(b"c" * 24)
    old.work()
    assert (old.role, old.reads) == ("leader", [])
