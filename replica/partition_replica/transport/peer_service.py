"""The Peer service, which other members call."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack
from typing import Any

from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc

from partition_replica.core.limits import PAYLOAD_BYTES_MAX, PAYLOADS_A_CALL_MAX, Limits
from partition_replica.core.services import PeerRequestService
from partition_replica.errors import InvalidArgument
from partition_replica.transport.chunks import (
    file_batches,
    file_chunks,
    in_time,
    payload_chunks,
    payload_groups,
)
from partition_replica.transport.failures import Failures, stream, unary
from partition_replica.transport.greetings import Greetings
from partition_replica.transport.raft_traffic import STREAM, NotCounted, RaftTraffic
from partition_replica.transport.streams import Streams


class PeerService(peer_pb2_grpc.PeerServicer):
    """Checks the hello of each stream, and passes its messages to the replica in order."""

    def __init__(
        self,
        replica: PeerRequestService,
        limits: Limits,
        failures: Failures,
        streams: Streams | None = None,
        *,
        greetings: Greetings | None = None,
        traffic: RaftTraffic | None = None,
    ) -> None:
        """By default, hellos name no port for Raft connections, and nothing is counted."""
        self._replica = replica
        self._limits = limits
        self.failures = failures
        self._streams = streams or Streams(limits.peer_streams_max)
        self._greetings = greetings or Greetings(replica)
        self._traffic = traffic or NotCounted()

    @stream
    def Raft(
        self, request: AsyncIterator[api.RaftBatch], context: Any
    ) -> AsyncGenerator[api.RaftReply, None]:
        return self._streams.through("Raft", self._raft(request))

    async def _raft(
        self, request: AsyncIterator[api.RaftBatch]
    ) -> AsyncGenerator[api.RaftReply, None]:
        sender = 0
        with ExitStack() as present:
            async for batch in request:
                if not sender:
                    if not batch.HasField("hello"):
                        raise InvalidArgument("the first batch of a stream must have a hello")
                    sender = self._greetings.let_in(batch.hello)
                    present.enter_context(self._greetings.present(sender))
                    yield api.RaftReply(hello=self._greetings.own())
                for message in batch.messages:
                    self._replica.receive(message, sender)
                if batch.messages:
                    size = sum(map(len, batch.messages))
                    self._traffic.received(STREAM, len(batch.messages), size)

    @unary
    async def InstallSnapshot(
        self, request: AsyncIterator[api.InstallSnapshotRequest], context: Any
    ) -> Any:
        with self._streams.open("InstallSnapshot"):
            messages = in_time(request, self._limits.stream_stall_s)
            first = await anext(messages, None)
            if first is None or not first.HasField("header"):
                raise InvalidArgument("the first message of a state transfer must have its header")
            _check_header(first.header)
            fetched = await self._replica.receive_state(
                first.header, payload_chunks(first.chunk, messages, "chunk")
            )
            return api.InstallSnapshotResponse(payloads_fetched=fetched)

    @unary
    async def GetSnapshotOffset(self, request: api.TransferHeader, context: Any) -> Any:
        _check_header(request)
        return api.TransferOffset(offset=self._replica.transfer_offset(request))

    @stream
    async def FetchPayload(
        self, request: api.FetchPayloadRequest, context: Any
    ) -> AsyncGenerator[api.PayloadChunk, None]:
        self._replica.check_peer(request.cluster_id, 0)
        path, size = self._replica.payload_file(request.digest)
        if request.offset > size:
            raise InvalidArgument(
                f"offset {request.offset} lies after the end of the payload, {size} bytes"
            )
        with self._streams.open("FetchPayload"):
            yield api.PayloadChunk(size=size)
            async for chunk in file_chunks(path, request.offset, self._limits.chunk_bytes):
                yield api.PayloadChunk(data=chunk)

    @stream
    async def FetchPayloads(
        self, request: api.FetchPayloadsRequest, context: Any
    ) -> AsyncGenerator[api.PayloadBatch, None]:
        self._replica.check_peer(request.cluster_id, 0)
        if len(request.digests) > PAYLOADS_A_CALL_MAX:
            raise InvalidArgument(
                f"{len(request.digests)} payloads requested; at most {PAYLOADS_A_CALL_MAX} are "
                "allowed per call"
            )
        with self._streams.open("FetchPayloads"):
            async for contents in file_batches(self._replica.payload_file, request.digests):
                yield api.PayloadBatch(contents=contents)

    @unary
    async def PushPayload(self, request: AsyncIterator[api.PayloadChunk], context: Any) -> Any:
        with self._streams.open("PushPayload"):
            messages = in_time(request, self._limits.stream_stall_s)
            first = await anext(messages, None)
            if first is None or not first.digest:
                raise InvalidArgument("the first message of a push must have the payload's digest")
            self._replica.check_peer(first.cluster_id, 0)
            if first.size > PAYLOAD_BYTES_MAX:
                raise InvalidArgument(
                    f"the payload has {first.size} bytes; at most {PAYLOAD_BYTES_MAX} are allowed"
                )
            existed = await self._replica.take_payload(
                first.digest, first.size, payload_chunks(first.data, messages, "data")
            )
            return api.PushPayloadResponse(existed=existed)

    @unary
    async def PushPayloads(
        self, request: AsyncIterator[api.PushPayloadsRequest], context: Any
    ) -> Any:
        with self._streams.open("PushPayloads"):
            messages = in_time(request, self._limits.stream_stall_s)
            await self._replica.take_payloads(payload_groups(self._of_the_group(messages)))
            return api.PushPayloadsResponse()

    async def _of_the_group(
        self, requests: AsyncIterator[api.PushPayloadsRequest]
    ) -> AsyncIterator[api.PushPayloadsRequest]:
        """Yields the same messages. Raises WrongCluster, NotBootstrapped for the first one."""
        checked = False
        async for request in requests:
            if not checked:
                self._replica.check_peer(request.cluster_id, 0)
                checked = True
            yield request


def _check_header(header: api.TransferHeader) -> None:
    """Raises InvalidArgument unless the header names both members. 0 is not "any member"."""
    if not header.sender or not header.receiver:
        raise InvalidArgument(
            "the header of a state transfer must name its sender and its receiver"
        )
