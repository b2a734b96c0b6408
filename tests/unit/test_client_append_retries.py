"""Appends that wait, upload again or outlive their stream go out once, with their deadline."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from partition_client import append_queue, appends
from partition_client.appends import AppendStream, ClientSession
from partition_client.calls import UPLOADS_MAX
from partition_client.errors import ClientError, DeadlineExceeded, OutcomeUnknown
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.append_streams import (
    ONE_LEADS,
    Answer,
    Leader,
    Stream,
    call_error,
    put,
    refusal,
)
from tests.support.append_streams import leader as leader  # a fixture
from tests.support.append_streams import stream as stream  # a fixture
from tests.support.stand_in_replica import StandInReplica

WITHIN_S = 20.0
"""Far above what anything here takes, for a machine under load."""


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not condition():
            await asyncio.sleep(0.001)


def key(request: api.AppendRequest) -> bytes:
    return request.proposal.operations[0].set_key.key


def missing_once(leader: Leader) -> Callable[[api.AppendRequest], Answer]:
    answers = [leader.refuse(types.REASON_PAYLOAD_MISSING)]
    return lambda request: answers.pop() if answers else leader.succeed(request)


# --- the deadline of an append that uploads again ---------------------------------------------


async def test_an_upload_that_moves_may_outlast_the_deadline(
    leader: Leader, stream: AppendStream
) -> None:
    pending = put(deadline_s=0.2)
    deadline = asyncio.get_running_loop().time() + 0.2

    async def upload(_: list[bytes]) -> None:
        await until(lambda: asyncio.get_running_loop().time() > deadline + 0.2)

    pending.upload = upload
    leader.answer = missing_once(leader)
    await stream.append(pending)
    assert len(leader.requests) == 2


async def test_the_deadline_counts_from_the_end_of_the_upload(
    leader: Leader, stream: AppendStream
) -> None:
    now = asyncio.get_running_loop().time
    pending = put(deadline_s=0.2)
    deadline = now() + 0.2
    uploaded_at = 0.0

    async def upload(_: list[bytes]) -> None:
        nonlocal uploaded_at
        leader.answer = lambda _: None
        await until(lambda: now() > deadline)
        uploaded_at = now()

    pending.upload = upload
    leader.answer = missing_once(leader)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(DeadlineExceeded, match="may have taken effect"):
            await stream.append(pending)
    assert now() > uploaded_at + 0.19


async def test_an_append_that_is_cancelled_ends_its_upload(
    leader: Leader, stream: AppendStream
) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def upload(_: list[bytes]) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    pending = put()
    pending.upload = upload
    leader.answer = missing_once(leader)
    task = asyncio.ensure_future(stream.append(pending))
    async with asyncio.timeout(WITHIN_S):
        await began.wait()
        task.cancel()
        await ended.wait()


async def test_uploads_that_help_nothing_do_not_move_the_deadline_for_ever(
    leader: Leader, stream: AppendStream
) -> None:
    uploads = 0

    async def upload(_: list[bytes]) -> None:
        nonlocal uploads
        uploads += 1
        await asyncio.sleep(0.01)

    pending = put(deadline_s=0.2)
    pending.upload = upload
    leader.answer = lambda _: leader.refuse(types.REASON_PAYLOAD_MISSING)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(DeadlineExceeded, match="PAYLOAD_MISSING"):
            await stream.append(pending)
    assert uploads > UPLOADS_MAX


async def test_an_append_whose_caller_has_gone_uploads_nothing(
    leader: Leader, stream: AppendStream
) -> None:
    uploads: list[list[bytes]] = []

    async def upload(digests: list[bytes]) -> None:
        uploads.append(digests)

    pending = put()
    pending.upload = upload
    leader.answer = lambda _: None
    task = asyncio.ensure_future(stream.append(pending))
    await until(lambda: leader.requests)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    late = leader.refuse(types.REASON_PAYLOAD_MISSING)
    late.request_id = leader.requests[0].request_id
    leader.streams[0].put(late)
    leader.answer = leader.succeed
    await stream.append(put())
    assert not stream._tasks
    assert uploads == []


# --- failures that nobody expects -------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("planted"), asyncio.CancelledError("planted")])
async def test_an_upload_that_fails_unexpectedly_is_said_and_logged(
    leader: Leader, stream: AppendStream, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    async def upload(_: list[bytes]) -> None:
        raise error

    pending = put()
    pending.upload = upload
    leader.answer = missing_once(leader)
    with pytest.raises(ClientError, match=r"not be sent again: \w+\(") as caught:
        await stream.append(pending)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert "an append could not be sent again" in caplog.text
    await stream.append(put())


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        (types.REASON_OVERLOADED, ClientError),
        (types.REASON_OUTCOME_UNKNOWN, OutcomeUnknown),
    ],
)
async def test_an_append_that_can_not_be_sent_again_ends(
    leader: Leader,
    stream: AppendStream,
    monkeypatch: pytest.MonkeyPatch,
    reason: types.Reason.ValueType,
    wanted: type[ClientError],
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(stream, "_send_again", fail)
    leader.answer = lambda _: leader.refuse(reason)
    with pytest.raises(ClientError, match="the append could not be sent again") as caught:
        await stream.append(put(deadline_s=WITHIN_S))
    assert type(caught.value) is wanted
    assert not stream._queue.unanswered


@pytest.mark.parametrize(
    "reason", [types.REASON_INVALID_ARGUMENT, types.REASON_PRECONDITION_FAILED]
)
async def test_an_answer_that_can_not_be_taken_ends_every_append(
    leader: Leader,
    stream: AppendStream,
    monkeypatch: pytest.MonkeyPatch,
    reason: types.Reason.ValueType,
) -> None:
    """Also the one that it belongs to, which would else wait until its deadline."""

    def fail(_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(appends, "from_detail", fail)
    leader.answer = lambda request: None if key(request) == b"0" else leader.refuse(reason)
    tasks = [asyncio.ensure_future(stream.append(put(number))) for number in range(2)]
    for task in tasks:
        with pytest.raises(ClientError, match="append stream failed: RuntimeError"):
            await task


async def test_a_session_whose_end_can_not_be_told_ends_the_append(
    leader: Leader, stream: AppendStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(appends, "session_gone_unknown", fail)
    leader.answer = lambda _: leader.refuse(
        types.REASON_OUTCOME_UNKNOWN, cause=types.REASON_SESSION_EXPIRED
    )
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(ClientError, match="append stream failed: RuntimeError"):
            await stream.append(put(deadline_s=10 * WITHIN_S))


async def test_an_append_that_can_not_be_numbered_ends(
    stream: AppendStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a session whose ID no proposal can hold. The append is not sent, and waits no longer."""

    async def open_session(*_: str) -> ClientSession:
        return ClientSession(2**64, "h1")

    monkeypatch.setattr(stream, "_open_session", open_session)
    async with asyncio.timeout(WITHIN_S):
        with pytest.raises(ClientError, match="append stream failed: ValueError"):
            await stream.append(put(deadline_s=10 * WITHIN_S))


