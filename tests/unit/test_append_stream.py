"""The client's append stream against a scripted leader: what it makes of each answer."""

import asyncio
from typing import Any, cast

import grpc
import pytest
from partition_client.append_slots import AppendSlots
from partition_client.appends import AppendStream, ClientSession
from partition_client.errors import (
    ClientError,
    DeadlineExceeded,
    DiskFull,
    HistoryChanged,
    OutcomeUnknown,
    PreconditionFailed,
    RequestRefused,
)
from partition_client.pending_append import PendingAppend
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.append_streams import Answer, Leader, Stream, call_error, outcomes, put, refusal
from tests.support.append_streams import leader as leader  # a fixture
from tests.support.append_streams import stream as stream  # a fixture
from tests.support.proposals import set_key


async def test_a_burst_after_the_session_expired_is_written_once(
    leader: Leader, stream: AppendStream
) -> None:
    """Every append was sent once and refused: all of them go on in a new session."""
    await stream.append(put())

    def answer(request: api.AppendRequest) -> Answer:
        if request.proposal.session_id == 101:
            return leader.refuse(types.REASON_SESSION_EXPIRED)
        return leader.succeed(request)

    leader.answer = answer
    assert await outcomes(stream, 100) == {"Appended": 100}
    new = [r.proposal for r in leader.requests if r.proposal.session_id == 102]
    assert sorted(p.sequence for p in new) == list(range(1, 101))
    assert [p.operations[0].set_key.key for p in new] == [b"%d" % n for n in range(100)], "in order"
    assert not any(r.retry for r in leader.requests)


async def test_what_was_in_doubt_when_the_session_expired_is_unknown(
    leader: Leader, stream: AppendStream
) -> None:
    """The stream breaks with three appends under way; one of them was written."""
    leader.answer = lambda _: None
    tasks = [asyncio.ensure_future(stream.append(put(n))) for n in range(3)]
    while len(leader.requests) < 3:
        await asyncio.sleep(0)
    leader.answer = lambda _: leader.refuse(
        types.REASON_OUTCOME_UNKNOWN, cause=types.REASON_SESSION_EXPIRED
    )
    leader.streams[0].end()
    for task in tasks:
        with pytest.raises(OutcomeUnknown, match="session expired"):
            await task
    assert [r.retry for r in leader.requests] == [False] * 3 + [True] * 3
    leader.answer = leader.succeed
    await stream.append(put())
    assert leader.requests[-1].proposal.session_id == 102


async def test_an_old_replicas_refusal_of_a_retry_is_not_taken_at_its_word(
    leader: Leader, stream: AppendStream
) -> None:
    """The version before OUTCOME_UNKNOWN said SESSION_EXPIRED to retries, too."""
    leader.answer = lambda _: None
    task = asyncio.ensure_future(stream.append(put()))
    while not leader.requests:
        await asyncio.sleep(0)
    leader.answer = lambda _: leader.refuse(types.REASON_SESSION_EXPIRED)
    leader.streams[0].end()
    with pytest.raises(OutcomeUnknown):
        await task


async def test_another_history_is_told_to_everybody_who_waits(
    leader: Leader, stream: AppendStream
) -> None:
    await stream.append(put())
    assert leader.requests[0].history_id == "h1"
    leader.history = "h2"

    def answer(request: api.AppendRequest) -> Answer:
        if request.proposal.session_id == 101:
            return leader.refuse(types.REASON_WRONG_HISTORY, history_id="h2")
        return leader.succeed(request)

    leader.answer = answer
    with pytest.raises(HistoryChanged) as caught:  # it was refused: nothing is in doubt
        await stream.append(put())
    assert caught.value.history == "h2"
    await stream.append(put())
    assert leader.opened == ["", "h2"]
    assert (leader.requests[-1].history_id, leader.requests[-1].proposal.session_id) == ("h2", 102)


async def test_what_was_in_doubt_when_the_history_changed_is_unknown(
    leader: Leader, stream: AppendStream
) -> None:
    await stream.append(put())
    leader.answer = lambda _: None
    task = asyncio.ensure_future(stream.append(put()))
    while len(leader.requests) < 2:
        await asyncio.sleep(0)
    leader.answer = lambda _: leader.refuse(types.REASON_WRONG_HISTORY, history_id="h2")
    leader.streams[0].end()
    with pytest.raises(OutcomeUnknown) as caught:
        await task
    assert caught.value.history == "h2"


async def test_a_replica_that_was_left_behind_changes_no_history(
    leader: Leader, stream: AppendStream
) -> None:
    await stream.append(put())
    leader.answer = lambda _: leader.refuse(types.REASON_WRONG_HISTORY, history_id="h2")
    with pytest.raises(HistoryChanged):
        await stream.append(put())
    leader.history = "h2"
    stale = [leader.refuse(types.REASON_WRONG_HISTORY, history_id="h1")]
    leader.answer = lambda request: stale.pop() if stale else leader.succeed(request)
    await stream.append(put())
    assert leader.opened == ["", "h2"], "the session in the new history is kept"


