"""What a leader proposes, what it answers at once, and what only the apply can tell."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.sessions import ELAPSED_MS_MAX
from partition_replica.errors import (
    OutcomeUnknown,
    PreconditionFailed,
    SequenceAcknowledged,
    SequenceReused,
    SessionExpired,
)
from partition_replica.runtime.consensus.admission import answer_of
from partition_replica.runtime.consensus.proposals import AwaitedProposal

from tests.support import proposals
from tests.support.admissions import SESSION, Leader
from tests.support.proposals import set_key


@pytest.fixture
async def leader(tmp_path: Path) -> Leader:
    return Leader(tmp_path / "state")


def write(
    sequence: int, value: bytes = b"v", *, below: int = 1, preconditions: list[Any] | None = None
) -> AwaitedProposal:
    proposal = proposals.proposal(
        SESSION, sequence, [set_key(b"k", value)], below=below, preconditions=preconditions
    )
    return proposals.pending(types.EntryBody(proposal=proposal))


async def refused(pending: AwaitedProposal, error: type[Exception]) -> None:
    with pytest.raises(error):
        await asyncio.wait_for(pending.future, 1)


async def test_a_new_sequence_is_answered_at_its_commit(leader: Leader) -> None:
    first = write(1)
    assert leader.offer(100.0, first) == [True]
    assert not first.wait_applied


async def test_the_same_sequence_twice_in_a_batch_waits_for_the_apply(leader: Leader) -> None:
    """A second try without `retry`, with another content."""
    first, second = write(1, b"1"), write(1, b"2")
    assert leader.offer(100.0, first, second) == [True, True]
    assert (first.wait_applied, second.wait_applied) == (False, True)
    leader.apply(leader.written(first))
    leader.apply(leader.written(second))
    await refused(second, SequenceReused)


async def test_a_second_try_waits_for_the_first_one(leader: Leader) -> None:
    """While that is in the log and not applied yet."""
    first, same, other = write(1, b"1"), write(1, b"1"), write(1, b"2")
    assert leader.offer(100.0, first) == [True]
    assert leader.offer(100.0, same, other) == [False, False]
    assert not same.future.done()
    leader.apply(leader.written(first))
    assert (await same.future).result.lsn == 2  # type: ignore[union-attr]
    await refused(other, SequenceReused)
    assert leader.proposals.waiting == 0


async def test_a_second_try_is_not_refused_for_what_follows_the_first(leader: Leader) -> None:
    """Its session ends meanwhile: nobody may say that nothing can be told any more."""
    first, late = write(1, b"1"), write(1, b"1")
    assert leader.offer(109.9, first) == [True]
    close = types.EntryBody(close_session=types.CloseSession(session_id=SESSION))
    assert leader.offer(110.0, proposals.pending(close, wait_applied=True)) == [True]
    assert leader.offer(130.0, late) == [False]
    leader.apply(leader.written(first))
    assert (await late.future).kind == "duplicate"


async def test_followers_are_unknown_when_the_lead_is_lost(leader: Leader) -> None:
    first, second = write(1), write(1)
    leader.offer(100.0, first)
    leader.offer(100.0, second)
    leader.proposals.leadership_lost((0, ""))
    await refused(second, OutcomeUnknown)
    assert leader.proposals.waiting == 0


async def test_what_the_engine_drops_is_not_counted(leader: Leader) -> None:
    """A close, a mark and a sequence that came into no log."""
    close = types.EntryBody(close_session=types.CloseSession(session_id=SESSION))
    leader.offer(
        100.0, write(9, below=9), proposals.pending(close, wait_applied=True), dropped=True
    )
    again = write(5)
    assert leader.offer(100.0, again) == [True]
    assert not again.wait_applied


async def test_what_is_applied_is_answered_at_once(leader: Leader) -> None:
    leader.apply(leader.written(write(1, b"1")))
    same, other = write(1, b"1"), write(1, b"2")
    assert leader.offer(100.0, same, other) == [False, False]
    assert (await same.future).result.lsn == 2  # type: ignore[union-attr]
    assert (await same.future).result.term == 4  # type: ignore[union-attr]
    await refused(other, SequenceReused)


async def test_a_failed_precondition_stays_one(leader: Leader) -> None:
    fails = [types.Precondition(key_equals=types.KeyEquals(key=b"x", value=b"x"))]
    leader.apply(leader.written(write(1, preconditions=fails)))
    again = write(1, preconditions=fails)
    assert leader.offer(100.0, again) == [False]
    await refused(again, PreconditionFailed)
    with pytest.raises(PreconditionFailed):
        answer_of(leader.state, write(1, preconditions=fails).entry)


@pytest.mark.parametrize("together", [True, False])
async def test_a_mark_that_is_under_way_counts(leader: Leader, together: bool) -> None:
    """Sequence 9 acknowledges everything below it; the apply would refuse 5 behind it."""
    later, earlier = write(9, below=9), write(5)
    if together:
        assert leader.offer(100.0, later, earlier) == [True, False]
    else:
        leader.offer(100.0, later)
        assert leader.offer(100.0, earlier) == [False]
    await refused(earlier, SequenceAcknowledged)


async def test_another_leadership_forgets_what_was_under_way(leader: Leader) -> None:
    leader.offer(100.0, write(9, below=9))
    leader.proposals.leadership_lost((0, ""))
    leader.admission.lead(5, 101.0)
    again = write(5)
    assert leader.offer(101.0, again) == [True]
    assert not again.wait_applied


async def test_nothing_of_a_session_follows_its_close(leader: Leader) -> None:
    close = types.EntryBody(close_session=types.CloseSession(session_id=SESSION))
    late = write(1)
    assert leader.offer(100.0, proposals.pending(close, wait_applied=True), late) == [True, False]
    await refused(late, SessionExpired)


async def test_time_counts_from_entry_to_entry_and_none_is_lost(leader: Leader) -> None:
    """Over batches without an entry, too. The session ends 10 s after its last proposal, which need
    not be applied yet."""
    first = write(1)
    leader.offer(104.0, first)
    assert leader.written(first).elapsed_ms == 4_000
    leader.offer(106.0)
    second = write(2)
    assert leader.offer(114.0, second) == [True], "14 s after the last one that is applied"
    assert leader.written(second).elapsed_ms == 10_000
    leader.apply(leader.written(first))
    leader.apply(leader.written(second))
    assert leader.state.clock_ms == 14_000
    third = write(3)
    assert leader.offer(124.001, third) == [False]
    await refused(third, SessionExpired)


async def test_a_pause_of_days_counts_as_an_hour(leader: Leader) -> None:
    body = types.EntryBody(close_session=types.CloseSession(session_id=1))
    close, after = proposals.pending(body), proposals.pending(body)
    leader.offer(100.0 + 400_000, close)
    assert leader.written(close).elapsed_ms == ELAPSED_MS_MAX
    leader.offer(100.0 + 400_001, after)
    assert leader.written(after).elapsed_ms == 1_000
