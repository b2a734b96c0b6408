"""A LogStore server of this process that leads: the state machine over dictionaries, no Raft, no
disk. Tests of the client take it where a real replica would only cost time, and change what it
answers by subclassing it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from partition_client import AsyncClient
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.apply import apply_body
from partition_replica.core.model import TreeEntry
from partition_replica.core.paths import check_path
from partition_replica.errors import NotFound, PayloadMismatch, ReplicaError
from partition_replica.ids import LSN, Digest, Term
from partition_replica.storage.memory import MemoryView
from partition_replica.transport.failures import Failures, abort, detail, stream, unary

MEMBER = 7
TERM = 3


class StandInReplica(log_store_pb2_grpc.LogStoreServicer):
    """Serves from `view`. `calls` counts the calls of each method."""

    def __init__(self) -> None:
        self.view = MemoryView()
        self.uploads: dict[bytes, bytes] = {}
        self.lsn = 1
        self.address = ""
        self.calls: dict[str, int] = {}
        self._advanced = asyncio.Event()
        self.serving_as = "leader"
        self.term = TERM
        self.history = ""
        self.consumers: dict[str, int] = {}
        self.failures = Failures(lambda _: None, lambda _: None)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        """Serves on loopback; gives the address."""
        server = grpc.aio.server()
        log_store_pb2_grpc.add_LogStoreServicer_to_server(self, server)
        self.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        try:
            yield self.address
        finally:
            await server.stop(None)

    @asynccontextmanager
    async def client(self, **options: Any) -> AsyncIterator[AsyncClient]:
        """A client of this replica while it serves."""
        async with self.serving() as address, AsyncClient([address], **options) as client:
            yield client

    def advance(self) -> None:
        """One more entry of the log, without content."""
        self.lsn += 1
        self._advanced.set()

    def put(self, path: bytes, content: bytes, mode: int = 0o644) -> None:
        """Puts a file into the tree; its directory exists."""
        payload = types.Payload(digest=_digest(content), size=len(content), mode=mode, data=content)
        link = types.CreateHardLink(payload=1, destination_path=path)
        self._apply([types.Operation(create_hard_link=link)], [payload])

    def _count(self, method: str) -> None:
        self.calls[method] = self.calls.get(method, 0) + 1

    def _apply(self, operations: Any, payloads: Any) -> bytes:
        self.lsn += 1
        imported = types.ImportedEntry(operations=operations, payloads=payloads)
        body = types.EntryBody(imported=imported)
        applied = apply_body(self.view, LSN(self.lsn), Term(TERM), body)
        for payload in payloads:
            # Large payloads live beside the log of a real replica.
            content = payload.data or self.uploads.get(payload.digest, b"")
            self.view.contents[Digest(payload.digest)] = content
        return applied.result.outcomes if applied.result else b""

    # --- the service --------------------------------------------------------------------------

    @unary
    async def GetStatus(self, request: api.GetStatusRequest, context: Any) -> Any:
        self._count("GetStatus")
        return self.status()

    def status(self) -> api.GetStatusResponse:
        response = api.GetStatusResponse(
            member_id=MEMBER,
            role=self.serving_as,
            term=self.term,
            serving=self.serving_as == "leader",
            applied=self.lsn,
            first_index=2,
            history_id=self.history,
        )
        if response.serving:
            response.leader.member_id, response.leader.address = MEMBER, self.address
        return response

    @unary
    async def OpenSession(self, request: api.OpenSessionRequest, context: Any) -> Any:
        self._count("OpenSession")
        self.open_session()
        return api.OpenSessionResponse(session_id=1, time_to_live_ms=600_000)

    def open_session(self) -> None:
        """Raises ReplicaError to refuse one."""

    @unary
    async def CloseSession(self, request: api.CloseSessionRequest, context: Any) -> Any:
        return api.CloseSessionResponse()

    async def Append(
        self, request: AsyncIterator[api.AppendRequest], context: Any
    ) -> AsyncIterator[api.AppendResponse]:
        async for item in request:
            response = api.AppendResponse(request_id=item.request_id)
            try:
                self.append(item, response)
            except ReplicaError as error:
                response.error.CopyFrom(detail(error))
            yield response

    def append(self, item: api.AppendRequest, response: api.AppendResponse) -> None:
        outcomes = self._apply(item.proposal.operations, item.proposal.payloads)
        response.lsn, response.term = self.lsn, TERM
        response.outcomes.extend(outcomes)  # type: ignore[arg-type]

    @unary
    async def GetKey(self, request: api.GetKeyRequest, context: Any) -> Any:
        value = self.view.get_value(request.key)
        return api.GetKeyResponse(found=value is not None, value=value or b"", applied=self.lsn)

    async def GetFrames(
        self, request: AsyncIterator[api.GetFrame], context: Any
    ) -> AsyncIterator[api.GetFrameResponse]:
        self._count("GetFrames")
        async for frame in request:
            response = api.GetFrameResponse(frame_id=frame.frame_id, applied=self.lsn, last=True)
            try:
                self.get_frame(frame, response)
            except ReplicaError as error:
                response.error.CopyFrom(detail(error))
            yield response

    def get_frame(self, frame: api.GetFrame, response: api.GetFrameResponse) -> None:
        """Raises ReplicaError to refuse it."""
        values = [self.view.get_value(key) for key in frame.keys]
        response.values.extend(value or b"" for value in values)
        response.absent.extend(n for n, value in enumerate(values) if value is None)

    @unary
    async def ListKeys(self, request: api.ListKeysRequest, context: Any) -> Any:
        items = [
            api.KeyValue(key=key, value=value)
            for key, value in sorted(self.view.values.items())
            if request.start <= key and (not request.end or key < request.end)
        ]
        return api.ListKeysResponse(items=items, applied=self.lsn)

    @stream
    async def ListTree(
        self, request: api.ListTreeRequest, context: Any
    ) -> AsyncIterator[api.ListTreeResponse]:
        self._count("ListTree")
        if request.path:
            check_path(request.path)
            node = self.view.get_tree_entry(request.path)
            if node is None or not node.directory:
                raise NotFound(f"{request.path!r} is not a directory of the tree")
        start = request.path + b"/" if request.path else b""
        for path, node in sorted(self.view.nodes.items()):
            inside = path.removeprefix(start)
            if path.startswith(start) and (request.recursive or b"/" not in inside):
                yield api.ListTreeResponse(entries=[_entry(path, node)], applied=self.lsn)

    @stream
    async def ReadFile(
        self, request: api.ReadFileRequest, context: Any
    ) -> AsyncIterator[api.ReadFileResponse]:
        check_path(request.path)
        node = self.view.get_tree_entry(request.path)
        if node is None or node.directory:
            raise NotFound(f"{request.path!r} is not a file of the tree")
        yield api.ReadFileResponse(entry=_entry(request.path, node))
        content = self.view.contents[node.digest]
        if content[request.offset :]:
            yield api.ReadFileResponse(data=content[request.offset :])

    async def UploadPayload(
        self, request: AsyncIterator[api.UploadPayloadRequest], context: Any
    ) -> Any:
        content, digest = bytearray(), b""
        async for item in request:
            digest = item.payload.digest or digest
            content += item.chunk
        if _digest(bytes(content)) != digest:
            await abort(context, PayloadMismatch("the content's digest differs"))
        self.uploads[digest] = bytes(content)
        return api.UploadPayloadResponse(holders=[MEMBER])

    @unary
    async def UploadPayloads(
        self, request: AsyncIterator[api.UploadPayloadsRequest], context: Any
    ) -> Any:
        self._count("UploadPayloads")
        async for item in request:
            for payload in item.payloads:
                if _digest(payload.content) != payload.digest:
                    raise PayloadMismatch("the content's digest differs")
                self.uploads[payload.digest] = payload.content
        return api.UploadPayloadsResponse()

    @unary
    async def ListConsumers(self, request: api.ListConsumersRequest, context: Any) -> Any:
        found = [api.Consumer(name=name, lsn=lsn) for name, lsn in self.consumers.items()]
        return api.ListConsumersResponse(consumers=found)

    @unary
    async def RemoveConsumer(self, request: api.RemoveConsumerRequest, context: Any) -> Any:
        if self.consumers.pop(request.name, None) is None:
            raise NotFound(f"there is no consumer {request.name!r} at this replica")
        return api.RemoveConsumerResponse()

    async def Read(self, request: api.ReadRequest, context: Any) -> AsyncIterator[api.ReadResponse]:
        self._count("Read")
        lsn = max(request.from_lsn, 2)
        while True:
            while lsn <= self.lsn:
                yield api.ReadResponse(lsn=lsn, term=TERM)
                lsn += 1
            if not request.follow:
                return
            self._advanced.clear()
            await self._advanced.wait()


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _entry(path: bytes, node: TreeEntry) -> api.TreeEntry:
    return api.TreeEntry(
        path=path, directory=node.directory, mode=node.mode, size=node.size, digest=node.digest
    )
