"""What is read of a state, as messages: of the running one page by page, or of a pinned one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress

from partition_proto.v1 import log_store_pb2 as api

from partition_replica.core.limits import Limits
from partition_replica.core.model import OpenedFile, TreeEntry
from partition_replica.core.paths import check_path, shown
from partition_replica.core.services import ApplicationService, PinnedStateService, StateReader
from partition_replica.errors import InvalidArgument, NotFound, ReplicaError
from partition_replica.transport.chunks import file_chunks, in_time
from partition_replica.transport.failures import detail

TREE_PAGE = 500
"""Entries of the tree in one message."""

CUT_OFF_S = 5.0
"""How long a reader whose state was given up may take to hear of that. Then its call is cut off."""


def linearizable(consistency: int) -> bool:
    return consistency == api.CONSISTENCY_LINEARIZABLE


def keys_page(
    state: StateReader, request: api.ListKeysRequest, limits: Limits
) -> api.ListKeysResponse:
    most = limits.range_items_max
    items, next_start, applied = state.list_values(
        request.start, request.end, min(request.limit or most, most), limits.range_bytes_max
    )
    return api.ListKeysResponse(
        items=[api.KeyValue(key=key, value=value) for key, value in items],
        next_start=next_start,
        applied=applied,
    )


class TreeListing:
    """A listing of the tree, page by page: `done` behind the last one."""

    def __init__(self, request: api.ListTreeRequest) -> None:
        """Raises InvalidArgument."""
        below = request.path + b"/" if request.path else b""
        if request.path:
            check_path(request.path)
        if request.after and not request.after.startswith(below):
            raise InvalidArgument(
                f"after {shown(request.after)} does not lie below {shown(request.path)}: it is the "
                "path of the last entry that the caller has, or empty"
            )
        self._request = request
        self._after = request.after
        self._left = request.limit or None
        self.done = False

    def page(self, state: StateReader) -> api.ListTreeResponse:
        """Raises NotFound."""
        count = TREE_PAGE if self._left is None else min(self._left, TREE_PAGE)
        request = self._request
        items, applied = state.list_tree_entries(
            request.path, self._after, request.recursive, count
        )
        if self._left is not None:
            self._left -= len(items)
        self.done = len(items) < count or self._left == 0
        if items:
            # Behind a nested directory's own contents, too, if they are not wanted.
            self._after = items[-1][0]
        return api.ListTreeResponse(
            entries=[_tree_entry(path, node) for path, node in items], applied=applied
        )


async def file_messages(
    opened: OpenedFile, request: api.ReadFileRequest, limits: Limits
) -> AsyncGenerator[api.ReadFileResponse, None]:
    first = api.ReadFileResponse(
        entry=_tree_entry(request.path, opened.node), applied=opened.applied
    )
    if isinstance(opened.content, bytes):
        first.data = opened.content[request.offset :]
        yield first
        return
    yield first
    async with aclosing(file_chunks(opened.content, request.offset, limits.chunk_bytes)) as chunks:
        async for chunk in chunks:
            yield api.ReadFileResponse(data=chunk)


class StateReadings:
    """Serves ReadState: each stream reads one pinned state."""

    def __init__(
        self,
        replica: ApplicationService,
        limits: Limits,
        refused: Callable[[ReplicaError], None],
    ) -> None:
        """`refused` is told of errors that a reader gets and that don't leave `read` as errors."""
        self._replica = replica
        self._limits = limits
        self._refused = refused
        self._cutting: set[asyncio.Task[None]] = set()

    async def read(
        self,
        requests: AsyncIterator[api.ReadStateRequest],
        end: Callable[[ReplicaError], Awaitable[None]],
    ) -> AsyncGenerator[api.ReadStateResponse, None]:
        """Serves one stream. `end` ends its call with an error, whatever the call waits for."""
        async with aclosing(in_time(requests, self._limits.stream_stall_s)) as in_its_time:
            first = await anext(in_its_time, None)
        if first is None or first.WhichOneof("request") != "open":
            raise InvalidArgument("the first request of a stream is `open`, which pins the state")
        leading, history = linearizable(first.open.consistency), first.open.history_id
        self._replica.check_history(history, leading=leading)
        async with (
            self._replica.pinned_state(linearizable=leading, history=history) as state,
            self._cut_off_behind(state, end),
        ):
            opened = api.OpenedState(
                lsn=state.position.index, term=state.position.term, history_id=state.history
            )
            yield api.ReadStateResponse(opened=opened, last=True)
            while (request := await _next(requests, state)) is not None:
                async with aclosing(self._answers(state, request)) as answers:
                    async for answer in answers:
                        yield answer
                        state.used()  # gRPC comes back for more when the answer is on its way

    async def _answers(
        self, state: PinnedStateService, request: api.ReadStateRequest
    ) -> AsyncGenerator[api.ReadStateResponse, None]:
        """A request that is refused is answered, too: the stream goes on."""
        answers = _answers(self._replica, self._limits, state, request)
        try:
            async with aclosing(answers):
                async for answer in answers:
                    yield answer
        except (NotFound, InvalidArgument) as error:
            self._refused(error)
            yield api.ReadStateResponse(error=detail(error), last=True)

    @asynccontextmanager
    async def _cut_off_behind(
        self, state: PinnedStateService, end: Callable[[ReplicaError], Awaitable[None]]
    ) -> AsyncIterator[None]:
        """Ends the call of this task a moment after the state was given up. A reader that takes no
        answers keeps the call waiting in gRPC, where it does not hear of that, and keeps one of few
        places."""
        call = asyncio.current_task()
        assert call is not None

        begun = False

        async def cut_off() -> None:
            nonlocal begun
            error = await state.over()
            await asyncio.sleep(CUT_OFF_S)
            begun = True
            call.cancel()  # gRPC tells the reader nothing of that
            self._refused(error)
            with suppress(Exception):  # gRPC raises one for a call that is ended
                await end(error)  # the reader hears of it when it reads on

        # It may outlive the call, until the reader has read on.
        cutting = asyncio.create_task(cut_off())
        self._cutting.add(cutting)
        cutting.add_done_callback(self._cutting.discard)
        try:
            yield
        finally:
            if not begun:
                cutting.cancel()


