"""A leader whose answers to a client's append stream are written down, and streams to it."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from typing import Any, cast

import grpc
import pytest
from partition_client.appends import AppendStream, ClientSession
from partition_client.pending_append import PendingAppend
from partition_client.routing import Routing
from partition_common import error_details
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.proposals import set_key

Answer = api.AppendResponse | None

ONE_LEADS = types.LeaderHint(member_id=1, address="one:1")


def refusal(reason: types.Reason.ValueType, **more: Any) -> types.ErrorDetail:
    return types.ErrorDetail(reason=reason, message="said so", **more)


def call_error(
    code: grpc.StatusCode, detail: types.ErrorDetail | None = None
) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata()
    if detail is not None:
        trailing.add(error_details.KEY, detail.SerializeToString())
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, "said so")


class Stream:
    """One call of Append, as grpc.aio has it."""

    def __init__(self, leader: "Leader") -> None:
        self._leader = leader
        self._answers: asyncio.Queue[Any] = asyncio.Queue()

    async def write(self, request: api.AppendRequest) -> None:
        self._leader.requests.append(request)
        answer = self._leader.answer(request)
        if answer is not None:
            answer.request_id = request.request_id
            self._answers.put_nowait(answer)

    async def read(self) -> Any:
        found = await self._answers.get()
        if isinstance(found, Exception):
            raise found
        return found

    def put(self, answer: api.AppendResponse) -> None:
        self._answers.put_nowait(answer)

    def fail(self, error: Exception) -> None:
        self._answers.put_nowait(error)

    def end(self) -> None:
        self._answers.put_nowait(grpc.aio.EOF)

    def cancel(self) -> None:
        self._leader.streams.remove(self)


class FrameStream(Stream):
    """One call of AppendFrames. The leader sees an AppendRequest per proposal, with the sequence as
    its request ID, and answers as in an Append."""

    async def write(self, request: Any) -> None:
        if not self._leader.frames:
            self.fail(call_error(grpc.StatusCode.UNIMPLEMENTED))
            return
        self._leader.frames_written.append(request)
        for sequence, content in enumerate(request.proposals, request.first_sequence):
            proposal = types.Proposal.FromString(content)
            proposal.session_id, proposal.sequence = request.session_id, sequence
            proposal.acknowledged_below = request.acknowledged_below
            await super().write(
                api.AppendRequest(
                    request_id=sequence,
                    proposal=proposal,
                    retry=request.retry,
                    wait_applied=request.wait_applied,
                    history_id=request.history_id,
                )
            )

    async def read(self) -> Any:
        answer = await super().read()
        if answer is grpc.aio.EOF:
            return answer
        found = api.AppendFrameResponse()
        if answer.HasField("error"):
            found.refused.add(first_sequence=answer.request_id, count=1, error=answer.error)
        else:
            found.appended.add(
                first_sequence=answer.request_id,
                count=1,
                first_lsn=answer.lsn,
                term=answer.term,
                outcomes=answer.outcomes,
            )
        return found


class Leader:
    """Answers each append by `answer`, and opens sessions 101, 102 and so on."""

    def __init__(self, *, frames: bool = True) -> None:
        self.frames = frames
        """Whether it knows AppendFrames."""
        self.frames_written: list[api.AppendFrame] = []
        self.requests: list[api.AppendRequest] = []
        self.streams: list[Stream] = []
        self.opened: list[str] = []
        self.hints: list[tuple[int, str]] = []
        self.history = "h1"
        self.leader = "leader:1"
        self.open_error: Exception | None = None
        self.answer: Callable[[api.AppendRequest], Answer] = self.succeed

    def succeed(self, request: api.AppendRequest) -> Answer:
        return api.AppendResponse(lsn=len(self.requests), term=1)

    def refuse(self, reason: types.Reason.ValueType, **more: Any) -> Answer:
        return api.AppendResponse(error=refusal(reason, **more))

    def Append(self) -> Stream:  # as gRPC names it
        self.streams.append(Stream(self))
        return self.streams[-1]

    def AppendFrames(self) -> Stream:  # as gRPC names it
        self.streams.append(FrameStream(self))
        return self.streams[-1]

    async def open_session(self, address: str, history: str) -> ClientSession:
        self.opened.append(history)
        if self.open_error is not None:
            raise self.open_error
        return ClientSession(100 + len(self.opened), self.history)

    # --- as Routing ---

    async def find_leader(self) -> str:
        return "leader:1"

    def stub(self, address: str) -> "Leader":
        return self

    def forget_leader(self) -> None: ...
    def lost(self, address: str) -> None: ...

    def hint(self, leader: types.LeaderHint, *, told_by: str) -> None:
        self.hints.append((leader.member_id, told_by))


@pytest.fixture(params=[True, False], ids=["frames", "no_frames"])
async def leader(request: pytest.FixtureRequest) -> Leader:
    """A leader of this version, and one of the version before."""
    return Leader(frames=request.param)


@pytest.fixture
async def stream(leader: Leader) -> AsyncGenerator[AppendStream, None]:
    found = AppendStream(cast("Routing", leader), leader.open_session)
    yield found
    await found.close()


def put(number: int = 0, *, deadline_s: float = 20.0) -> PendingAppend:
    proposal = types.Proposal(operations=[set_key(b"%d" % number, b"v")])
    return PendingAppend(proposal, False, deadline_s)


async def outcomes(stream: AppendStream, count: int) -> Counter[str]:
    found = await asyncio.gather(
        *(stream.append(put(n)) for n in range(count)), return_exceptions=True
    )
    return Counter(type(one).__name__ for one in found)
