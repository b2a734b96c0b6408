"""Serves GetFrames: many gets in one message, with one read index per frame.

A frame waits for its read index beside the other frames of its stream. Its values are read only
when the message before them is sent. So a client that does not read its answers costs the keys of
its frames and one message of values.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from partition_proto.v1 import log_store_pb2 as api

from partition_replica.core.limits import Limits
from partition_replica.core.services import ApplicationService
from partition_replica.core.validation import check_key
from partition_replica.errors import InvalidArgument, Overloaded, ReplicaError
from partition_replica.transport.failures import detail
from partition_replica.transport.state_reading import linearizable
from partition_replica.transport.streams import StreamBytes, StreamWindow


@dataclass(frozen=True, slots=True)
class _Frame:
    """A frame whose values may be read, or that is refused with `error`. `size`: the bytes that it
    holds of the stream's window."""

    request: api.GetFrame
    size: int
    error: ReplicaError | None = None


class GetFrames:
    """Serves the GetFrames streams of a replica. On the event loop."""

    def __init__(
        self,
        replica: ApplicationService,
        limits: Limits,
        refused: Callable[[ReplicaError], None],
        held: StreamBytes,
        received: Callable[[int], object],
    ) -> None:
        """`refused` is called with the error of each refused frame, `received` with the number of
        keys of each frame. `held`: the bytes that all streams hold together."""
        self._replica = replica
        self._limits = limits
        self._refused = refused
        self._held = held
        self._received = received

    async def serve(
        self, requests: AsyncIterator[api.GetFrame]
    ) -> AsyncGenerator[api.GetFrameResponse, None]:
        """Serves one stream until `requests` ends and every frame is answered."""
        limits = self._limits
        # Bounded by the window: it has one item per frame in progress.
        ready: asyncio.Queue[_Frame | Exception | None] = asyncio.Queue()
        room = StreamWindow(limits.get_frames_max, limits.get_bytes_max, self._held)
        reader = asyncio.create_task(self._read(requests, room, ready))
        try:
            while (frame := await ready.get()) is not None:
                if isinstance(frame, Exception):
                    raise frame
                held = frame.size
                async with aclosing(self._answers(frame)) as answers:
                    async for answer in answers:
                        size = answer.ByteSize()
                        room.shrink(held, frame.size + size)
                        held = frame.size + size
                        yield answer
                # The last one is sent or in flight: gRPC asks for the next answer only then.
                room.give(held)
            await reader  # an error of the request stream ends the call, too
        finally:
            reader.cancel()
            room.close()

    async def _read(
        self,
        requests: AsyncIterator[api.GetFrame],
        room: StreamWindow,
        ready: "asyncio.Queue[_Frame | Exception | None]",
    ) -> None:
        """Reads frames as far as there is room, and puts each into `ready` once its values may be
        read. Puts None after the last one."""
        # A dict, not a set: a simulation could not repeat the order of a set.
        running: dict[asyncio.Task[None], None] = {}

        async def prepare(request: api.GetFrame, size: int) -> None:
            try:
                ready.put_nowait(await self._prepared(request, size))
            except Exception as error:  # without it the caller would wait for its answer forever
                ready.put_nowait(error)

        try:
            async for request in requests:
                size = request.ByteSize()
                if not await room.take(size):
                    # Without its keys, which are not accounted for.
                    refused = api.GetFrame(frame_id=request.frame_id)
                    ready.put_nowait(_Frame(refused, 0, self._overloaded()))
                    continue
                task = asyncio.create_task(prepare(request, size))
                running[task] = None
                task.add_done_callback(running.pop)
            if running:
                await asyncio.wait(running)
        finally:
            for task in list(running):
                task.cancel()
            ready.put_nowait(None)

    async def _prepared(self, request: api.GetFrame, size: int) -> _Frame:
        """Returns the frame once its values may be read, or with the error of its refusal."""
        self._received(len(request.keys))
        asked = linearizable(request.consistency)
        try:
            self._check(request)
            await self._replica.read_point(linearizable=asked, at_follower=request.at_follower)
            # Behind the wait: a replica that a restore missed has no leader to confirm it, and
            # must not tell a client of the history that is over.
            self._replica.check_history(request.history_id)
        except ReplicaError as error:
            return _Frame(request, size, error)
        return _Frame(request, size)

    def _check(self, request: api.GetFrame) -> None:
        most = self._limits.get_frame_keys_max
        if not 0 < len(request.keys) <= most:
            raise InvalidArgument(
                f"a frame has {len(request.keys)} keys; allowed are 1 to {most}: send several "
                "frames"
            )
        for key in request.keys:
            check_key(key, "GetFrames")

    async def _answers(self, frame: _Frame) -> AsyncGenerator[api.GetFrameResponse, None]:
        """The messages with the values of one frame, read as they are asked for."""
        if frame.error is not None:
            yield self._refusal(frame, frame.error)
            return
        request, first = frame.request, 0
        while first < len(request.keys):
            keys = request.keys[first:] if first else request.keys
            try:
                # The frame's read index is applied, so every state from here on may answer it.
                state = await self._replica.read_point(linearizable=False)
                values, applied = state.get_values(keys, self._limits.get_answer_bytes_max)
            except ReplicaError as error:
                yield self._refusal(frame, error)
                return
            end = first + len(values)
            answer = api.GetFrameResponse(
                frame_id=request.frame_id,
                first=first,
                values=[value or b"" for value in values],
                absent=[place for place, value in enumerate(values) if value is None],
                applied=applied,
                last=end == len(request.keys),
            )
            if not self._held.fits(answer.ByteSize()):
                yield self._refusal(frame, self._overloaded())
                return
            yield answer
            first = end

    def _refusal(self, frame: _Frame, error: ReplicaError) -> api.GetFrameResponse:
        self._refused(error)
        return api.GetFrameResponse(frame_id=frame.request.frame_id, last=True, error=detail(error))

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"get frames in progress here hold up to {self._limits.get_bytes_total_max} bytes, the "
            "maximum: retry with backoff"
        )
