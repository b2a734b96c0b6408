"""The LogStore service, which applications call."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any

from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types

from partition_replica import __version__
from partition_replica.core.limits import (
    PAYLOAD_INLINE_BYTES_MAX,
    PROPOSAL_BYTES_MAX,
    Limits,
)
from partition_replica.core.model import Ineffective, LogEntry
from partition_replica.core.services import ApplicationService
from partition_replica.core.validation import check_key
from partition_replica.errors import InvalidArgument, Overloaded, ReplicaError
from partition_replica.ids import LSN
from partition_replica.transport.append_frames import FrameStream
from partition_replica.transport.chunks import in_time, payload_chunks, payload_groups
from partition_replica.transport.failures import Failures, abort, detail, stream, unary
from partition_replica.transport.get_frames import GetFrames
from partition_replica.transport.state_reading import (
    StateReadings,
    TreeListing,
    file_messages,
    keys_page,
    linearizable,
)
from partition_replica.transport.streams import StreamBytes, Streams, StreamWindow

logger = logging.getLogger(__name__)


class LogStoreService(log_store_pb2_grpc.LogStoreServicer):
    """Translates between gRPC messages and the replica's ApplicationService."""

    def __init__(  # noqa: PLR0913  # what the assembly watches
        self,
        replica: ApplicationService,
        limits: Limits,
        failures: Failures,
        streams: Streams | None = None,
        appends: StreamBytes | None = None,
        gets: StreamBytes | None = None,
        get_keys: Callable[[int], object] = lambda _: None,
        tls: Callable[[], api.TlsStatus] | None = None,
    ) -> None:
        """`appends`, `gets`: the bytes that all streams of one kind hold together. `get_keys` is
        called with the number of keys of each get frame. `tls`: what GetStatus reports of the TLS
        files; None without TLS."""
        self._tls = tls
        self._replica = replica
        self._limits = limits
        self.failures = failures
        self._streams = streams or Streams(limits.client_streams_max)
        self._states = StateReadings(replica, limits, failures.refused)
        self._appends = appends or StreamBytes(limits.append_bytes_total_max)
        held = gets or StreamBytes(limits.get_bytes_total_max)
        self._gets = GetFrames(replica, limits, failures.refused, held, get_keys)

    @unary
    async def OpenSession(self, request: api.OpenSessionRequest, context: Any) -> Any:
        self._replica.check_history(request.history_id, leading=True)
        session, time_to_live_ms = await self._replica.open_session(request.time_to_live_ms)
        return api.OpenSessionResponse(
            session_id=session,
            time_to_live_ms=time_to_live_ms,
            history_id=self._replica.history(),
        )

    @unary
    async def CloseSession(self, request: api.CloseSessionRequest, context: Any) -> Any:
        self._replica.check_history(request.history_id, leading=True)
        await self._replica.close_session(request.session_id)
        return api.CloseSessionResponse()

    @stream
    async def Append(
        self, request: AsyncIterator[api.AppendRequest], context: Any
    ) -> AsyncGenerator[api.AppendResponse, None]:
        limits = self._limits
        # Bounded by the window: there is one answer per request in progress.
        answers: asyncio.Queue[tuple[api.AppendResponse, int] | None] = asyncio.Queue()
        room = StreamWindow(limits.append_requests_max, limits.append_bytes_max, self._appends)
        # A dict, not a set: a simulation could not repeat the order of a set.
        running: dict[asyncio.Task[None], None] = {}

        async def answer(item: api.AppendRequest, size: int, history: str) -> None:
            try:
                response = await self._append(item, history)
            except Exception:  # without an answer the caller would wait forever
                logger.exception("an append failed: this is a defect of the replica")
                response = api.AppendResponse(request_id=item.request_id)
                response.error.reason = types.REASON_OUTCOME_UNKNOWN
                response.error.message = (
                    "internal error; details are in the replica's log. The append may have taken "
                    "effect: retry the same sequence"
                )
            answer_size = response.ByteSize()
            room.shrink(size, answer_size)  # from here on, only the answer takes space
            answers.put_nowait((response, answer_size))

        async def read() -> None:
            history = ""
            try:
                async for item in request:
                    # A stream belongs to the history that it named first. If that is refused, the
                    # messages after it must not be written either.
                    history = history or item.history_id
                    size = item.ByteSize()
                    if not await room.take(size):
                        answers.put_nowait((self._overloaded(item.request_id), 0))
                        continue
                    task = asyncio.create_task(answer(item, size, history))
                    running[task] = None
                    task.add_done_callback(running.pop)
                if running:
                    await asyncio.wait(running)
            finally:
                answers.put_nowait(None)

        with self._streams.open("Append"):
            reader = asyncio.create_task(read())
            try:
                while (found := await answers.get()) is not None:
                    response, size = found
                    yield response
                    # It is sent or in flight: gRPC asks for the next answer only then.
                    room.give(size)
                await reader  # an error of the request stream ends the call, too
            finally:
                reader.cancel()
                for task in list(running):
                    task.cancel()
                room.close()

    @stream
    def AppendFrames(
        self, request: AsyncIterator[api.AppendFrame], context: Any
    ) -> AsyncGenerator[api.AppendFrameResponse, None]:
        limits = self._limits
        frames = FrameStream(
            self._replica,
            self.failures,
            StreamWindow(limits.append_requests_max, limits.append_bytes_max, self._appends),
            bytes_total_max=limits.append_bytes_total_max,
        )
        return self._streams.through("AppendFrames", frames.serve(request))

    def _overloaded(self, request_id: int) -> api.AppendResponse:
        error = Overloaded(
            f"appends in progress here hold up to {self._limits.append_bytes_total_max} bytes, the "
            "maximum: retry with backoff"
        )
        self.failures.refused(error)
        return api.AppendResponse(request_id=request_id, error=detail(error))

    async def _append(self, item: api.AppendRequest, history: str) -> api.AppendResponse:
        response = api.AppendResponse(request_id=item.request_id)
        try:
            self._replica.check_history(history, leading=True)
            self._replica.check_history(item.history_id)
            applied = await self._replica.append(
                item.proposal, retry=item.retry, wait_applied=item.wait_applied
            )
        except ReplicaError as error:
            self.failures.refused(error)
            response.error.CopyFrom(detail(error))
            return response
        response.lsn, response.term = applied.index, applied.term
        if applied.result is not None:
            response.lsn, response.term = applied.result.lsn, applied.result.term
            response.outcomes.extend(applied.result.outcomes)  # type: ignore[arg-type]
        return response

    @stream
    def Read(
        self, request: api.ReadRequest, context: Any
    ) -> AsyncGenerator[api.ReadResponse, None]:
        if request.to_lsn and request.to_lsn < request.from_lsn:
            raise InvalidArgument(
                f"to_lsn {request.to_lsn} lies before from_lsn {request.from_lsn}: set it to the "
                "LSN after the last entry to read, or to 0 for no end"
            )
        return self._streams.through("Read", self._read(request))

    async def _read(self, request: api.ReadRequest) -> AsyncGenerator[api.ReadResponse, None]:
        position = request.from_lsn
        while True:
            self._replica.check_history(request.history_id)
            entries, position = self._replica.committed_entries(
                position, self._limits.read_batch_bytes_max
            )
            unapplied = self._replica.unapplied(entries)
            for entry in entries:
                if request.to_lsn and entry.index >= request.to_lsn:
                    return
                yield _read_response(entry, unapplied)
            if request.to_lsn and position >= request.to_lsn:
                return
            if not entries:
                if not request.follow:
                    return
                await self._replica.advanced()

    @unary
    async def GetKey(self, request: api.GetKeyRequest, context: Any) -> Any:
        check_key(request.key, "GetKey")
        state = await self._replica.read_point(
            linearizable=linearizable(request.consistency), at_follower=request.at_follower
        )
        value, applied = state.get_value(request.key)
        return api.GetKeyResponse(found=value is not None, value=value or b"", applied=applied)

    @stream
    def GetFrames(
        self, request: AsyncIterator[api.GetFrame], context: Any
    ) -> AsyncGenerator[api.GetFrameResponse, None]:
        return self._streams.through("GetFrames", self._gets.serve(request))

    @unary
    async def ListKeys(self, request: api.ListKeysRequest, context: Any) -> Any:
        state = await self._replica.read_point(linearizable=linearizable(request.consistency))
        return keys_page(state, request, self._limits)

    @stream
    def ListTree(
        self, request: api.ListTreeRequest, context: Any
    ) -> AsyncGenerator[api.ListTreeResponse, None]:
        listing, asked = TreeListing(request), linearizable(request.consistency)
        return self._streams.through("ListTree", self._list_tree(listing, asked))

    async def _list_tree(
        self, listing: TreeListing, asked: bool
    ) -> AsyncGenerator[api.ListTreeResponse, None]:
        yield listing.page(await self._replica.read_point(linearizable=asked))
        while not listing.done:
            yield listing.page(await self._replica.read_point(linearizable=False))

    @stream
    def ReadFile(
        self, request: api.ReadFileRequest, context: Any
    ) -> AsyncGenerator[api.ReadFileResponse, None]:
        return self._streams.through("ReadFile", self._read_file(request))

    async def _read_file(
        self, request: api.ReadFileRequest
    ) -> AsyncGenerator[api.ReadFileResponse, None]:
        opened = await self._replica.open_file(
            request.path, request.offset, linearizable=linearizable(request.consistency)
        )
        try:
            async with aclosing(file_messages(opened, request, self._limits)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._replica.close_file(opened)

    @stream
    def ReadState(
        self, request: AsyncIterator[api.ReadStateRequest], context: Any
    ) -> AsyncGenerator[api.ReadStateResponse, None]:
        messages = self._states.read(request, partial(abort, context))
        return self._streams.through("ReadState", messages)

    @unary
    async def UploadPayload(
        self, request: AsyncIterator[api.UploadPayloadRequest], context: Any
    ) -> Any:
        with self._streams.open("UploadPayload"):
            messages = in_time(request, self._limits.stream_stall_s)
            first = await anext(messages, None)
            if first is None or not first.HasField("payload"):
                raise InvalidArgument(
                    "the first message of an upload must have `payload` with the payload's digest "
                    "and size"
                )
            if first.payload.data:
                raise InvalidArgument(
                    "payload.data is not allowed in an upload: send the content in `chunk`"
                )
            holders = await self._replica.upload(
                first.payload.digest,
                first.payload.size,
                payload_chunks(first.chunk, messages, "chunk"),
            )
            return api.UploadPayloadResponse(holders=holders)

    @unary
    async def UploadPayloads(
        self, request: AsyncIterator[api.UploadPayloadsRequest], context: Any
    ) -> Any:
        with self._streams.open("UploadPayloads"):
            messages = in_time(request, self._limits.stream_stall_s)
            await self._replica.upload_together(payload_groups(messages))
            return api.UploadPayloadsResponse()

    @unary
    async def RegisterConsumer(self, request: api.RegisterConsumerRequest, context: Any) -> Any:
        self._replica.check_history(request.history_id)
        lsn, mark = await self._replica.consumers.register(request.name, request.lsn)
        return _consumer(request.name, lsn, mark)

    @unary
    async def AcknowledgeConsumer(
        self, request: api.AcknowledgeConsumerRequest, context: Any
    ) -> Any:
        self._replica.check_history(request.history_id)
        lsn, mark = await self._replica.consumers.acknowledge(request.name, request.lsn)
        return _consumer(request.name, lsn, mark)

    @unary
    async def RemoveConsumer(self, request: api.RemoveConsumerRequest, context: Any) -> Any:
        self._replica.check_history(request.history_id)
        await self._replica.consumers.remove(request.name)
        return api.RemoveConsumerResponse()

    @unary
    async def ListConsumers(self, request: api.ListConsumersRequest, context: Any) -> Any:
        found, mark = self._replica.consumers.list()
        return api.ListConsumersResponse(
            consumers=[api.Consumer(name=name, lsn=lsn) for name, lsn in found],
            low_water_mark=mark,
        )

    @unary
    async def GetStatus(self, request: api.GetStatusRequest, context: Any) -> Any:
        status = self._replica.status()
        response = api.GetStatusResponse(
            cluster_id=status.cluster,
            member_id=status.member,
            incarnation=status.incarnation,
            role=status.role,
            term=status.term,
            first_index=status.first_index,
            last_index=status.last_index,
            last_term=status.last_term,
            committed=status.committed,
            applied=status.applied,
            configuration_changing=status.configuration_changing,
            disk_full=status.disk_full,
            disk_free_bytes=status.disk_free_bytes,
            disk_total_bytes=status.disk_total_bytes,
            serving=status.serving,
            session_count=status.session_count,
            payload_inline_bytes_max=PAYLOAD_INLINE_BYTES_MAX,
            proposal_bytes_max=PROPOSAL_BYTES_MAX,
            version=__version__,
        )
        response.standalone = status.standalone
        response.stored_from = status.stored_from
        response.low_water_mark = status.low_water_mark
        response.history_id = status.history
        if self._tls is not None:
            response.tls.CopyFrom(self._tls())
        if status.backfill is not None:
            response.backfill.from_lsn = status.backfill.first
            response.backfill.next_lsn = status.backfill.next
            response.backfill.target_lsn = status.backfill.target
            response.backfill.term = status.backfill.term
        if status.leader[0]:
            response.leader.CopyFrom(
                types.LeaderHint(member_id=status.leader[0], address=status.leader[1])
            )
        for member in status.members:
            response.members.add(
                member_id=member.member,
                address=member.address,
                role="voter" if member.voter else "learner",
                matched=member.matched,
                recently_active=member.recently_active,
                progress=member.progress,
            )
        return response


def _read_response(
    entry: LogEntry, unapplied: Mapping[LSN, Ineffective | None]
) -> api.ReadResponse:
    response = api.ReadResponse(
        lsn=entry.index, term=entry.term, configuration_change=entry.kind != 0
    )
    if not entry.data or entry.kind:
        return response
    response.body.ParseFromString(entry.data)
    if response.body.WhichOneof("body") not in ("proposal", "imported"):
        return response
    if entry.index not in unapplied:
        response.effect = api.EFFECT_APPLIED
    elif (note := unapplied[entry.index]) is None:
        pass  # not known
    elif note.whole:
        response.effect = api.EFFECT_NONE
    else:
        response.effect = api.EFFECT_PARTIAL
        response.outcomes.extend(note.outcomes)  # type: ignore[arg-type]
    return response


def _consumer(name: str, lsn: int, mark: int) -> api.ConsumerResponse:
    return api.ConsumerResponse(consumer=api.Consumer(name=name, lsn=lsn), low_water_mark=mark)
