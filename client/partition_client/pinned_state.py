"""The whole state of a partition at one LSN, read from one replica over one stream."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api

from partition_client.calls import CALL_TIMEOUT_S, Calls, Deadline, Silent, Tries, describe
from partition_client.errors import (
    RETRIED,
    ClientError,
    StateLost,
    TreeMismatch,
    detail_of,
    from_detail,
    reason_name,
)
from partition_client.routing import Routing


class PinnedState:
    """What `AsyncClient.state` gives. One read at a time: an iteration ends before the next read
    begins. Its methods raise StateLost if the replica has given the state up, can't be reached or
    does not answer, and DiskFull if it gave the state up for want of room.

    lsn: everything up to here is in it; go on with `tail(lsn + 1, history=history)`.
    term: of the entry at lsn, 0 if that was written without Raft.
    address: of the replica that it is read from.
    """

    def __init__(self, address: str, call: Any, deadline: Deadline) -> None:
        self.address = address
        self.lsn = self.term = 0
        self.history = ""
        self._call = call
        self._deadline = deadline
        self._ended: ClientError | None = None

    async def open(self, request: api.OpenState) -> None:
        """Waits for the copy that the replica makes. Raises AioRpcError and Silent."""
        await self._write(api.ReadStateRequest(open=request))
        found = (await self._read(self._deadline.remaining())).opened
        self.lsn, self.term, self.history = found.lsn, found.term, found.history_id

    async def keys(
        self, start: bytes = b"", end: bytes = b""
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Keys of [start, end) with values, in byte order. An empty end means no end."""
        while True:
            request = api.ListKeysRequest(start=start, end=end)
            async for answer in self._answers(api.ReadStateRequest(keys=request)):
                page = answer.keys
            for item in page.items:
                yield item.key, item.value
            if not page.next_start:
                return
            start = page.next_start

    async def tree(
        self, path: bytes = b"", *, recursive: bool = True
    ) -> AsyncIterator[api.TreeEntry]:
        """Entries below a directory, in byte order. Raises NotFound."""
        request = api.ListTreeRequest(path=path, recursive=recursive)
        async for answer in self._answers(api.ReadStateRequest(tree=request)):
            for entry in answer.tree.entries:
                yield entry

    async def read_file(self, path: bytes, write: Callable[[bytes], object]) -> api.TreeEntry:
        """Streams a file's content to `write`, and checks its digest. Raises NotFound, and
        TreeMismatch if the bytes don't match: what was written is to be thrown away then."""
        request = api.ReadFileRequest(path=path)
        digest = hashlib.sha256()
        entry = api.TreeEntry()
        received = 0
        async for answer in self._answers(api.ReadStateRequest(file=request)):
            if answer.file.HasField("entry"):
                entry = answer.file.entry
            digest.update(answer.file.data)
            received += len(answer.file.data)
            write(answer.file.data)
        if digest.digest() != entry.digest or received != entry.size:
            raise TreeMismatch(f"{path!r}: the bytes received don't match their digest", "TREE")
        return entry

    async def _answers(
        self, request: api.ReadStateRequest
    ) -> AsyncGenerator[api.ReadStateResponse, None]:
        if self._ended is not None:
            raise self._ended
        self._ended = StateLost(
            "another read of this state is under way, or was not read to its end: begin a read "
            "when the one before has ended"
        )
        self._deadline.progress()
        try:
            await self._write(request)
            last = False
            while not last:
                answer = await self._read(self._deadline.limit(CALL_TIMEOUT_S))
                last = answer.last
                yield answer
                self._deadline.progress()
        except (grpc.aio.AioRpcError, Silent) as error:
            self._ended = self._failure(error)
            raise self._ended from error
        self._ended = None

    async def _write(self, request: api.ReadStateRequest) -> None:
        # A write to a call that is over says nothing; the read behind it says how the call ended.
        with suppress(asyncio.InvalidStateError):
            await self._call.write(request)

    async def _read(self, within_s: float) -> api.ReadStateResponse:
        try:
            async with asyncio.timeout(within_s):
                answer = await self._call.read()
        except TimeoutError as error:
            raise Silent(f"no answer within {within_s:.1f} s") from error
        if answer is grpc.aio.EOF:
            raise Silent("the replica ended the stream")
        found: api.ReadStateResponse = answer
        return found

    def _failure(self, error: grpc.aio.AioRpcError | Silent) -> ClientError:
        if isinstance(error, Silent):
            why = f"{self.address}: {error}"
        elif (detail := detail_of(error)) is None:
            why = describe(self.address, error)
        elif detail.reason in RETRIED:
            why = f"{self.address}: {reason_name(detail)}: {detail.message}"
        else:
            return from_detail(detail)
        return StateLost(f"the state at {self.lsn} is lost, begin anew: {why}")


@asynccontextmanager
async def pinned_state(
    routing: Routing, calls: Calls, deadline: Deadline, stale_from: str, history: str
) -> AsyncIterator[PinnedState]:
    """See AsyncClient.state."""
    tries = Tries(routing, deadline, stale_from)
    consistency = api.CONSISTENCY_STALE if stale_from else api.CONSISTENCY_LINEARIZABLE
    request = api.OpenState(consistency=consistency, history_id=history)
    while True:
        target = await tries.next()
        call = routing.stub(target).ReadState()
        try:
            state = PinnedState(target, call, deadline)
            try:
                await state.open(request)
            except (grpc.aio.AioRpcError, Silent) as error:
                await calls.failed(target, error, deadline, fixed=bool(stale_from))
                continue
            yield state
            return
        finally:
            call.cancel()
