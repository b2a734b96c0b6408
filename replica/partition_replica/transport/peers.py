"""The client for the other members: a link for Raft messages, and calls for payloads and state.

A slow or dead member costs only a bounded queue. Messages that do not fit are dropped, and Raft
sends them again.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
from partition_proto.connection.renewed import Heard
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc
from partition_proto.v1 import types_pb2 as types

from partition_replica.config import TlsFiles
from partition_replica.core.limits import PAYLOAD_BATCHED_BYTES_MAX, Limits
from partition_replica.core.payloads import ArrivingPayload
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import NotFound, PayloadMismatch
from partition_replica.ids import Digest
from partition_replica.transport.channels import peer_credentials
from partition_replica.transport.chunks import file_batches, file_chunks
from partition_replica.transport.payload_link import NoConnection
from partition_replica.transport.raft_link import LinkHooks, RaftLink, Security
from partition_replica.transport.raft_traffic import CONNECTION, STREAM, NotCounted, RaftTraffic

PUSH_TIMEOUT_S = 3600.0
SNAPSHOT_TIMEOUT_S = 6 * 3600.0
OFFSET_TIMEOUT_S = 10.0


class Peers:
    """Implements core.ports.PeerTransport."""

    def __init__(  # noqa: PLR0913  # takes its parts from the assembly
        self,
        own_member: int,
        limits: Limits,
        tls: TlsFiles | None,
        *,
        hello: Callable[[], api.Hello],
        unreachable: Callable[[int], None],
        dropped: Callable[[int], None],
        snapshot_sent: Callable[[int], None],
        refused: Callable[[str], None] = lambda _: None,
        files_heard: Heard = lambda _: None,
        traffic: RaftTraffic | None = None,
        pushed: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Callbacks: `dropped` gets the number of dropped messages, `snapshot_sent` the bytes of
        state files sent, `refused` the reason why a member refuses us or TLS to it fails,
        `files_heard` the problem of changed TLS files or None, `pushed` the way of each payload
        that a member has stored: STREAM or CONNECTION. `traffic`: by default, nothing is
        counted."""
        self._own = own_member
        self._limits = limits
        credentials = peer_credentials(tls, files_heard)
        # Read at the start. If the files are invalid when the first member is dialled, which may be
        # months later, these stay in use.
        credentials.current()
        self._security = Security(credentials)
        self._make_hello = hello
        self._hooks = LinkHooks(self.hello, unreachable, refused, traffic or NotCounted())
        self._dropped = dropped
        self._snapshot_sent = snapshot_sent
        self._pushed = pushed
        self._addresses: dict[int, str] = {}
        self._learned: dict[int, str] = {}
        self._peers: dict[int, RaftLink] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def hello(self, member: int) -> api.Hello:
        hello = self._make_hello()
        hello.to_member_id = member
        return hello

    def send(self, member: int, messages: list[bytes]) -> None:
        peer = self._peer(member)
        dropped = len(messages) if peer is None else peer.send(messages)
        if dropped:
            self._dropped(dropped)

    def set_addresses(self, addresses: dict[int, str]) -> None:
        self._addresses = dict(addresses)
        self._learned = {m: a for m, a in self._learned.items() if not addresses or m in addresses}
        for member, peer in list(self._peers.items()):
            if self._address(member) != peer.address:
                self._close(member)

    def learn_address(self, member: int, address: str) -> None:
        """Until a new member has the configuration, it learns addresses only from hellos."""
        if member not in self._addresses and address:
            self._learned[member] = address

    async def push_payload(self, member: int, digest: Digest, file: Path, size: int) -> None:
        with suppress(NoConnection):
            await self._connected(member).payloads.push(digest, file, size)
            self._pushed(CONNECTION)
            return
        source = _Source(file, 0, size, self._limits.chunk_bytes)

        async def requests() -> AsyncIterator[api.PayloadChunk]:
            cluster = self._make_hello().cluster_id
            yield api.PayloadChunk(cluster_id=cluster, digest=digest, size=size)
            async for chunk in source.chunks():
                yield api.PayloadChunk(data=chunk)

        with source.blamed(), _failures(member):
            await self._connected(member).stub.PushPayload(requests(), timeout=PUSH_TIMEOUT_S)
        self._pushed(STREAM)

    async def push_arriving(
        self, member: int, digest: Digest, size: int, arriving: ArrivingPayload
    ) -> None:
        with suppress(NoConnection):
            await self._connected(member).payloads.push_arriving(digest, size, arriving)
            self._pushed(CONNECTION)
            return

        async def requests() -> AsyncIterator[api.PayloadChunk]:
            cluster = self._make_hello().cluster_id
            yield api.PayloadChunk(cluster_id=cluster, digest=digest, size=size)
            async for chunk in arriving.chunks():
                yield api.PayloadChunk(data=chunk)

        with _failures(member):
            await self._connected(member).stub.PushPayload(requests(), timeout=PUSH_TIMEOUT_S)
        self._pushed(STREAM)

    async def push_payloads(self, member: int, blobs: Sequence[tuple[Digest, Path, int]]) -> None:
        source = _Sources(blobs)

        async def requests() -> AsyncIterator[api.PushPayloadsRequest]:
            cluster = self._make_hello().cluster_id
            async for payloads in source.messages():
                yield api.PushPayloadsRequest(cluster_id=cluster, payloads=payloads)

        try:
            with source.blamed(), _failures(member):
                await self._connected(member).stub.PushPayloads(requests(), timeout=PUSH_TIMEOUT_S)
        except PeerFailed as failed:
            if not (_unimplemented(failed) or _cut_short(failed)):
                raise
            for digest, file, size in blobs:
                await self.push_payload(member, digest, file, size)

    async def fetch_payload(
        self, member: int, digest: Digest, offset: int = 0
    ) -> tuple[int, AsyncGenerator[bytes, None]]:
        cluster = self._make_hello().cluster_id
        request = api.FetchPayloadRequest(cluster_id=cluster, digest=digest, offset=offset)
        call = self._connected(member).stub.FetchPayload(request, timeout=PUSH_TIMEOUT_S)
        first = await self._next(member, call)
        if first is grpc.aio.EOF:
            raise PayloadMismatch(f"member {member:x} sent no content for payload {digest.hex()}")

        async def chunks() -> AsyncGenerator[bytes, None]:
            try:
                while (chunk := await self._next(member, call)) is not grpc.aio.EOF:
                    yield chunk.data
            finally:
                call.cancel()

        return first.size, chunks()

    async def fetch_payloads(
        self, member: int, digests: Sequence[Digest]
    ) -> AsyncGenerator[list[bytes], None]:
        request = api.FetchPayloadsRequest(
            cluster_id=self._make_hello().cluster_id, digests=digests
        )
        call = self._connected(member).stub.FetchPayloads(request, timeout=PUSH_TIMEOUT_S)
        try:
            while (batch := await self._next(member, call)) is not grpc.aio.EOF:
                yield list(batch.contents)
            return
        except PeerFailed as failed:
            if not _unimplemented(failed):
                raise
        finally:
            call.cancel()
        for digest in digests:
            yield [await self._fetch_whole(member, digest)]

    async def _next(self, member: int, call: Any) -> Any:
        """Returns the next message of a stream, or EOF."""
        stall_s = self._limits.fetch_stall_s
        with _failures(member):
            try:
                async with asyncio.timeout(stall_s):
                    return await call.read()
            except TimeoutError as error:
                raise PeerFailed(f"member {member:x} sent no message for {stall_s} s") from error

    async def _fetch_whole(self, member: int, digest: Digest) -> bytes:
        """Fetches one payload of at most PAYLOAD_BATCHED_BYTES_MAX."""
        size, chunks = await self.fetch_payload(member, digest)
        content = b""
        async with aclosing(chunks):
            async for chunk in chunks:
                content += chunk
                if len(content) > PAYLOAD_BATCHED_BYTES_MAX:
                    break
        if max(size, len(content)) > PAYLOAD_BATCHED_BYTES_MAX:
            raise PayloadMismatch(
                f"payload {digest.hex()} has {max(size, len(content))} bytes at member "
                f"{member:x}; at most {PAYLOAD_BATCHED_BYTES_MAX} are allowed here"
            )
        return content

    async def send_state(
        self, member: int, message: bytes, file: Path, size: int, digest: bytes
    ) -> int:
        header = api.TransferHeader(
            cluster_id=self._make_hello().cluster_id,
            sender=self._own,
            receiver=member,
            message=message,
            size=size,
            digest=digest,
        )

        stub = self._connected(member).stub
        header.offset = await self._snapshot_offset(member, stub, header)
        source = _Source(file, header.offset, size, self._limits.chunk_bytes)

        async def requests() -> AsyncIterator[api.InstallSnapshotRequest]:
            yield api.InstallSnapshotRequest(header=header)
            async for chunk in source.chunks():
                yield api.InstallSnapshotRequest(chunk=chunk)
                self._snapshot_sent(len(chunk))

        with source.blamed(), _failures(member):
            response = await stub.InstallSnapshot(requests(), timeout=SNAPSHOT_TIMEOUT_S)
        return int(response.payloads_fetched)

    async def _snapshot_offset(
        self, member: int, stub: peer_pb2_grpc.PeerStub, header: api.TransferHeader
    ) -> int:
        try:
            with _failures(member):
                found = await stub.GetSnapshotOffset(header, timeout=OFFSET_TIMEOUT_S)
        except PeerFailed as failed:
            if _unimplemented(failed):
                return 0
            raise
        return int(found.offset)

    async def close(self) -> None:
        for member in list(self._peers):
            self._close(member)
        # Also those that a change of address began to close.
        await asyncio.gather(*self._closing)

    def _address(self, member: int) -> str:
        return self._addresses.get(member) or self._learned.get(member, "")

    def _peer(self, member: int) -> RaftLink | None:
        peer = self._peers.get(member)
        address = self._address(member)
        if peer is not None and peer.address == address:
            return peer
        if peer is not None:
            self._close(member)
        if not address or member == self._own:
            return None
        peer = self._peers[member] = RaftLink(
            member, address, self._limits, self._security, self._hooks
        )
        return peer

    def _connected(self, member: int) -> RaftLink:
        peer = self._peer(member)
        if peer is None:
            raise PeerFailed(f"the address of member {member:x} is not known")
        return peer

    def _close(self, member: int) -> None:
        task = asyncio.create_task(self._peers.pop(member).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


class _Source:
    """A local file that is sent. An error of the file must not be raised inside gRPC's request
    iterator, because that cancels the caller. Instead the content ends early, and the receiver
    refuses it."""

    def __init__(self, file: Path, offset: int, size: int, chunk_bytes: int) -> None:
        self._file = file
        self._offset = offset
        self._left = size - offset
        self._chunk_bytes = chunk_bytes
        self._fault: Exception | str = ""

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            found = file_chunks(self._file, self._offset, self._chunk_bytes)
            async with aclosing(found):
                async for chunk in found:
                    yield chunk
                    self._left -= len(chunk)
            if self._left > 0:
                self._fault = f"it is {self._left} bytes too short"
        except (NotFound, OSError) as error:
            self._fault = error

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Raises the file's error instead of the call's. The error is marked as refused: a retry
        would fail in the same way."""
        try:
            yield
        except PeerFailed as failed:
            if not self._fault:
                raise
            raise PeerFailed(f"{self._file} can't be sent: {self._fault}", refused=True) from failed


class _Sources:
    """Local files of small payloads that are sent together. Errors as in `_Source`."""

    def __init__(self, blobs: Sequence[tuple[Digest, Path, int]]) -> None:
        self._files = {bytes(digest): (file, size) for digest, file, size in blobs}
        self._fault: Exception | None = None

    async def messages(self) -> AsyncIterator[list[types.PayloadContent]]:
        digests = list(self._files)
        done = 0
        try:
            async for contents in file_batches(self._files.__getitem__, digests):
                some = digests[done : done + len(contents)]
                done += len(contents)
                yield [
                    types.PayloadContent(digest=digest, content=content)
                    for digest, content in zip(some, contents, strict=True)
                ]
        except (NotFound, OSError) as error:
            self._fault = error

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Raises the error of a file instead of the call's, and also if the member took what it
        got before it."""
        failed: PeerFailed | None = None
        try:
            yield
        except PeerFailed as error:
            failed = error
        if self._fault is not None:
            raise PeerFailed(f"payloads can't be sent: {self._fault}", refused=True) from failed
        if failed is not None:
            raise failed


def _unimplemented(failed: PeerFailed) -> bool:
    """Whether the member, of an earlier version, does not have the RPC."""
    cause = failed.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.UNIMPLEMENTED


def _cut_short(failed: PeerFailed) -> bool:
    """Whether grpcio tells of its own failed write instead of the member's answer. That happens if
    a member answers UNIMPLEMENTED while a message is being written."""
    cause = failed.__cause__
    return isinstance(cause, grpc.aio.AioRpcError) and cause.code() is grpc.StatusCode.INTERNAL


@contextmanager
def _failures(member: int) -> Iterator[None]:
    """Raises errors of a call to a member as PeerFailed."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise PeerFailed(
            f"member {member:x}: {error.code().name} {error.details()}",
            refused=error.code() is grpc.StatusCode.INVALID_ARGUMENT,
        ) from error
    except grpc.aio.UsageError as error:
        raise PeerFailed(f"member {member:x}: its channel was closed: {error}") from error
    except asyncio.CancelledError as error:
        # Closing a channel, for example after a change of address, cancels its calls and with them
        # the tasks that wait for them. Those tasks must not end.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise PeerFailed(f"member {member:x}: its channel was closed") from error
