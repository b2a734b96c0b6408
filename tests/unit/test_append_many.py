"""Many appends in one call, without a task for each."""

import asyncio

import pytest
from partition_client.appends import IN_FLIGHT_MAX, AppendStream
from partition_client.errors import (
    ClientError,
    DeadlineExceeded,
    PreconditionFailed,
    RequestRefused,
)
from partition_client.pending_append import Appended, PendingAppend
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.append_streams import Answer, Leader, put
from tests.support.append_streams import leader as leader  # a fixture
from tests.support.append_streams import stream as stream  # a fixture
from tests.support.proposals import set_key


def lsns(many: list[PendingAppend]) -> list[int]:
    return [one.future.result().lsn for one in many]


async def test_each_is_written_once_and_answered_in_its_place(
    leader: Leader, stream: AppendStream
) -> None:
    many = [put(n) for n in range(IN_FLIGHT_MAX * 2 + 10)]
    tasks = len(asyncio.all_tasks())
    running = asyncio.ensure_future(stream.append_many(many))
    while not any(one.future.done() for one in many):
        await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) < tasks + 10, "no task for each"
    await running
    assert len(set(lsns(many))) == len(many)
    keys = [r.proposal.operations[0].set_key.key for r in leader.requests]
    assert keys == [b"%d" % n for n in range(len(many))]


async def test_the_error_of_one_is_not_that_of_the_others(
    leader: Leader, stream: AppendStream
) -> None:
    def answer(request: api.AppendRequest) -> Answer:
        if request.proposal.operations[0].set_key.key == b"1":
            return leader.refuse(types.REASON_PRECONDITION_FAILED)
        return leader.succeed(request)

    leader.answer = answer
    many = [put(n) for n in range(3)]
    await stream.append_many(many)
    assert isinstance(many[1].future.exception(), PreconditionFailed)
    assert isinstance(many[0].future.result(), Appended)
    assert isinstance(many[2].future.result(), Appended)


async def test_one_that_is_too_large_keeps_all_from_being_sent(
    leader: Leader, stream: AppendStream
) -> None:
    large = types.Proposal(operations=[set_key(b"k", b"v" * 2_000_000)])
    with pytest.raises(RequestRefused, match="split it"):
        await stream.append_many([put(), PendingAppend(large, False, 30.0)])
    assert leader.requests == []


async def test_those_that_wait_for_a_slot_have_a_deadline_too(
    leader: Leader, stream: AppendStream
) -> None:
    leader.answer = lambda _: None
    many = [put(n) for n in range(IN_FLIGHT_MAX + 5)]
    for one in many:
        one.allowed_s = 0.2
    await stream.append_many(many)
    for one in many:
        assert isinstance(one.future.exception(), DeadlineExceeded)
    leader.answer = leader.succeed
    await stream.append(put())


async def test_slots_of_others_do_not_outlast_its_deadline(
    leader: Leader, stream: AppendStream
) -> None:
    leader.answer = lambda _: None
    others = [asyncio.ensure_future(stream.append(put(n))) for n in range(IN_FLIGHT_MAX)]
    while len(leader.requests) < IN_FLIGHT_MAX:
        await asyncio.sleep(0)
    many = [put(n) for n in range(3)]
    for one in many:
        one.allowed_s = 0.1
    await stream.append_many(many)
    assert all(isinstance(one.future.exception(), DeadlineExceeded) for one in many)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    leader.answer = leader.succeed
    await stream.append_many([put(n) for n in range(IN_FLIGHT_MAX)])


async def test_a_caller_that_goes_away_leaves_no_slot_taken(
    leader: Leader, stream: AppendStream
) -> None:
    leader.answer = lambda _: None
    running = asyncio.ensure_future(stream.append_many([put(n) for n in range(IN_FLIGHT_MAX + 5)]))
    while len(leader.requests) < 10:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    leader.answer = leader.succeed
    await stream.append_many([put(n) for n in range(IN_FLIGHT_MAX)])


async def test_a_closed_client_says_so(leader: Leader, stream: AppendStream) -> None:
    leader.answer = lambda _: None
    many = [put(n) for n in range(IN_FLIGHT_MAX + 5)]
    running = asyncio.ensure_future(stream.append_many(many))
    while len(leader.requests) < 10:
        await asyncio.sleep(0)
    await stream.close()
    await running
    assert all(isinstance(one.future.exception(), ClientError) for one in many)
    with pytest.raises(ClientError, match="closed"):
        await stream.append_many([put()])