async def test_a_leader_that_was_left_behind_cannot_keep_a_client_in_its_history(
    leader: Leader, stream: AppendStream
) -> None:
    """It serves until it steps down and tells of its old history, in which it opens no session."""
    await stream.append(put())
    leader.answer = lambda _: leader.refuse(types.REASON_WRONG_HISTORY, history_id="h0")
    with pytest.raises(HistoryChanged):
        await stream.append(put())
    back = call_error(
        grpc.StatusCode.FAILED_PRECONDITION, refusal(types.REASON_WRONG_HISTORY, history_id="h1")
    )

    async def open_session(address: str, history: str) -> ClientSession:
        leader.opened.append(history)
        if history == "h0":
            raise back
        return ClientSession(200, "h1")

    stream._open_session = open_session
    leader.answer = leader.succeed
    with pytest.raises(HistoryChanged):
        await stream.append(put())
    async with asyncio.timeout(20):
        await stream.append(put())
    assert leader.opened == ["", "h0", "h1"]


async def test_a_restore_between_two_sessions_is_told(leader: Leader, stream: AppendStream) -> None:
    """The session expired before the group was restored: OpenSession is what is refused."""
    await stream.append(put())
    leader.answer = lambda request: (
        leader.refuse(types.REASON_SESSION_EXPIRED)
        if request.proposal.session_id == 101
        else leader.succeed(request)
    )
    changed = call_error(
        grpc.StatusCode.FAILED_PRECONDITION, refusal(types.REASON_WRONG_HISTORY, history_id="h2")
    )

    async def open_session(address: str, history: str) -> ClientSession:
        leader.opened.append(history)
        if history == "h1":
            raise changed
        return ClientSession(200, "h2")

    stream._open_session = open_session
    with pytest.raises(HistoryChanged):
        await stream.append(put())
    await stream.append(put())
    assert leader.opened == ["", "h1", "h2"]


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (refusal(types.REASON_INVALID_ARGUMENT), RequestRefused, "INVALID_ARGUMENT"),
        (refusal(types.REASON_SESSIONS_FULL), RequestRefused, "SESSIONS_FULL"),
        (refusal(types.REASON_DISK_FULL), DiskFull, r"said so \(remove files or keys"),
        (refusal(types.REASON_WRONG_CLUSTER), RequestRefused, "WRONG_CLUSTER"),
        (refusal(cast("Any", 999)), RequestRefused, "999"),
        (None, RequestRefused, "said so"),
    ],
)
async def test_a_refused_session_is_said_at_once(
    leader: Leader,
    stream: AppendStream,
    error: types.ErrorDetail | None,
    kind: type[ClientError],
    text: str,
) -> None:
    leader.open_error = call_error(grpc.StatusCode.PERMISSION_DENIED, error)
    with pytest.raises(kind, match=text):
        await asyncio.wait_for(stream.append(put()), 5)
    assert len(leader.opened) == 1


async def test_a_refusal_of_a_retry_leaves_the_outcome_open(
    leader: Leader, stream: AppendStream
) -> None:
    leader.answer = lambda _: None
    task = asyncio.ensure_future(stream.append(put()))
    while not leader.requests:
        await asyncio.sleep(0)
    leader.answer = lambda _: leader.refuse(types.REASON_SEQUENCE_ACKNOWLEDGED)
    leader.streams[0].end()
    with pytest.raises(OutcomeUnknown, match="earlier try"):
        await task


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (types.REASON_PRECONDITION_FAILED, PreconditionFailed),
        (types.REASON_SEQUENCE_REUSED, RequestRefused),
    ],
)
async def test_a_refusal_that_holds_for_every_try_is_definite(
    leader: Leader,
    stream: AppendStream,
    reason: types.Reason.ValueType,
    kind: type[ClientError],
) -> None:
    """A compare-and-set behind a broken stream."""
    leader.answer = lambda _: None
    task = asyncio.ensure_future(stream.append(put()))
    while not leader.requests:
        await asyncio.sleep(0)
    leader.answer = lambda _: leader.refuse(reason)
    leader.streams[0].end()
    with pytest.raises(kind):
        await task


async def test_nothing_is_acknowledged_that_has_no_answer(
    leader: Leader, stream: AppendStream
) -> None:
    """The leader forgets results below the mark: a retry of one of them would be refused."""
    leader.answer = lambda request: (
        None if request.proposal.sequence == 2 else leader.succeed(request)
    )
    await stream.append(put(0))
    waiting = asyncio.ensure_future(stream.append(put(1)))
    while len(leader.requests) < 2:
        await asyncio.sleep(0)
    for number in range(2, 6):
        await stream.append(put(number))
    assert [(r.proposal.sequence, r.proposal.acknowledged_below) for r in leader.requests] == [
        (1, 1),
        (2, 2),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
    ]
    leader.answer = leader.succeed
    leader.streams[0].end()
    await waiting
    assert leader.requests[-1].retry
    await stream.append(put(6))
    assert leader.requests[-1].proposal.acknowledged_below == 7


