"""What a configuration change says of addresses, as far as it says anything."""

import partition_raft as raft
import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.model import LogEntry
from partition_replica.engine.entries import member_changes
from partition_replica.errors import Damaged
from partition_replica.ids import LSN, Term

from raft.tests.group import Group

ADDED = types.MemberChange(member_id=5, address="there:1")


def change(kind: raft.ChangeKind, context: bytes) -> LogEntry:
    """As the engine encodes one of member 5."""
    group = Group(1)
    leader = group.elect(1)
    leader.node.propose_conf_change([(kind, 5)], context=context)
    ready = leader.node.ready()
    (entry,) = (e for e in ready.entries if e.kind != raft.EntryKind.NORMAL)
    return LogEntry(LSN(entry.index), Term(entry.term), int(entry.kind), entry.data, entry.context)


@pytest.mark.parametrize(
    ("kind", "context", "found"),
    [
        (raft.ChangeKind.ADD_LEARNER, ADDED, {5: "there:1"}),
        (raft.ChangeKind.ADD_LEARNER, types.MemberChange(address="there:1"), {5: "there:1"}),
        (raft.ChangeKind.ADD_VOTER, types.MemberChange(member_id=5), {}),  # it keeps its own
        (raft.ChangeKind.ADD_VOTER, types.MemberChange(), {}),
        (raft.ChangeKind.REMOVE, types.MemberChange(member_id=5), {5: None}),
    ],
)
def test_a_change_sets_or_removes_the_address_that_it_names(
    kind: raft.ChangeKind, context: types.MemberChange, found: dict[int, str | None]
) -> None:
    assert member_changes(change(kind, context.SerializeToString())) == found


def test_a_context_that_is_none_is_damage() -> None:
    with pytest.raises(Damaged, match="not a valid MemberChange"):
        member_changes(change(raft.ChangeKind.ADD_VOTER, b"\xff\xff"))
    assert member_changes(LogEntry(LSN(5), Term(1), 0, b"\xff")) == {}
