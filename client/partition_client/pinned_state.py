"""The whole state of a partition at one LSN, read from one replica over one stream."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.calls import CALL_TIMEOUT_S, Calls, Deadline, Tries, consistency, describe
from partition_client.content import Content
from partition_client.errors import (
    ClientError,
    HistoryChanged,
    StateLost,
    detail_of,
    from_detail,
    reason_name,
)
from partition_client.routing import Routing
from partition_client.waiting import Silent, within

TREE_PAGE = 500
"""Tree entries per request."""


class PinnedState:
    """The state of one replica at one LSN, from `AsyncClient.state`. One task reads it at a time.
    In a loop over `tree` or `keys` that task may call `read_file`.

    Once the state has ended, every method raises the same error: DiskFull if the replica dropped
    the state to free space, otherwise StateLost. Its message contains the cause. The replica
    restarted, dropped the state, or did not answer within CALL_TIMEOUT_S (10 s). Or a read was
    cancelled or left before its end. Or the client was closed, or the block has ended.

    lsn: all entries up to this LSN are applied in the state. Read the next ones with
        `tail(lsn + 1, stale_from=address, history=history)`. This replica keeps the log behind the
        state; another replica may have compacted it.
    term: the term of the entry at lsn; 0 if it was written to a standalone log.
    history: the ID of the history that lsn belongs to.
    address: the address of the replica, as the client uses it. If the client was given a Service's
        address, this is that address: see `AsyncClient.state`.
    """

    def __init__(
        self, address: str, call: Any, deadline: Deadline, closed: Callable[[], bool]
    ) -> None:
        """closed: whether the client is closed, which ends `call`."""
        self.address = address
        self.lsn = self.term = 0
        self.history = ""
        self._call = call
        self._deadline = deadline
        self._closed = closed
        self._busy = False
        self._ended: ClientError | None = None

    async def open(self, request: api.OpenState) -> None:
        """Waits until the replica has copied its state. Raises AioRpcError, Silent,
        HistoryChanged."""
        await self._write(api.ReadStateRequest(open=request), self._deadline.remaining())
        found = (await self._read(self._deadline.remaining())).opened
        self.lsn, self.term, self.history = found.lsn, found.term, found.history_id
        if request.history_id not in ("", self.history):
            raise HistoryChanged(
                f"the state of {self.address} is of history {self.history}, not "
                f"{request.history_id}: the group was restored or recreated",
                "WRONG_HISTORY",
                self.history,
            )

    def end(self) -> None:
        """Ends the state at the end of the caller's block."""
        if self._ended is None:
            self._ended = StateLost(
                f"the block of the state at LSN {self.lsn} has ended; open a new state"
            )
        self._call.cancel()

    async def keys(
        self, start: bytes = b"", end: bytes = b""
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yields keys of [start, end) with values, in byte order. An empty end means no end."""
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
        """Yields the entries below a directory, in byte order. Raises NotFound."""
        after = b""
        while True:
            request = api.ListTreeRequest(
                path=path, recursive=recursive, after=after, limit=TREE_PAGE
            )
            # Read the whole page before the first yield, so that the caller may read in between.
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
        TreeMismatch if the bytes don't match the digest; discard what was written then. If `write`
        raises before the last byte, the state is lost."""
        request = api.ReadFileRequest(path=path)
        content = Content(path, write)
        async with aclosing(self._answers(api.ReadStateRequest(file=request))) as answers:
            async for answer in answers:
                content.take(answer.file)
        return content.whole()

    async def _answers(
        self, request: api.ReadStateRequest
    ) -> AsyncGenerator[api.ReadStateResponse, None]:
        if self._ended is not None:
            raise self._ended
        if self._busy:
            raise StateLost(
                "another read of this state is in progress; start a read after the previous one "
                "has ended"
            )
        self._busy, whole = True, False
        self._deadline.progress()
        try:
            await self._write(request, self._deadline.limit(CALL_TIMEOUT_S))
            while not whole:
                answer = await self._read(self._deadline.limit(CALL_TIMEOUT_S))
                whole = answer.last or answer.HasField("error")
                if answer.HasField("error"):
                    raise from_detail(answer.error)
                yield answer
                self._deadline.progress()
        except (grpc.aio.AioRpcError, Silent) as error:
            self._ended = self._ended or self._failure(error)
            raise self._ended from error
        finally:
            self._busy = False
            if not whole and self._ended is None:
                # The next read would receive the remaining answers of this one.
                self._ended = self._lost("a read was cancelled or left before its end")

    async def _write(self, request: api.ReadStateRequest, within_s: float) -> None:
        # If the call has ended, the read after this write raises the reason.
        with suppress(asyncio.InvalidStateError):
            await within(self._call.write(request), within_s)

    async def _read(self, within_s: float) -> api.ReadStateResponse:
        answer = await within(self._call.read(), within_s)
        if answer is grpc.aio.EOF:
            raise Silent("the replica ended the stream")
        found: api.ReadStateResponse = answer
        return found

    def _failure(self, error: grpc.aio.AioRpcError | Silent) -> ClientError:
        detail = None if isinstance(error, Silent) else detail_of(error)
        if detail is None and self._closed():
            return self._lost("the client was closed")
        if isinstance(error, Silent):
            return self._lost(f"{self.address}: {error}")
        if detail is None:
            return self._lost(describe(self.address, error))
        if detail.reason == types.REASON_DISK_FULL:
            return from_detail(detail)
        return self._lost(f"{self.address}: {reason_name(detail)}: {detail.message}")

    def _lost(self, why: str) -> StateLost:
        return StateLost(f"the state at LSN {self.lsn} is lost; open a new state: {why}")


@asynccontextmanager
async def pinned_state(
    routing: Routing, calls: Calls, deadline_s: float, stale_from: str, history: str
) -> AsyncIterator[PinnedState]:
    """See AsyncClient.state."""
    deadline = Deadline(deadline_s)
    tries = Tries(routing, deadline, stale_from)
    request = api.OpenState(consistency=consistency(stale_from), history_id=history)
    while True:
        target = await tries.next()
        state = PinnedState(
            target, routing.stub(target).ReadState(), deadline, lambda: routing.closed
        )
        try:
            try:
                await state.open(request)
            except (grpc.aio.AioRpcError, Silent) as error:
                tries.refused = await calls.failed(target, error, deadline, fixed=bool(stale_from))
                continue
            yield state
            return
        finally:
            state.end()
