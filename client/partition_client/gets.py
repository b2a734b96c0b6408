"""Gets in frames: everything that one process reads by key from one replica goes there on one
stream. The gets that wait go out together, in one message, and one message answers them.

A get costs a future and no task or timer. One timer waits for the nearest deadline of all gets. A
caller that is cancelled before its get is sent costs nothing on the wire.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import grpc
from partition_common import backoff
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.calls import (
    CALL_TIMEOUT_S,
    STREAM_IDLE_S,
    Calls,
    Deadline,
    check_seconds,
    unary,
)
from partition_client.deadlines import Deadlines
from partition_client.endpoints import check_endpoint
from partition_client.errors import (
    RETRIED,
    ClientError,
    DeadlineExceeded,
    client_closed,
    detail_of,
    from_detail,
    reason_name,
)
from partition_client.routing import STATUS_TIMEOUT_S, Routing
from partition_client.waiting import CANCELLED_HERE, Silent, being_cancelled

StreamCall = Any
"""grpc.aio's StreamStreamCall; generic in its stubs only."""

KEY_BYTES_MAX = 65_000
"""Replicas refuse a longer key, and with it the whole frame. So such a key travels alone."""

FRAME_KEYS_MAX = 1000
"""Keys per frame; replicas refuse more than 1,024."""

FRAME_BYTES_MAX = 1024 * 1024
"""The total size of a frame's keys; it has at least one. The others go in the next frame."""

FRAMES_MAX = 8
"""Frames of a stream that are not answered. More gets wait, and then go out together."""

UNARY_S = 60.0
"""A replica without GetFrames is asked by GetKey for this time. Then GetFrames is tried again."""


@dataclass(frozen=True, slots=True)
class Source:
    """The replica that a get asks, and how: the leader if `address` is "", else that replica.
    stale: for what it has applied. Otherwise the read is linearizable."""

    address: str = ""
    stale: bool = False

    @property
    def consistency(self) -> api.Consistency:
        return api.CONSISTENCY_STALE if self.stale else api.CONSISTENCY_LINEARIZABLE

    @property
    def at_follower(self) -> bool:
        return bool(self.address) and not self.stale


LEADER = Source()


class _WithoutFrames(Exception):
    """The replica is of a version without GetFrames: the caller asks by GetKey."""


@dataclass(slots=True, eq=False)
class _Get:
    """One get that waits for its answer."""

    key: bytes
    lane: "_Lane"
    future: "asyncio.Future[bytes | None]"


@dataclass(slots=True)
class _Frame:
    """A frame that is sent. `moved_at`: when it was sent, or last answered in part."""

    gets: list[_Get]
    moved_at: float


class Gets:
    """The gets of one client, on one event loop."""

    def __init__(self, routing: Routing, calls: Calls, allowed_s: float) -> None:
        """`allowed_s`: seconds that a get may take with its retries."""
        self._routing = routing
        self._calls = calls
        self._allowed_s = check_seconds(allowed_s)
        self._lanes: dict[Source, _Lane] = {}
        self._deadlines: Deadlines[_Get] = Deadlines(self._too_late)
        self._unary_until: dict[str, float] = {}
        self._closed = False

    async def get(self, key: bytes, source: Source = LEADER) -> bytes | None:
        """Returns the value, or None if the key is absent. Raises ClientError."""
        self._routing.check_open()
        if self._closed:
            raise client_closed()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._allowed_s
        target = source.address or self._routing.leader
        if not 0 < len(key) <= KEY_BYTES_MAX or self.lacks_frames(target):
            return await self._by_get_key(key, source, deadline)
        get = _Get(key, self._lane(source), loop.create_future())
        self._deadlines.add(get, self._allowed_s)
        get.lane.add(get)
        try:
            return await get.future
        except _WithoutFrames:
            pass
        finally:
            self._deadlines.remove(get, self._allowed_s)
            get.lane.waiting.pop(get, None)
        return await self._by_get_key(key, source, deadline)

    async def close(self) -> None:
        """Ends the streams. Gets that still wait get ClientError."""
        self._closed = True
        lanes = list(self._lanes.values())
        tasks = [lane.task for lane in lanes if lane.task is not None]
        for lane in lanes:
            lane.fail(client_closed())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._deadlines.close()
        self._lanes.clear()

    # --- for the lanes ------------------------------------------------------------------------

    def lacks_frames(self, address: str) -> bool:
        """Whether the replica was found to be of a version without GetFrames."""
        until = self._unary_until.get(address)
        if until is None:
            return False
        if asyncio.get_running_loop().time() < until:
            return True
        del self._unary_until[address]
        return False

    def found_without_frames(self, address: str) -> None:
        self._unary_until[address] = asyncio.get_running_loop().time() + UNARY_S

    def ended(self, lane: "_Lane") -> None:
        """Nothing waits for this lane any more."""
        if self._lanes.get(lane.source) is lane:
            del self._lanes[lane.source]

    # --- inside -------------------------------------------------------------------------------

    def _lane(self, source: Source) -> "_Lane":
        lane = self._lanes.get(source)
        if lane is None:
            if source.address:
                check_endpoint(source.address)
            lane = self._lanes[source] = _Lane(self, self._routing, self._calls, source)
        return lane

    async def _by_get_key(self, key: bytes, source: Source, until: float) -> bytes | None:
        deadline = Deadline(self._allowed_s)
        deadline.at = until
        request = api.GetKeyRequest(
            key=key, consistency=source.consistency, at_follower=source.at_follower
        )

        async def call(stub: Any) -> Any:
            return await unary(stub.GetKey, request, deadline)

        response: api.GetKeyResponse = await self._calls.retry(call, deadline, source.address)
        return response.value if response.found else None

    def _too_late(self, get: _Get) -> None:
        if not get.future.done():
            get.future.set_exception(
                DeadlineExceeded(
                    f"no answer within {self._allowed_s:g} s: "
                    f"{self._routing.explain(get.lane.target)}"
                )
            )


