"""The whole state of a partition at one LSN, read from one replica over one stream."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api

from partition_client.calls import CALL_TIMEOUT_S, Calls, Deadline, Tries, describe
from partition_client.errors import (
    RETRIED,
    ClientError,
    HistoryChanged,
    StateLost,
    TreeMismatch,
    detail_of,
    from_detail,
    reason_name,
)
from partition_client.routing import Routing
from partition_client.waiting import Silent, within

TREE_PAGE = 500
"""Entries of the tree that are asked for at once."""


class PinnedState:
    """What `AsyncClient.state` gives. Reads may be nested, as `read_file` while `tree` is iterated.
    Two tasks must not read at the same time. Its methods raise StateLost if the replica has given
    the state up, can't be reached or does not answer, and behind the block; and DiskFull if the
    replica gave the state up for want of room.

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
        self._busy = False
        self._ended: ClientError | None = None

    async def open(self, request: api.OpenState) -> None:
        """Waits for the copy that the replica makes. Raises AioRpcError, Silent, HistoryChanged."""
        await self._write(api.ReadStateRequest(open=request), self._deadline.remaining())
        found = (await self._read(self._deadline.remaining())).opened
        self.lsn, self.term, self.history = found.lsn, found.term, found.history_id
        if request.history_id not in ("", self.history):
            raise HistoryChanged(
                f"the state that {self.address} read is of the history {self.history}, not "
                f"{request.history_id}: the group was restored or made anew",
                "WRONG_HISTORY",
                self.history,
            )

    def end(self) -> None:
        """The block is over."""
        if self._ended is None:
            self._ended = StateLost(f"the block of the state at {self.lsn} is over: begin anew")
        self._call.cancel()

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
        after = b""
        while True:
            request = api.ListTreeRequest(
                path=path, recursive=recursive, after=after, limit=TREE_PAGE
            )
            # The whole page before any of it is given away, so that other reads may come between.
            page: list[api.TreeEntry] = []
            async for answer in self._answers(api.ReadStateRequest(tree=request)):
                page.extend(answer.tree.entries)
            for entry in page:
                yield entry
            if len(page) < TREE_PAGE:
                return
            after = page[-1].path

    async def read_file(self, path: bytes, write: Callable[[bytes], object]) -> api.TreeEntry:
        """Streams a file's content to `write`, and checks its digest. Raises NotFound, and
        TreeMismatch if the bytes don't match: what was written is to be thrown away then. If
        `write` raises, nothing more can be read of this state."""
        request = api.ReadFileRequest(path=path)
        digest = hashlib.sha256()
        entry = api.TreeEntry()
        received = 0
        async with aclosing(self._answers(api.ReadStateRequest(file=request))) as answers:
            async for answer in answers:
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
        if self._busy:
            raise StateLost(
                "another read of this state is under way, or was not read to its end: begin a read "
                "when the one before has ended"
            )
        self._busy = True
        self._deadline.progress()
        try:
            await self._write(request, self._deadline.limit(CALL_TIMEOUT_S))
            last = False
            while not last:
                answer = await self._read(self._deadline.limit(CALL_TIMEOUT_S))
                last = answer.last
                if answer.HasField("error"):
                    self._busy = False
                    raise from_detail(answer.error)
                yield answer
                self._deadline.progress()
        except (grpc.aio.AioRpcError, Silent) as error:
            self._ended = self._ended or self._failure(error)
            raise self._ended from error
        self._busy = False

    async def _write(self, request: api.ReadStateRequest, within_s: float) -> None:
        # A write to a call that is over says nothing; the read behind it says how the call ended.
        with suppress(asyncio.InvalidStateError):
            await within(self._call.write(request), within_s)

    async def _read(self, within_s: float) -> api.ReadStateResponse:
        answer = await within(self._call.read(), within_s)
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
    routing: Routing, calls: Calls, deadline_s: float, stale_from: str, history: str
) -> AsyncIterator[PinnedState]:
    """See AsyncClient.state."""
    deadline = Deadline(deadline_s)
    tries = Tries(routing, deadline, stale_from)
    consistency = api.CONSISTENCY_STALE if stale_from else api.CONSISTENCY_LINEARIZABLE
    request = api.OpenState(consistency=consistency, history_id=history)
    while True:
        target = await tries.next()
        state = PinnedState(target, routing.stub(target).ReadState(), deadline)
        try:
            try:
                await state.open(request)
            except (grpc.aio.AioRpcError, Silent) as error:
                await calls.failed(target, error, deadline, fixed=bool(stale_from))
                continue
            yield state
            return
        finally:
            state.end()
