"""The product's service for clients over the simulated network: what gRPC is between them.

Messages of a stream keep their order; it breaks with the process that serves it, and by chance as
any call. Each answer is looked at on its way: it must be of the history that the call named.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import cached_property
from typing import TYPE_CHECKING, Any

import grpc
from grpc.aio import Metadata
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.errors import (
    NoLeader,
    NotBootstrapped,
    NotLeader,
    Overloaded,
    ReplicaError,
    Stopping,
)

from tests.simulation.checks import Checks
from tests.simulation.network import Unreachable
from tests.simulation.node import Node

if TYPE_CHECKING:
    from tests.simulation.callers import Caller

BETWEEN_S = 1e-6
"""Between two messages of a stream: timers of one moment run in any order."""

_END = object()


class Aborted(Exception):
    """What a service ended a call with."""

    def __init__(self, code: grpc.StatusCode, text: str, metadata: Any) -> None:
        super().__init__(code, text)
        self.code, self.text, self.metadata = code, text, metadata


class _Context:
    """A grpc.aio.ServicerContext, as far as the service uses it."""

    async def abort(self, code: grpc.StatusCode, text: str, metadata: Any = ()) -> None:
        raise Aborted(code, text, metadata)


async def get_frame(node: Node, frame: api.GetFrame) -> list[bytes | None]:
    """What the service of `node` answers to one frame, for a caller that is there already. Raises
    ReplicaError."""

    async def frames() -> AsyncIterator[api.GetFrame]:
        yield api.GetFrame.FromString(frame.SerializeToString())

    values: list[bytes | None] = []
    async with aclosing(node.service.GetFrames(frames(), _Context())) as answers:
        async for answer in answers:
            if answer.HasField("error"):
                raise raised(answer.error)
            values += [
                None if place in answer.absent else value
                for place, value in enumerate(answer.values)
            ]
    return values


def raised(error: types.ErrorDetail) -> ReplicaError:
    """As the replica raised it, for callers that ask the replica itself."""
    if error.HasField("leader"):
        return NotLeader(error.message, (error.leader.member_id, error.leader.address))
    kinds: dict[str, type[ReplicaError]] = {
        kind.reason: kind for kind in (NoLeader, Overloaded, NotBootstrapped, Stopping)
    }
    return kinds[types.Reason.Name(error.reason).removeprefix("REASON_")](error.message)


def failure(error: Aborted | Unreachable) -> grpc.aio.AioRpcError:
    """As a caller of gRPC gets it."""
    if isinstance(error, Aborted):
        return grpc.aio.AioRpcError(error.code, Metadata(), Metadata(*error.metadata), error.text)
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(), str(error))


class Stub:
    """LogStoreStub of one node, for one caller."""

    def __init__(self, caller: "Caller", node: Node | None) -> None:
        self._caller = caller
        self._node = node

    async def OpenSession(self, request: api.OpenSessionRequest, timeout: float) -> Any:
        async def serve(node: Node) -> Any:
            encoded = api.OpenSessionRequest.FromString(request.SerializeToString())
            answer = await node.service.OpenSession(encoded, _Context())
            _check_history(self._caller, node.checks, request.history_id, "given a session")
            return answer

        source = (self._caller.name, self._caller.process)
        try:
            call = self._caller.network.call(source, self._node, serve)
            return await asyncio.wait_for(call, timeout)
        except (Aborted, Unreachable) as error:
            raise failure(error) from error
        except TimeoutError as error:
            raise failure(Unreachable("no answer in time")) from error

    def Append(self) -> "Call":
        return Call(self._caller, self._node, "Append", api.AppendRequest)

    def AppendFrames(self) -> "Call":
        return Call(self._caller, self._node, "AppendFrames", api.AppendFrame)

    def GetFrames(self) -> "Frames":
        return Frames(self._caller, self._node, "GetFrames", api.GetFrame)

    def Read(self, request: api.ReadRequest) -> "Call":
        call = Call(self._caller, self._node, "Read", api.ReadRequest)
        call.send(request)
        return call


class Call:
    """A stream of a service: grpc.aio's StreamStreamCall, or a UnaryStreamCall that has its one
    request already."""

    def __init__(
        self, caller: "Caller", node: Node | None, method: str, message: type[Any]
    ) -> None:
        self._caller = caller
        self._loop = caller.process.loop
        self._method = method
        self._message = message
        self._requests: asyncio.Queue[bytes] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._arrival: dict[asyncio.Queue[Any], float] = {}
        self._history = ""
        self._over = False
        source = (caller.name, caller.process)
        self._task = asyncio.ensure_future(caller.network.call(source, node, self._serve))
        self._task.add_done_callback(self._ended)

    # --- the caller's side --------------------------------------------------------------------

    async def write(self, request: Any) -> None:
        if self._over:
            raise asyncio.InvalidStateError("the call is over")
        self.send(request)
        await asyncio.sleep(0)

    def send(self, request: Any) -> None:
        if self._message is api.AppendRequest and request.retry:
            self._caller.trace.count("appends of several that are sent again")
        if self._message is api.AppendFrame:
            several = "several appends" if len(request.proposals) > 1 else "one append"
            self._caller.trace.count(f"frames of {several}")
            if request.retry:
                self._caller.trace.count("appends of several that are sent again")
        self._history = self._history or request.history_id
        self._travel(self._requests, request.SerializeToString())

    async def read(self) -> Any:
        try:
            found = await self._answers.get()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if found is _END or isinstance(found, grpc.aio.AioRpcError):
            self._answers.put_nowait(found)  # whoever reads on gets the same
            if found is _END:
                return grpc.aio.EOF
            raise found
        return found

    def cancel(self) -> None:
        self._over = True
        self._task.cancel()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._over = True
        if task.cancelled():
            self._answers.put_nowait(failure(Unreachable("the call was cancelled")))
        elif (error := task.exception()) is None:
            self._answers.put_nowait(_END)
        elif isinstance(error, Aborted | Unreachable):
            self._answers.put_nowait(failure(error))
        else:
            self._caller.checks.violated("exception", f"{self._method}: {error!r}", error)

    # --- the service's side -------------------------------------------------------------------

    async def _serve(self, node: Node) -> None:
        method: Callable[[Any, Any], AsyncIterator[Any]] = getattr(node.service, self._method)
        single = self._method == "Read"
        request = await self._next() if single else self._requests_in_turn()
        async for answer in method(request, _Context()):
            if single or _is_definite(answer):
                named = self._named_for(answer)
                _check_history(self._caller, node.checks, named, f"answered by {node.name}")
            self._travel(self._answers, type(answer).FromString(answer.SerializeToString()))

    def _named_for(self, answer: Any) -> str:
        return self._history

    async def _next(self) -> Any:
        return self._message.FromString(await self._requests.get())

    async def _requests_in_turn(self) -> AsyncIterator[Any]:
        while True:
            yield await self._next()

    def _travel(self, queue: "asyncio.Queue[Any]", message: Any) -> None:
        """Behind what was sent before."""
        earliest = self._arrival.get(queue, 0.0) + BETWEEN_S
        at = max(self._loop.time() + self._caller.network.latency(), earliest)
        self._arrival[queue] = at
        self._loop.call_exactly_at(at, queue.put_nowait, message)


class Frames(Call):
    """A stream of gets. The product's client names no history in them, as in GetKey. Here each
    frame names the one that its caller knows, so that nothing is read from another."""

    def send(self, request: Any) -> None:
        request.history_id = self._caller.known_history
        self._histories[request.frame_id] = request.history_id
        super().send(request)

    def _named_for(self, answer: Any) -> str:
        return self._histories[answer.frame_id]

    @cached_property
    def _histories(self) -> dict[int, str]:
        """By frame."""
        return {}


def _is_definite(
    answer: api.AppendResponse | api.AppendFrameResponse | api.GetFrameResponse,
) -> bool:
    """Whether one was acknowledged, or refused as only its own history may."""
    if isinstance(answer, api.AppendFrameResponse):
        errors = [refused.error for refused in answer.refused]
        if answer.appended:
            return True
    else:
        errors = [answer.error]
    return any(
        not error.reason or types.REASON_SESSION_EXPIRED in (error.reason, error.cause)
        for error in errors
    )


def _check_history(caller: "Caller", line: Checks, named: str, what: str) -> None:
    if named and named != line.history:
        caller.checks.violated(
            "history",
            f"{caller.name} is {what} of history {line.number}, and named another one",
        )
