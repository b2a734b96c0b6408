"""What is read of a state, as messages: of the running one page by page, or of a pinned one."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from partition_proto.v1 import log_store_pb2 as api

from partition_replica.core.limits import Limits
from partition_replica.core.model import Node, OpenedFile
from partition_replica.core.paths import check_path
from partition_replica.core.services import PinnedState, ReplicaService, StateReader
from partition_replica.errors import InvalidArgument
from partition_replica.transport.chunks import file_chunks

TREE_PAGE = 500
"""Entries of the tree in one message."""


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


def tree_page(
    state: StateReader, request: api.ListTreeRequest, after: bytes
) -> tuple[api.ListTreeResponse, bytes | None]:
    """The entries behind the path `after`, and the path to go on behind; None at the end. Raises
    NotFound."""
    items, applied = state.list_nodes(request.path, after, request.recursive, TREE_PAGE)
    page = api.ListTreeResponse(
        entries=[_tree_entry(path, node) for path, node in items], applied=applied
    )
    # Behind a nested directory's own contents too, if they are not wanted.
    return page, items[-1][0] if len(items) == TREE_PAGE else None


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


async def read_state(
    replica: ReplicaService, limits: Limits, requests: AsyncIterator[api.ReadStateRequest]
) -> AsyncGenerator[api.ReadStateResponse, None]:
    """Serves one ReadState stream."""
    first = await anext(requests, None)
    if first is None or first.WhichOneof("request") != "open":
        raise InvalidArgument("the first request of a stream is `open`, which pins the state")
    replica.check_history(first.open.history_id)
    async with replica.pinned_state(linearizable=linearizable(first.open.consistency)) as state:
        opened = api.OpenedState(
            lsn=state.position.index, term=state.position.term, history_id=state.history
        )
        yield api.ReadStateResponse(opened=opened, last=True)
        async for request in requests:
            state.used()
            async with aclosing(_answers(replica, limits, state, request)) as answers:
                async for answer in answers:
                    yield answer
                    state.used()  # gRPC comes back for more when the answer is on its way


async def _answers(
    replica: ReplicaService, limits: Limits, state: PinnedState, request: api.ReadStateRequest
) -> AsyncGenerator[api.ReadStateResponse, None]:
    match request.WhichOneof("request"):
        case "keys":
            page = keys_page(state.reader(), request.keys, limits)
            yield api.ReadStateResponse(keys=page, last=True)
        case "tree":
            if request.tree.path:
                check_path(request.tree.path)
            after: bytes | None = b""
            while after is not None:
                tree, after = tree_page(state.reader(), request.tree, after)
                yield api.ReadStateResponse(tree=tree, last=after is None)
        case "file":
            check_path(request.file.path)
            opened = state.open_file(request.file.path, request.file.offset)
            try:
                before: api.ReadFileResponse | None = None
                async for message in file_messages(opened, request.file, limits):
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


def _tree_entry(path: bytes, node: Node) -> api.TreeEntry:
    return api.TreeEntry(
        path=path, directory=node.directory, mode=node.mode, size=node.size, digest=node.digest
    )
