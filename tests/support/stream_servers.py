"""The services of clients and members over loopback, in front of a replica that answers at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.v1 import (
    log_store_pb2_grpc,
    peer_pb2_grpc,
)
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.core.model import Applied, LogEntry, OpenedFile, ProposalResult, TreeEntry
from partition_replica.core.services import AppendAnswers, AppendFrame
from partition_replica.ids import LSN, Digest, Term
from partition_replica.transport.failures import Failures
from partition_replica.transport.log_store_service import LogStoreService
from partition_replica.transport.peer_service import PeerService
from partition_replica.transport.streams import StreamBytes

OUTCOMES = bytes([types.OUTCOME_APPLIED]) * 8192
"""Answers of 8 KiB: a few fill what HTTP/2 sends unasked."""


class Replica:
    """Answers at once, and counts what it was asked."""

    def __init__(self, file: Path | None = None) -> None:
        self.asked = 0
        self.opened = 0
        self.file = file
        self.gate = asyncio.Event()
        self.gate.set()

    async def append(self, proposal: types.Proposal, **_: object) -> Applied:
        self.asked += 1
        await self.gate.wait()
        result = ProposalResult(LSN(self.asked), Term(1), outcomes=OUTCOMES)
        return Applied(LSN(self.asked), Term(1), "proposal", result)

    async def append_frame(self, frame: AppendFrame, answers: AppendAnswers) -> None:
        for sequence in range(frame.first_sequence, frame.first_sequence + len(frame.proposals)):
            self.asked += 1
            result = ProposalResult(LSN(self.asked), Term(1), outcomes=OUTCOMES)
            answers.appended(sequence, Applied(LSN(self.asked), Term(1), "proposal", result))

    def committed_entries(self, lo: int, bytes_max: int) -> tuple[list[LogEntry], int]:
        self.asked += 1
        body = types.EntryBody(imported=types.ImportedEntry(manifest=bytes(bytes_max)))
        data = body.SerializeToString()
        return [LogEntry(LSN(max(lo, 1)), Term(1), 0, data)], max(lo, 1) + 1

    def unapplied(self, entries: object) -> dict[LSN, Any]:
        return {}

    async def advanced(self) -> None:
        raise AssertionError("there is always more")

    async def open_file(self, path: bytes, offset: int, **_: object) -> OpenedFile:
        assert self.file is not None
        self.opened += 1
        node = TreeEntry(False, 0o644, self.file.stat().st_size, Digest(b"d" * 32))
        return OpenedFile(node, self.file, LSN(7))

    def close_file(self, opened: OpenedFile) -> None:
        self.opened -= 1

    async def upload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> list[int]:
        self.opened += 1
        try:
            async for _ in chunks:
                pass
        finally:
            self.opened -= 1
        return [1]

    async def take_payload(self, digest: bytes, size: int, chunks: AsyncIterator[bytes]) -> bool:
        return bool(await self.upload(digest, size, chunks))

    async def receive_state(self, header: Any, chunks: AsyncIterator[bytes]) -> int:
        return len(await self.upload(b"", 0, chunks))

    def check_peer(self, *_: object) -> None:
        pass

    def check_history(self, history: str, *, leading: bool = False) -> None:
        pass


def failures() -> Failures:
    return Failures(lambda _: None, lambda error: pytest.fail(str(error)))


@asynccontextmanager
async def served(
    replica: Any, limits: Limits, held: StreamBytes | None = None
) -> AsyncIterator[Any]:
    """A channel to a server that has the services of clients and of members."""
    server = grpc.aio.server()
    log_store_pb2_grpc.add_LogStoreServicer_to_server(
        LogStoreService(replica, limits, failures(), None, held), server
    )
    peer_pb2_grpc.add_PeerServicer_to_server(PeerService(replica, limits, failures()), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)
