"""Members that answer a peer's calls over loopback: well, late, as an earlier version, or never."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc
from partition_replica.core.limits import (
    Limits,
)
from partition_replica.errors import NotFound
from partition_replica.ids import Digest
from partition_replica.transport.failures import Failures
from partition_replica.transport.peer_service import PeerService
from partition_replica.transport.peers import Peers


class Here:
    """The replica that serves: who it lets in, and its files."""

    def __init__(self, files: dict[Digest, Path]) -> None:
        self.files = files

    def check_peer(self, *_: object) -> None:
        pass

    def payload_file(self, digest: bytes) -> tuple[Path, int]:
        path = self.files.get(Digest(digest))
        if path is None:
            raise NotFound("it is not here")
        return path, path.stat().st_size


class Earlier(peer_pb2_grpc.PeerServicer):
    """A member of a version that knows of no `FetchPayloads`."""

    def __init__(self, service: PeerService) -> None:
        self.FetchPayload = service.FetchPayload  # type: ignore[assignment]


async def contents_of(peers: Peers, digests: list[Digest]) -> list[bytes]:
    async with aclosing(peers.fetch_payloads(1, digests)) as batches:
        return [content async for batch in batches for content in batch]


@pytest.fixture
def payloads(tmp_path: Path) -> dict[Digest, Path]:
    found = {}
    for number in range(5):
        content = os.urandom(700_000 + number)
        digest = Digest(hashlib.sha256(content).digest())
        found[digest] = tmp_path / digest.hex()
        found[digest].write_bytes(content)
    return found


class Stalling(peer_pb2_grpc.PeerServicer):
    """Begins each call, and goes no further. `after`: how many messages it gives, or takes."""

    def __init__(self, after: int) -> None:
        self._after = after
        self.stalled = asyncio.Event()

    async def _stall(self) -> None:
        self.stalled.set()
        await asyncio.Event().wait()

    async def FetchPayload(self, request: Any, context: Any) -> AsyncIterator[api.PayloadChunk]:
        if self._after:
            yield api.PayloadChunk(size=100)
            yield api.PayloadChunk(data=b"some")
        await self._stall()

    async def FetchPayloads(self, request: Any, context: Any) -> AsyncIterator[api.PayloadBatch]:
        if self._after:
            yield api.PayloadBatch(contents=[b"one"])
        await self._stall()

    async def PushPayload(self, request: AsyncIterator[Any], context: Any) -> Any:
        await anext(aiter(request))
        await self._stall()

    async def GetSnapshotOffset(self, request: Any, context: Any) -> Any:
        if not self._after:
            await self._stall()
        return api.TransferOffset(offset=0)

    async def InstallSnapshot(self, request: AsyncIterator[Any], context: Any) -> Any:
        await anext(aiter(request))
        await self._stall()


class Reading(peer_pb2_grpc.PeerServicer):
    """Takes everything, and refuses what is short, as a receiver does."""

    async def PushPayload(self, request: AsyncIterator[Any], context: Any) -> Any:
        async for _ in request:
            pass
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "short")

    async def GetSnapshotOffset(self, request: Any, context: Any) -> Any:
        return api.TransferOffset(offset=0)

    async def InstallSnapshot(self, request: AsyncIterator[Any], context: Any) -> Any:
        async for _ in request:
            pass
        await context.abort(grpc.StatusCode.UNAVAILABLE, "short")


def serving(here: Here) -> PeerService:
    return PeerService(
        here,  # type: ignore[arg-type]
        Limits(),
        Failures(lambda _: None, lambda _: None),
    )


@asynccontextmanager
async def connected(servicer: Any, limits: Limits | None = None) -> AsyncIterator[Peers]:
    """A member that asks 1, which answers over loopback."""
    server = grpc.aio.server(options=[("grpc.max_send_message_length", 16 * 1024**2)])
    peer_pb2_grpc.add_PeerServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    peers = Peers(
        2,
        limits or Limits(),
        None,
        hello=lambda: api.Hello(cluster_id="c"),
        unreachable=lambda _: None,
        dropped=lambda _: None,
        snapshot_sent=lambda _: None,
    )
    peers.set_addresses({1: f"127.0.0.1:{port}"})
    try:
        yield peers
    finally:
        await peers.close()
        await server.stop(None)


async def together(peers: Peers, file: Path) -> None:
    await contents_of(peers, [Digest(b"d" * 32)])


async def one(peers: Peers, file: Path) -> None:
    _, chunks = await peers.fetch_payload(1, Digest(b"d" * 32))
    async with aclosing(chunks):
        async for _ in chunks:
            pass


async def push(peers: Peers, file: Path) -> None:
    await peers.push_payload(1, Digest(b"d" * 32), file, 1000)


async def snapshot(peers: Peers, file: Path) -> None:
    await peers.send_state(1, b"", file, 1000, b"")
