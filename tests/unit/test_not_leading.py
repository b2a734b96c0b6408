"""NOT_LEADER names a leader that can be reached; without one it is NO_LEADER, everywhere."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogEntry
from partition_replica.errors import NoLeader, NotLeader, Overloaded, ReplicaError, not_leading
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus.changes import Change, Changes
from partition_replica.runtime.consensus.proposals import Proposals
from partition_replica.runtime.consensus.raft_loop import RaftLoop
from partition_replica.runtime.consensus.roster import Roster
from partition_replica.runtime.current_member import CurrentMember
from partition_replica.transport.failures import detail

from tests.support.proposals import pending as pending_proposal

KNOWN, NOBODY, NOWHERE = (5, "five:1"), (0, ""), (5, "")


def check(error: ReplicaError, leader: tuple[int, str]) -> None:
    if leader == KNOWN:
        assert isinstance(error, NotLeader)
        hint = detail(error).leader
        assert (hint.member_id, hint.address) == KNOWN
    else:
        assert isinstance(error, NoLeader)
        assert not detail(error).HasField("leader")


@pytest.mark.parametrize("leader", [KNOWN, NOBODY, NOWHERE])
def test_by_itself(leader: tuple[int, str]) -> None:
    check(not_leading("why", leader), leader)
    member: Any = SimpleNamespace(leader=leader)
    check(CurrentMember(cast("Any", None)).not_leader(member), leader)


@pytest.mark.parametrize("leader", [KNOWN, NOBODY, NOWHERE])
@pytest.mark.parametrize("wait_applied", [False, True])
async def test_of_a_proposal_that_another_leader_s_entry_replaced(
    leader: tuple[int, str], wait_applied: bool
) -> None:
    """Told when the entry commits to one who waits for that, and at the apply to the others."""
    proposals = Proposals(Limits(), leader=lambda: leader)
    pending = pending_proposal(wait_applied=wait_applied)
    proposals.proposed(LSN(7), Term(2), [pending])
    proposals.committed(LogEntry(LSN(7), Term(3), 0, b""))
    proposals.applied(Applied(LSN(7), Term(3), "empty"))
    error = pending.future.exception()
    assert isinstance(error, ReplicaError)
    check(error, leader)


@pytest.mark.parametrize("leader", [KNOWN, NOBODY, NOWHERE])
async def test_of_what_waits_when_leadership_is_lost(leader: tuple[int, str]) -> None:
    proposals = Proposals(Limits())
    queued = pending_proposal()
    proposals.add([queued])
    change = Change([], b"")
    loop: Any = RaftLoop.__new__(RaftLoop)
    loop.role, loop._roster = "leader", Roster()
    loop._roster.leader, loop._roster.addresses = 1, {1: "one:1", leader[0]: leader[1]}
    loop._proposals = proposals
    loop._reads = SimpleNamespace(fail=lambda: None, lease=None)
    loop._contacts = SimpleNamespace(leaderless_s=lambda **_: 0.0)
    loop._changes = Changes()
    loop._changes.add(change)
    loop._given_hooks = SimpleNamespace(role_changed=lambda *_: None)
    loop._role_changed("follower", leader[0])
    for future in (queued.future, change.future):
        error = future.exception()
        assert isinstance(error, ReplicaError)
        check(error, leader)


async def test_while_leadership_is_handed_over_nobody_is_sent_to_who_hands_it_over() -> None:
    pending, other = pending_proposal(), pending_proposal()
    proposals = Proposals(Limits())
    proposals.dropped([pending], leads=False)
    assert isinstance(pending.future.exception(), NoLeader)
    proposals.dropped([other], leads=True)
    assert isinstance(other.future.exception(), Overloaded)
    await asyncio.sleep(0)


def test_not_leader_without_a_leader_is_a_defect() -> None:
    for leader in (NOBODY, NOWHERE):
        with pytest.raises(AssertionError):
            NotLeader("who?", leader)