async def test_a_stream_that_ends_leaves_no_task(leader: Leader, stream: AppendStream) -> None:
    before = asyncio.all_tasks()
    leader.answer = lambda _: None
    task = asyncio.ensure_future(stream.append(put()))
    await until(lambda: leader.requests)
    await stream.close()
    with pytest.raises(ClientError, match="the client is closed"):
        await task
    await until(lambda: asyncio.all_tasks() <= before)


# --- sent once --------------------------------------------------------------------------------


async def test_an_append_that_waits_while_the_stream_is_reopened_goes_out_once(
    leader: Leader, stream: AppendStream
) -> None:
    leader.answer = lambda _: leader.refuse(types.REASON_OVERLOADED)
    waiting = put(0)
    waiting.pauses = 100  # the longest pause, for the stream to be open again before its end
    task = asyncio.ensure_future(stream.append(waiting))
    await until(lambda: stream._pauses.timers)
    first = leader.streams[0]
    leader.answer = lambda request: None if key(request) == b"0" else leader.succeed(request)
    first.end()
    await until(lambda: leader.streams and leader.streams[0] is not first)
    await until(lambda: not stream._pauses.timers)
    # What is sent again precedes what is new.
    await stream.append(put(1))
    assert [key(r) for r in leader.requests] == [b"0", b"0", b"1"]
    task.cancel()