async def _next(
    requests: AsyncIterator[api.ReadStateRequest], state: PinnedStateService
) -> api.ReadStateRequest | None:
    """The next request, or None behind the last one. Raises the error that the state was given up
    with meanwhile."""

    async def ask() -> api.ReadStateRequest | None:
        return await anext(requests, None)

    asked, over = asyncio.create_task(ask()), asyncio.create_task(state.over())
    try:
        await asyncio.wait({asked, over}, return_when=asyncio.FIRST_COMPLETED)
        state.used()
        return asked.result()
    finally:
        asked.cancel()
        over.cancel()
        await asyncio.gather(asked, over, return_exceptions=True)


async def _answers(
    replica: ApplicationService,
    limits: Limits,
    state: PinnedStateService,
    request: api.ReadStateRequest,
) -> AsyncGenerator[api.ReadStateResponse, None]:
    match request.WhichOneof("request"):
        case "keys":
            page = keys_page(state.reader(), request.keys, limits)
            yield api.ReadStateResponse(keys=page, last=True)
        case "tree":
            listing = TreeListing(request.tree)
            while not listing.done:
                tree = listing.page(state.reader())
                yield api.ReadStateResponse(tree=tree, last=listing.done)
        case "file":
            check_path(request.file.path)
            opened = state.open_file(request.file.path, request.file.offset)
            try:
                before: api.ReadFileResponse | None = None
                async with aclosing(file_messages(opened, request.file, limits)) as messages:
                    async for message in messages:
                        if before is not None:
                            yield api.ReadStateResponse(file=before)
                        before = message
                yield api.ReadStateResponse(file=before, last=True)
            finally:
                replica.close_file(opened)
        case "open":
            raise InvalidArgument("a stream reads one state: open another stream for another one")
        case _:
            raise InvalidArgument("a request is one of keys, tree and file")


def _tree_entry(path: bytes, node: TreeEntry) -> api.TreeEntry:
    return api.TreeEntry(
        path=path, directory=node.directory, mode=node.mode, size=node.size, digest=node.digest
    )