async def test_an_append_that_meets_a_defect_holds_nobody_up(
    leader: Leader, stream: AppendStream
) -> None:
    def answer(request: api.AppendRequest) -> Answer:
        if request.proposal.operations[0].set_key.key == b"0":
            return leader.refuse(types.REASON_OUTCOME_UNKNOWN)
        return leader.succeed(request)

    leader.answer = answer
    unlucky = asyncio.ensure_future(stream.append(put(0, deadline_s=0.5)))
    found = await asyncio.gather(*(stream.append(put(n)) for n in range(1, 20)))
    assert len(found) == 19
    with pytest.raises(DeadlineExceeded, match="may have taken effect"):
        await unlucky
    assert len(leader.requests) < 40
    assert len(leader.streams) == 1


async def test_a_refused_upload_leaves_an_earlier_try_in_doubt(
    leader: Leader, stream: AppendStream
) -> None:
    async def upload(_: list[bytes]) -> None:
        raise DiskFull("no room")

    for in_doubt, kind in ((False, DiskFull), (True, OutcomeUnknown)):
        leader.answer = lambda _: leader.refuse(types.REASON_PAYLOAD_MISSING)
        if in_doubt:
            answers = [None, leader.refuse(types.REASON_PAYLOAD_MISSING)]
            leader.answer = lambda _, answers=answers: answers.pop(0)
        pending = put()
        pending.upload = upload
        task = asyncio.ensure_future(stream.append(pending))
        if in_doubt:
            while len(leader.requests) < 2:
                await asyncio.sleep(0)
            leader.streams[-1].end()
        with pytest.raises(kind):
            await task


async def test_a_first_refusal_is_definite(leader: Leader, stream: AppendStream) -> None:
    leader.answer = lambda _: leader.refuse(types.REASON_SEQUENCE_REUSED)
    with pytest.raises(RequestRefused) as caught:
        await stream.append(put())
    assert caught.value.reason == "SEQUENCE_REUSED"


async def test_a_full_disk_is_waited_for_while_an_earlier_try_is_in_doubt(
    leader: Leader, stream: AppendStream
) -> None:
    leader.answer = lambda _: leader.refuse(types.REASON_DISK_FULL)
    with pytest.raises(DiskFull):
        await stream.append(put())
    full = [leader.refuse(types.REASON_OUTCOME_UNKNOWN, cause=types.REASON_DISK_FULL)] * 2
    leader.answer = lambda request: full.pop() if full else leader.succeed(request)
    await stream.append(put())
    assert [r.retry for r in leader.requests] == [False, False, True, True]


@pytest.mark.parametrize("code", ["UNAVAILABLE", "UNKNOWN", "INTERNAL", "CANCELLED"])
async def test_a_connection_that_is_cut_is_made_again(
    leader: Leader, stream: AppendStream, code: str
) -> None:
    """A leader that is killed ends its streams with one of these."""
    leader.answer = lambda _: None
    tasks = [asyncio.ensure_future(stream.append(put(n))) for n in range(3)]
    while len(leader.requests) < 3:
        await asyncio.sleep(0)
    leader.answer = leader.succeed
    leader.streams[0].fail(call_error(grpc.StatusCode[code]))
    assert len(await asyncio.gather(*tasks)) == 3


async def test_a_write_to_a_call_that_was_given_up_ends_nothing(
    leader: Leader, stream: AppendStream
) -> None:
    """gRPC raises CancelledError from it, as if the stream's own task was cancelled."""
    write = Stream.write
    broken = [1]

    async def cancelled(self: Stream, request: api.AppendRequest) -> None:
        if broken:
            broken.pop()
            raise asyncio.CancelledError
        await write(self, request)

    Stream.write = cancelled  # type: ignore[method-assign]
    try:
        await asyncio.wait_for(stream.append(put()), 5)
    finally:
        Stream.write = write  # type: ignore[method-assign]


async def test_a_deadline_says_what_came_last(leader: Leader, stream: AppendStream) -> None:
    leader.answer = lambda _: leader.refuse(types.REASON_OVERLOADED)
    with pytest.raises(DeadlineExceeded, match=r"did not take effect; last: OVERLOADED: said so"):
        await stream.append(put(deadline_s=0.3))
    leader.answer = lambda _: None
    with pytest.raises(DeadlineExceeded, match="may have taken effect"):
        await stream.append(put(deadline_s=0.3))


async def test_the_wait_for_a_slot_is_within_the_deadline(
    leader: Leader, stream: AppendStream
) -> None:
    stream._slots = AppendSlots(1)
    leader.answer = lambda _: None
    first = asyncio.ensure_future(stream.append(put(deadline_s=20)))
    while not leader.requests:
        await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded, match="did not take effect"):
        await asyncio.wait_for(stream.append(put(1, deadline_s=0.2)), 5)
    assert len(leader.requests) == 1
    first.cancel()


async def test_an_append_above_the_limit_is_not_sent(leader: Leader, stream: AppendStream) -> None:
    large = types.Proposal(operations=[set_key(b"k", bytes(600_000))] * 2)
    pending = PendingAppend(large, False, 5)
    with pytest.raises(RequestRefused, match="1048576"):
        await stream.append(pending)
    assert leader.requests == []