async def test_an_append_that_has_waited_while_the_stream_was_full_goes_out_once(
    leader: Leader, stream: AppendStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    leader.answer = lambda r: None if key(r) == b"0" else leader.refuse(types.REASON_OVERLOADED)
    waiting = put(1)
    waiting.pauses = 100
    tasks = [asyncio.ensure_future(stream.append(one)) for one in (put(0), waiting)]
    await until(lambda: stream._pauses.timers)
    write, go_on = Stream.write, asyncio.Event()

    async def write_later(call: Stream, request: api.AppendRequest) -> None:
        await go_on.wait()
        await write(call, request)

    monkeypatch.setattr(Stream, "write", write_later)
    leader.answer = lambda _: None
    leader.streams[0].end()
    await until(lambda: not stream._pauses.timers)
    go_on.set()
    leader.answer = lambda r: leader.succeed(r) if key(r) == b"2" else None
    await stream.append(put(2))
    assert [key(r) for r in leader.requests] == [b"0", b"1", b"0", b"1", b"2"]
    for task in tasks:
        task.cancel()


async def test_an_append_that_waits_while_the_session_expires_goes_out_once(
    leader: Leader, stream: AppendStream
) -> None:
    def answer(request: api.AppendRequest) -> Answer:
        if request.proposal.session_id == 101:
            late = key(request) == b"0"
            return leader.refuse(types.REASON_OVERLOADED if late else types.REASON_SESSION_EXPIRED)
        return None if key(request) == b"0" else leader.succeed(request)

    leader.answer = answer
    waiting = put(0)
    waiting.pauses = 100
    task = asyncio.ensure_future(stream.append(waiting))
    await until(lambda: stream._pauses.timers)
    await stream.append(put(1))
    await until(lambda: not stream._pauses.timers)
    await stream.append(put(2))
    new = [key(r) for r in leader.requests if r.proposal.session_id == 102]
    assert sorted(new) == [b"0", b"1", b"2"]
    task.cancel()


async def test_an_append_that_waits_for_the_window_goes_out_when_the_oldest_is_answered(
    leader: Leader, stream: AppendStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when another append comes, nor when the stream has been silent for too long."""
    monkeypatch.setattr(append_queue, "WINDOW", 1)
    monkeypatch.setattr(appends, "SILENCE_S", 10 * WITHIN_S)
    leader.answer = lambda _: None
    tasks = [asyncio.ensure_future(stream.append(put(number))) for number in range(2)]
    await until(lambda: leader.requests and len(stream._queue.new) == 1)
    leader.answer = leader.succeed
    found = leader.succeed(leader.requests[0])
    found.request_id = leader.requests[0].request_id
    leader.streams[0].put(found)
    async with asyncio.timeout(WITHIN_S):
        await asyncio.gather(*tasks)
    assert [key(r) for r in leader.requests] == [b"0", b"1"]


async def test_appends_are_told_apart_by_identity(stream: AppendStream) -> None:
    assert len({put(), put()}) == 2


# --- what is said, and to whom ----------------------------------------------------------------


async def test_a_deadline_names_no_failure_that_is_over(
    leader: Leader, stream: AppendStream
) -> None:
    leader.answer = lambda _: None
    with pytest.raises(DeadlineExceeded) as caught:
        await stream.append(put(deadline_s=0.2))
    assert "last:" not in str(caught.value)
    answers = [leader.refuse(types.REASON_NO_LEADER)]
    leader.answer = lambda request: answers.pop() if answers else leader.succeed(request)
    await stream.append(put())
    leader.answer = lambda _: None
    with pytest.raises(DeadlineExceeded) as caught:
        await stream.append(put(deadline_s=0.2))
    assert "last:" not in str(caught.value)


async def test_a_deadline_names_the_failure_of_its_own_append(
    leader: Leader, stream: AppendStream
) -> None:
    """The appends of others that succeed meanwhile don't hide it."""

    def answer(request: api.AppendRequest) -> Answer:
        if key(request) == b"0":
            return leader.refuse(types.REASON_OVERLOADED)
        return leader.succeed(request)

    leader.answer = answer
    unlucky = asyncio.ensure_future(stream.append(put(0, deadline_s=0.3)))
    while not unlucky.done():
        await stream.append(put(1))
    with pytest.raises(DeadlineExceeded, match="; last: OVERLOADED: said so"):
        await unlucky


async def test_a_hint_comes_with_the_address_that_gave_it(
    leader: Leader, stream: AppendStream
) -> None:
    answers = [leader.refuse(types.REASON_NOT_LEADER, leader=ONE_LEADS)]
    leader.answer = lambda request: answers.pop() if answers else leader.succeed(request)
    await stream.append(put())
    leader.answer = lambda _: None
    task = asyncio.ensure_future(stream.append(put()))
    await until(lambda: len(leader.requests) == 3)
    leader.answer = leader.succeed
    error = refusal(types.REASON_NOT_LEADER, leader=ONE_LEADS)
    leader.streams[0].fail(call_error(grpc.StatusCode.UNAVAILABLE, error))
    await task
    assert leader.hints == [(1, "leader:1")] * 2


# --- the session ------------------------------------------------------------------------------


async def test_the_session_is_handed_out_once(leader: Leader, stream: AppendStream) -> None:
    await stream.append(put())
    session = await stream.close()
    assert session is not None
    assert session.id == 101
    assert await stream.close() is None


async def test_a_client_may_be_closed_again_and_at_once() -> None:
    class Replica(StandInReplica):
        async def CloseSession(self, request: object, context: object) -> api.CloseSessionResponse:
            self._count("CloseSession")
            return api.CloseSessionResponse()

    replica = Replica()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await client.set_key(b"k", b"v")
        await asyncio.gather(client.close(), client.close())
        await client.close()
    assert replica.calls["CloseSession"] == 1
