"""Who waits for which proposal, and what everybody is told in the end: one answer each, and nobody
waits for ever."""

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogEntry, ProposalResult
from partition_replica.errors import NotLeader, OutcomeUnknown, Overloaded
from partition_replica.ids import LSN, Term
from partition_replica.runtime.consensus.proposals import AwaitedProposal, Proposals

from tests.support.proposals import pending as pending_proposal

TERM = Term(2)


def waiting(count: int) -> tuple[Proposals, list[AwaitedProposal]]:
    """Proposals at LSN 5 and on, which wait for their commit."""
    proposals = Proposals(Limits(), leader=lambda: (7, "other:1"))
    found = [pending_proposal() for _ in range(count)]
    for pending in found:
        proposals.add([pending])
    assert proposals.queued == count
    proposals.proposed(LSN(5), TERM, proposals.take())
    assert (proposals.queued, proposals.waiting) == (0, count)
    return proposals, found


def commit(proposals: Proposals, lsn: int, term: Term = TERM) -> None:
    proposals.committed(LogEntry(LSN(lsn), term, 0, b""))


@pytest.mark.parametrize("order", [[5], [5, 6, 7], [7, 5, 6]])
async def test_each_is_answered_with_its_own_lsn(order: list[int]) -> None:
    proposals, found = waiting(len(order))
    for number, lsn in enumerate(order, 1):
        commit(proposals, lsn)
        assert proposals.waiting == len(order) - number
        assert found[lsn - 5].future.result() == Applied(LSN(lsn), TERM, "committed")


async def test_an_entry_that_nobody_waits_for_answers_nobody() -> None:
    proposals, (only,) = waiting(1)
    commit(proposals, 4)
    commit(proposals, 6)
    proposals.applied(Applied(LSN(9), TERM, "proposal"))
    assert (only.future.done(), proposals.waiting) == (False, 1)


async def test_a_replaced_entry_fails_its_own_caller_alone() -> None:
    proposals, found = waiting(3)
    commit(proposals, 5)
    commit(proposals, 6, Term(3))
    assert found[0].future.result().index == 5
    with pytest.raises(NotLeader, match="replaced this one"):
        found[1].future.result()
    assert not found[2].future.done()


async def test_lost_leadership_answers_everybody_once() -> None:
    """What was proposed may still be committed; what was only queued is in no log."""
    proposals, found = waiting(2)
    queued = pending_proposal()
    proposals.add([queued])
    commit(proposals, 5)
    proposals.leadership_lost((7, "there:1"))
    assert (proposals.queued, proposals.waiting) == (0, 0)
    assert found[0].future.result().index == 5
    with pytest.raises(OutcomeUnknown):
        found[1].future.result()
    with pytest.raises(NotLeader) as refused:
        queued.future.result()
    assert refused.value.leader == (7, "there:1")
    commit(proposals, 6)  # it was committed all the same
    with pytest.raises(OutcomeUnknown):
        found[1].future.result()


async def test_one_who_went_away_is_no_failure() -> None:
    proposals, (only,) = waiting(1)
    only.future.cancel()
    commit(proposals, 5)
    assert proposals.waiting == 0


async def test_what_waits_is_bounded() -> None:
    proposals = Proposals(Limits(proposals_queued_max=2))
    for _ in range(2):
        proposals.add([pending_proposal()])
    with pytest.raises(Overloaded, match="at most 2"):
        proposals.add([pending_proposal()])
    proposals.proposed(LSN(5), TERM, proposals.take())
    with pytest.raises(Overloaded):  # under way counts, too
        proposals.add([pending_proposal()])
    commit(proposals, 5)
    proposals.add([pending_proposal()])


async def test_a_second_try_is_not_answered_by_a_strangers_entry() -> None:
    """Another leader's entry took the place of the one that it waits for."""
    proposals = Proposals(Limits(), leader=lambda: (7, "other:1"))
    body = types.EntryBody(proposal=types.Proposal(session_id=1, sequence=1))
    first, second = (
        pending_proposal(body, wait_applied=True),
        pending_proposal(body, wait_applied=True),
    )
    proposals.proposed(LSN(5), TERM, [first])
    assert proposals.follow(second)
    proposals.applied(Applied(LSN(5), Term(3), "proposal", ProposalResult(LSN(5), Term(3))))
    for pending in (first, second):
        with pytest.raises(NotLeader):
            pending.future.result()
