"""Streams of frames to a replica of the test's own process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits

from tests.support.served_replica import Served, served

WITHIN_S = 30.0


def content(*operations: types.Operation, **more: Any) -> bytes:
    return types.Proposal(operations=operations, **more).SerializeToString()


class Stream:
    """One call of AppendFrames in the replica's session."""

    def __init__(self, here: Served, call: Any) -> None:
        self._here = here
        self.call = call
        self.appended: dict[int, tuple[int, int, list[int]]] = {}
        self.refused: dict[int, types.ErrorDetail] = {}
        self.messages = 0

    async def send(self, first: int, *proposals: bytes, below: int = 1, **more: Any) -> None:
        frame = api.AppendFrame(
            session_id=self._here.one.session,
            first_sequence=first,
            acknowledged_below=below,
            proposals=proposals,
        )
        for name, value in more.items():
            setattr(frame, name, value)
        await self.call.write(frame)

    async def answers(self, count: int) -> None:
        """Reads until that many answers came since the start of the call."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.appended) + len(self.refused) < count:
                response = await self.call.read()
                assert response is not grpc.aio.EOF
                self._take(response)

    def _take(self, response: api.AppendFrameResponse) -> None:
        self.messages += 1
        for done in response.appended:
            for offset in range(done.count):
                sequence = done.first_sequence + offset
                assert sequence not in self.appended and sequence not in self.refused
                lsn = done.first_lsn + offset
                self.appended[sequence] = (lsn, done.term, list(done.outcomes))
        for refused in response.refused:
            for offset in range(refused.count):
                sequence = refused.first_sequence + offset
                assert sequence not in self.appended and sequence not in self.refused
                self.refused[sequence] = refused.error


@asynccontextmanager
async def streaming(tmp_path: Path, limits: Limits | None = None) -> AsyncIterator[Any]:
    async with served(tmp_path / "data", limits or Limits()) as here:
        async with grpc.aio.insecure_channel(here.address) as channel:
            call = log_store_pb2_grpc.LogStoreStub(channel).AppendFrames()
            yield here, Stream(here, call)
            call.cancel()


async def ended(stream: Stream) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async with asyncio.timeout(WITHIN_S):
            while await stream.call.read() is not grpc.aio.EOF:
                pass
    return raised.value