class _Lane:
    """The gets from one source, and the stream to it. Its task runs until nothing waits."""

    def __init__(self, gets: Gets, routing: Routing, calls: Calls, source: Source) -> None:
        self._gets = gets
        self._routing = routing
        self._calls = calls
        self.source = source
        self.target = source.address
        """The replica that was asked last; "" if no leader was found."""
        self.waiting: dict[_Get, None] = {}
        """Not sent; in the order of their arrival."""
        self._frames: dict[int, _Frame] = {}
        """Sent and not answered, by ID; the first is the oldest."""
        self._serial = 0
        self._answered = False
        self._active_at = 0.0
        self._silence = ""
        self._idle = False
        self._timer: asyncio.TimerHandle | None = None
        self._wake = asyncio.Event()
        self.task: asyncio.Task[None] | None = asyncio.create_task(self._run())
        self.task.add_done_callback(self._ended)

    def add(self, get: _Get) -> None:
        self.waiting[get] = None
        self._wake.set()

    def fail(self, error: ClientError) -> None:
        self._sent_wait_again()
        _fail(self.waiting, error)
        self.waiting.clear()

    # --- the task -----------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while self.waiting:
            self._answered = self._idle = False
            try:
                await self._serve()
            except ClientError as error:
                self.fail(error)
            if self.waiting and not self._idle:
                failures = 1 if self._answered else failures + 1
                await asyncio.sleep(backoff.CALL.after(failures))
        self._gets.ended(self)

    async def _serve(self) -> None:
        """Looks for the leader, if it is to be asked, and serves one stream to the replica. Raises
        ClientError if no retry can help."""
        self.target = self.source.address or await self._routing.find_leader(STATUS_TIMEOUT_S)
        if not self.target:
            return
        if not self._gets.lacks_frames(self.target):
            try:
                await self._stream(self.target)
                return
            except (grpc.aio.AioRpcError, Silent) as error:
                if not _is_unimplemented(error):
                    within = Deadline(STATUS_TIMEOUT_S)
                    fixed = bool(self.source.address)
                    await self._calls.failed(self.target, error, within, fixed=fixed)
                    return
                self._gets.found_without_frames(self.target)
        _fail(self.waiting, _WithoutFrames())
        self.waiting.clear()

    async def _stream(self, target: str) -> None:
        """Serves one stream until it has to be given up. Raises AioRpcError, Silent."""
        loop = asyncio.get_running_loop()
        self._silence = ""
        self._active_at = loop.time()
        call = self._routing.stub(target).GetFrames()
        reader = asyncio.create_task(self._read(call, target))
        reader.add_done_callback(lambda _: self._wake.set())
        self._watch(call)
        try:
            while not reader.done():
                self._wake.clear()
                if not await self._write_waiting(call, reader):
                    break
                await self._wake.wait()
            await reader
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            call.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            self._sent_wait_again()

    async def _write_waiting(self, call: StreamCall, reader: "asyncio.Task[None]") -> bool:
        """Sends what waits, as far as frames may be under way. Returns False if the call is
        over."""
        while self.waiting and len(self._frames) < FRAMES_MAX:
            if reader.done():
                return False
            frame = self._take_frame()
            if frame is None:
                continue
            try:
                await call.write(frame)
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                return False  # the reader hears why
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                return False  # the call was cancelled, not this task
        return True

    def _take_frame(self) -> api.GetFrame | None:
        """The next frame; None if the callers of what waited are gone."""
        gets: list[_Get] = []
        size = 0
        for get in list(islice(self.waiting, FRAME_KEYS_MAX)):
            size += len(get.key)
            if gets and size > FRAME_BYTES_MAX:
                break
            del self.waiting[get]
            if not get.future.done():
                gets.append(get)
        if not gets:
            return None
        self._serial += 1
        self._frames[self._serial] = _Frame(gets, asyncio.get_running_loop().time())
        return api.GetFrame(
            frame_id=self._serial,
            keys=[get.key for get in gets],
            consistency=self.source.consistency,
            at_follower=self.source.at_follower,
        )

    async def _read(self, call: StreamCall, target: str) -> None:
        """Takes answers until the stream has to be given up. Raises AioRpcError, Silent."""
        while (response := await self._next_answer(call)) is not None:
            frame = self._frames.get(response.frame_id)
            if frame is None:
                continue
            frame.moved_at = self._active_at = asyncio.get_running_loop().time()
            if not response.HasField("error"):
                self._take(frame, response)
            elif response.error.reason in RETRIED:
                self._refused(target, response.error)
                return
            else:
                del self._frames[response.frame_id]
                _fail(frame.gets, from_detail(response.error))
            if self.waiting:
                self._wake.set()

    async def _next_answer(self, call: StreamCall) -> api.GetFrameResponse | None:
        """The next answer; None if the stream was closed because nobody uses it."""
        try:
            response: Any = await call.read()
        except (asyncio.CancelledError, grpc.aio.AioRpcError) as error:
            if being_cancelled():
                raise
            if self._idle:
                return None
            if self._silence or isinstance(error, asyncio.CancelledError):
                raise Silent(self._silence or CANCELLED_HERE) from None
            raise
        if response is grpc.aio.EOF:
            raise Silent("it ended the stream of gets")
        answer: api.GetFrameResponse = response
        return answer

    def _take(self, frame: _Frame, response: api.GetFrameResponse) -> None:
        self._answered = True
        absent = frozenset(response.absent)
        end = response.first + len(response.values)
        if end > len(frame.gets) or (response.last and end < len(frame.gets)):
            raise Silent("it answered a frame with too many or too few values")
        for place, value in enumerate(response.values):
            future = frame.gets[response.first + place].future
            if not future.done():
                future.set_result(None if place in absent else value)
        if response.last:
            del self._frames[response.frame_id]

    def _refused(self, target: str, error: types.ErrorDetail) -> None:
        """A refusal that a retry may fix. The stream is given up, because the others on it would
        most likely be refused as well."""
        self._routing.heard(target, f"{reason_name(error)}: {error.message}")
        if error.HasField("leader"):
            self._routing.hint(error.leader, told_by=target)
        else:
            self._routing.lost(target)

    # --- inside -------------------------------------------------------------------------------

    def _watch(self, call: StreamCall) -> None:
        """Ends the stream if its oldest frame has no answer in time, or if nobody uses it."""
        loop = asyncio.get_running_loop()
        oldest = next(iter(self._frames.values()), None)
        if oldest is not None:
            at = oldest.moved_at + CALL_TIMEOUT_S
        else:
            at = self._active_at + STREAM_IDLE_S
        if loop.time() < at:
            # A frame may be sent meanwhile, and is looked at in time.
            self._timer = loop.call_at(min(at, loop.time() + CALL_TIMEOUT_S), self._watch, call)
            return
        if oldest is not None:
            self._silence = f"no answer within {CALL_TIMEOUT_S:.1f} s"
        else:
            self._idle = True
        call.cancel()

    def _sent_wait_again(self) -> None:
        """What was sent and not answered waits again, before what came after it."""
        if self._frames:
            sent = (get for frame in self._frames.values() for get in frame.gets)
            again = {get: None for get in sent if not get.future.done()}
            self.waiting = again | self.waiting
            self._frames.clear()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """The task does not fail on its own: an error of it is everybody's error."""
        # A task that was cancelled keeps its frames, and with them the call and gRPC's threads.
        self.task = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._gets.ended(self)
            self.fail(ClientError(f"the stream of gets failed: {error!r}"))


def _fail(gets: Iterable[_Get], error: Exception) -> None:
    for get in gets:
        if not get.future.done():
            get.future.set_exception(error)


def _is_unimplemented(error: "grpc.aio.AioRpcError | Silent") -> bool:
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() == grpc.StatusCode.UNIMPLEMENTED
        and detail_of(error) is None
    )
