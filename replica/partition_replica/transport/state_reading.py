"""Serves reads of a state as messages: of the running state page by page, or of a pinned state."""

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
"""Tree entries per message, at most."""

CUT_OFF_S = 5.0
"""Seconds that a reader has to receive the error after its pinned state is released. Then its call
is cancelled."""


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
    """A listing of the tree, page by page. `done` is True after the last page."""

    def __init__(self, request: api.ListTreeRequest) -> None:
        """Raises InvalidArgument for a bad path, or if `after` does not lie below it."""
        below = request.path + b"/" if request.path else b""
        if request.path:
            check_path(request.path)
        if request.after and not request.after.startswith(below):
            raise InvalidArgument(
                f"after {shown(request.after)} does not lie below {shown(request.path)}: set it to "
                "the path of the last entry received, or leave it empty"
            )
        self._request = request
        self._after = request.after
        self._left = request.limit or None
        self.done = False

    def page(self, state: StateReader) -> api.ListTreeResponse:
        """The next page, read from `state`. Raises NotFound."""
        count = TREE_PAGE if self._left is None else min(self._left, TREE_PAGE)
        request = self._request
        items, applied = state.list_tree_entries(
            request.path, self._after, request.recursive, count
        )
        if self._left is not None:
            self._left -= len(items)
        self.done = len(items) < count or self._left == 0
        if items:
            # The next page also skips what lies in this directory, if the listing is not recursive.
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
        """`refused` is called with errors that the reader receives and `read` doesn't raise."""
        self._replica = replica
        self._limits = limits
        self._refused = refused
        self._cutting: set[asyncio.Task[None]] = set()

    async def read(
        self,
        requests: AsyncIterator[api.ReadStateRequest],
        end: Callable[[ReplicaError], Awaitable[None]],
    ) -> AsyncGenerator[api.ReadStateResponse, None]:
        """Serves one stream. `end` ends the call with an error, even while the call waits."""
        async with aclosing(in_time(requests, self._limits.stream_stall_s)) as in_its_time:
            first = await anext(in_its_time, None)
        if first is None or first.WhichOneof("request") != "open":
            raise InvalidArgument(
                "the first request of a stream must be `open`, which pins the state"
            )
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
                        state.used()  # gRPC asks for the next answer once this one is in flight

    async def _answers(
        self, state: PinnedStateService, request: api.ReadStateRequest
    ) -> AsyncGenerator[api.ReadStateResponse, None]:
        """Answers a refused request with its error, so that the stream continues."""
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
        """Ends the call of this task CUT_OFF_S after the state is released. If a reader does not
        take its answers, the call waits in gRPC, does not see the release, and keeps one of few
        places."""
        call = asyncio.current_task()
        assert call is not None

        begun = False

        async def cut_off() -> None:
            nonlocal begun
            error = await state.over()
            await asyncio.sleep(CUT_OFF_S)
            begun = True
            call.cancel()  # gRPC does not report this to the reader
            self._refused(error)
            with suppress(Exception):  # gRPC raises if the call has ended already
                await end(error)  # the reader receives it once it reads again

        # The task may outlive the call, until the reader reads again.
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
    """Returns the next request, or None after the last one. Raises the error with which the state
    was released meanwhile."""

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
            raise InvalidArgument(
                "`open` is allowed only once per stream: open another stream for another state"
            )
        case _:
            raise InvalidArgument("the request is empty: set keys, tree or file")


def _tree_entry(path: bytes, node: TreeEntry) -> api.TreeEntry:
    return api.TreeEntry(
        path=path, directory=node.directory, mode=node.mode, size=node.size, digest=node.digest
    )
