"""The asynchronous client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.appends import AppendStream, ClientSession, PendingAppend
from partition_client.calls import (
    CALL_TIMEOUT_S,
    Calls,
    Deadline,
    Tries,
    check_seconds,
    consistency,
    messages,
    unary,
)
from partition_client.channels import Tls
from partition_client.content import Content
from partition_client.endpoints import check_endpoint
from partition_client.errors import (
    ClientError,
    NotFound,
    TreeMismatch,
    not_written,
)
from partition_client.pinned_state import PinnedState, pinned_state
from partition_client.routing import STATUS_TIMEOUT_S, Routing
from partition_client.sources import INLINE_BYTES_MAX, PayloadSource, upload_source
from partition_client.waiting import Silent

DIRECTORY_MODE = 0o755


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an append stands. `outcomes`: a types.Outcome an operation, where it waited for the
    apply and not all were APPLIED."""

    lsn: int
    term: int
    outcomes: tuple[int, ...] = ()


class AsyncClient:
    """A client of one partition. Use as an async context manager, on one event loop.

    endpoints: host:port of any of the replicas, all of them for port-forwards.
    deadline_s: how long a call waits, with its retries; a transfer, since its last progress.
    follow_hints: dial addresses that replicas name; False where only the endpoints can be reached.
    use_proxy: go through the proxy that the environment names (https_proxy, http_proxy).

    `stale_from` and `replica` of the methods name one replica by its own address, host:port, such
    as example-0.example-replicas.default.svc:7000. Don't give a Service's address: a Service may
    reach another replica at the next connection, which has applied less or lacks the consumer.
    """

    def __init__(
        self,
        endpoints: list[str],
        tls: Tls | None = None,
        *,
        deadline_s: float = 60.0,
        session_ttl_ms: int = 0,
        follow_hints: bool = True,
        use_proxy: bool = False,
    ) -> None:
        """Raises InvalidEndpoint, ForkedProcess, and ValueError for a deadline that is no time."""
        self._deadline_s = check_seconds(deadline_s)
        self._routing = Routing(endpoints, tls, follow_hints=follow_hints, use_proxy=use_proxy)
        self.owner = self._routing.owner
        self._calls = Calls(self._routing)
        self._session_ttl_ms = session_ttl_ms
        self._appends = AppendStream(self._routing, self._open_session)
        self._close_lock = asyncio.Lock()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the stream and, if a leader answers at once, the session; else that expires. Does
        nothing once the client is closed, nor in a process that was forked from the client's."""
        if not self.owner.here:
            return
        async with self._close_lock:  # a second close would cut the channels off the first
            try:
                await self._close_session()
            finally:
                await self._routing.close()

    async def _close_session(self) -> None:
        session = await self._appends.close()
        if session is not None and self._routing.leader:
            request = api.CloseSessionRequest(session_id=session.id, history_id=session.history)
            with suppress(grpc.aio.AioRpcError, ClientError):  # it expires by itself
                stub = self._routing.stub(self._routing.leader)
                await stub.CloseSession(request, timeout=1.0)

    # --- writes -------------------------------------------------------------------------------

    async def append(
        self,
        operations: list[types.Operation],
        sources: list[PayloadSource] | None = None,
        *,
        preconditions: list[types.Precondition] | None = None,
        wait_applied: bool = False,
        deadline_s: float | None = None,
    ) -> Appended:
        """Appends one entry. Operations name `sources` by their number, from 1.

        Returns when it is committed, or applied (with outcomes). Appends of one client that are
        under way at once are not ordered among each other. The deadline counts from the last
        progress of an upload. Raises ClientError.
        """
        self.owner.check()
        sources = sources or []
        allowed_s = self._deadline_s if deadline_s is None else deadline_s
        large = {s.digest: s for s in sources if s.size > INLINE_BYTES_MAX}

        async def upload(digests: list[bytes]) -> None:
            for digest in digests:
                await upload_source(self._calls, large[digest], Deadline(allowed_s))

        if large:
            await upload(list(large))
        proposal = types.Proposal(
            preconditions=preconditions or [],
            payloads=[source.payload() for source in sources],
            operations=operations,
        )
        response = await self._appends.append(
            PendingAppend(proposal, wait_applied, Deadline(allowed_s).at, upload if large else None)
        )
        return Appended(response.lsn, response.term, tuple(response.outcomes))

    async def set_key(self, key: bytes, value: bytes) -> Appended:
        return await self.append([types.Operation(set_key=types.SetKey(key=key, value=value))])

    async def delete_key(self, key: bytes) -> Appended:
        return await self.append([types.Operation(delete_key=types.DeleteKey(key=key))])

    async def put_file(
        self, path: bytes, source: PayloadSource, *, replace: bool = True
    ) -> Appended:
        """Puts a file into the tree; an empty directory in its place is replaced, too. Raises
        TreeMismatch where its directory doesn't exist, a directory with content is in its place,
        or, without `replace`, anything is."""
        operations = []
        if replace:
            operations.append(remove_entry(path))
        operations.append(link_payload(1, path))
        appended = await self.append(operations, [source], wait_applied=True)
        if appended.outcomes and appended.outcomes[-1] != types.OUTCOME_APPLIED:
            raise not_written(path, appended.outcomes[-1])
        return appended

    async def remove_file(self, path: bytes) -> Appended:
        """Removes a file or an empty directory. Raises NotFound, and TreeMismatch for a directory
        that isn't empty."""
        appended = await self.append([remove_entry(path)], wait_applied=True)
        if appended.outcomes:
            name = types.Outcome.Name(types.Outcome.ValueType(appended.outcomes[0]))
            if appended.outcomes[0] == types.OUTCOME_SOURCE_NOT_FOUND:
                raise NotFound(f"{path!r} is not in the tree", "NOT_FOUND")
            raise TreeMismatch(f"{path!r} was not removed: {name}", "TREE")
        return appended

    # --- reads --------------------------------------------------------------------------------

    async def get_key(self, key: bytes, *, stale_from: str = "") -> bytes | None:
        """The value, or None if the key is absent. Linearizable, unless `stale_from` names a
        replica to ask for what it has applied."""
        request = api.GetKeyRequest(key=key, consistency=consistency(stale_from))
        response: api.GetKeyResponse = await self._call("GetKey", request, stale_from)
        return response.value if response.found else None

    async def list_keys(
        self, start: bytes = b"", end: bytes = b"", *, stale_from: str = ""
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Keys of [start, end) with values. Each page may be of another LSN: see `state`."""
        while True:
            request = api.ListKeysRequest(start=start, end=end, consistency=consistency(stale_from))
            response: api.ListKeysResponse = await self._call("ListKeys", request, stale_from)
            for item in response.items:
                yield item.key, item.value
            if not response.next_start:
                return
            start = response.next_start

    async def list_tree(
        self, path: bytes = b"", *, recursive: bool = False, stale_from: str = ""
    ) -> list[api.TreeEntry]:
        """Entries below a directory, in byte order. Raises NotFound."""
        self.owner.check()
        deadline = Deadline(self._deadline_s)
        request = api.ListTreeRequest(
            path=path, recursive=recursive, consistency=consistency(stale_from)
        )

        async def read(stub: Any) -> list[api.TreeEntry]:
            entries: list[api.TreeEntry] = []
            async with aclosing(messages(stub.ListTree(request), deadline)) as stream:
                async for response in stream:
                    entries.extend(response.entries)
            return entries

        return await self._calls.retry(read, deadline, stale_from)

    async def read_file(
        self, path: bytes, write: Callable[[bytes], object], *, stale_from: str = ""
    ) -> api.TreeEntry:
        """Streams a file's content to `write`, and checks its digest.

        Resumes a stream that breaks. Raises NotFound, and TreeMismatch if the file changed
        meanwhile or the bytes don't match: throw away what was written then.
        """
        self.owner.check()
        deadline = Deadline(self._deadline_s)
        content = Content(path, write)

        async def read(stub: Any) -> None:
            request = api.ReadFileRequest(
                path=path, offset=content.received, consistency=consistency(stale_from)
            )
            async with aclosing(messages(stub.ReadFile(request), deadline)) as stream:
                async for response in stream:
                    content.take(response)

        await self._calls.retry(read, deadline, stale_from)
        return content.whole()

    async def tail(
        self,
        from_lsn: int = 0,
        *,
        follow: bool = False,
        stale_from: str = "",
        history: str = "",
    ) -> AsyncIterator[api.ReadResponse]:
        """Applied entries from an LSN on, 0 for the first there is; goes on if a stream breaks.

        `follow` waits for more, as long as a replica leads, or the one of `stale_from` answers.
        `stale_from`: read from this replica alone, by its own address.
        `history` is the one that from_lsn belongs to (see `history`); by default the one that the
        first replica tells. Raises HistoryChanged if the group has another one, because it was
        restored: read the state, and go on from there. Raises DeadlineExceeded once no replica
        answered for the client's deadline.
        """
        self.owner.check()
        deadline = Deadline(self._deadline_s)
        tries = Tries(self._routing, deadline, stale_from)
        position, known = from_lsn, history or None
        while True:
            target = await tries.next()

            async def alive(target: str = target) -> bool:
                status = await self._routing.status(target, deadline.limit(STATUS_TIMEOUT_S))
                leads = status is not None and status.role == "leader" and status.serving
                return leads or (status is not None and bool(stale_from))

            try:
                if known is None:
                    known = (await _status(self._routing.stub(target), deadline)).history_id
                request = api.ReadRequest(from_lsn=position, follow=follow, history_id=known)
                call = self._routing.stub(target).Read(request)
                quiet = alive if follow else None
                async with aclosing(messages(call, deadline, quiet)) as stream:
                    async for response in stream:
                        position = response.lsn + 1
                        yield response
                return
            except (grpc.aio.AioRpcError, Silent) as error:
                await self._calls.failed(target, error, deadline, fixed=bool(stale_from))

    def state(
        self, *, stale_from: str = "", history: str = ""
    ) -> AbstractAsyncContextManager[PinnedState]:
        """The whole state at one LSN, of the leader or of `stale_from`, for as long as the block
        lasts: `async with client.state() as state`. The replica keeps the log behind it until the
        block ends. To go on from there, register or acknowledge a consumer at `state.lsn` and
        `state.address` inside of the block, or read up to the present inside of it
        (docs/client.md). Both need a replica's own address: give the client those as endpoints, or
        name one as `stale_from`. With a Service as the endpoint, `state.address` may be the
        Service's.

        The replica makes a copy of its state first. Entering the block waits for the copy until the
        client's deadline, even if the replica dies meanwhile. Each read in the block waits at most
        CALL_TIMEOUT_S (10 s) for the replica. `history`: the group must have this one; by default
        any. Raises HistoryChanged, DiskFull if the replica lacks room for the copy,
        DeadlineExceeded, and RequestRefused with the reason UNIMPLEMENTED from a replica of an
        earlier version, which has no states to read.
        """
        self.owner.check()
        return pinned_state(self._routing, self._calls, self._deadline_s, stale_from, history)

    # --- consumers ----------------------------------------------------------------------------

    async def register_consumer(
        self, name: str, lsn: int, *, replica: str, history: str = ""
    ) -> api.ConsumerResponse:
        """Registers a consumer that has everything up to `lsn`, 0 for one that wants all that is
        stored. The log of `replica` then keeps what follows, also when that replica restarts: read
        it with `tail(lsn + 1, stale_from=replica)`, and acknowledge it.

        `replica`: host:port of the replica itself, not of a Service. `history`: the one that `lsn`
        belongs to. The same again does nothing. Raises HistoryChanged, and RequestRefused:
        INVALID_ARGUMENT if the name is registered at another LSN, COMPACTED if what follows is
        gone. A reader that begins anew, after a restart of its program or a StateLost, may find its
        name registered: call `acknowledge_consumer` first, and register after NotFound.
        """
        request = api.RegisterConsumerRequest(name=name, lsn=lsn, history_id=history)
        found: api.ConsumerResponse = await self._call_at(replica, "RegisterConsumer", request)
        return found

    async def acknowledge_consumer(
        self, name: str, lsn: int, *, replica: str, history: str = ""
    ) -> api.ConsumerResponse:
        """The consumer has everything up to `lsn`: `replica` no longer keeps that for it. Raises
        NotFound, HistoryChanged, and RequestRefused: INVALID_ARGUMENT for an LSN that falls,
        COMPACTED if what follows is gone."""
        request = api.AcknowledgeConsumerRequest(name=name, lsn=lsn, history_id=history)
        found: api.ConsumerResponse = await self._call_at(replica, "AcknowledgeConsumer", request)
        return found

    async def remove_consumer(self, name: str, *, replica: str, history: str = "") -> None:
        """Raises NotFound, also if an earlier try removed it and its answer was lost."""
        request = api.RemoveConsumerRequest(name=name, history_id=history)
        await self._call_at(replica, "RemoveConsumer", request)

    async def list_consumers(self, *, replica: str) -> api.ListConsumersResponse:
        """The consumers that are registered at `replica`, and the lowest LSN that any needs."""
        request = api.ListConsumersRequest()
        found: api.ListConsumersResponse = await self._call_at(replica, "ListConsumers", request)
        return found

    async def history(self) -> str:
        """The ID of the group's history, as its leader tells it; "" from a leader of an earlier
        version, which has none. Keep it beside an LSN that you keep, and give both to `tail`: the
        same LSN of another history is another entry."""
        return (await self.status()).history_id

    async def status(self, *, stale_from: str = "") -> api.GetStatusResponse:
        """The status of the replica that a `tail` reads from: the leader, or `stale_from`. Waits
        for it until the deadline."""
        self.owner.check()
        deadline = Deadline(self._deadline_s)

        async def ask(stub: Any) -> api.GetStatusResponse:
            found = await _status(stub, deadline)
            if not (stale_from or (found.role == "leader" and found.serving)):
                raise Silent(f"it is {found.role} and does not serve as the leader")
            return found

        return await self._calls.retry(ask, deadline, stale_from)

    async def statuses(self) -> dict[str, api.GetStatusResponse | None]:
        """Each endpoint's status, None if it does not answer; `explain` says why. Raises TlsRefused
        if none answers and one never will."""
        self.owner.check()
        return await self._routing.statuses(min(STATUS_TIMEOUT_S, self._deadline_s))

    @property
    def endpoints(self) -> list[str]:
        """Each of the endpoints once."""
        return list(self._routing.endpoints)

    def explain(self, endpoint: str) -> str:
        """What was last heard of an endpoint."""
        return self._routing.explain(endpoint)

    # --- inside -------------------------------------------------------------------------------

    async def _open_session(self, address: str, history: str) -> ClientSession:
        request = api.OpenSessionRequest(time_to_live_ms=self._session_ttl_ms, history_id=history)
        try:
            response = await self._routing.stub(address).OpenSession(
                request, timeout=CALL_TIMEOUT_S
            )
        except grpc.aio.AioRpcError as error:
            self._routing.heard(address, f"OpenSession: {error.code().name}: {error.details()}")
            raise
        return ClientSession(int(response.session_id), response.history_id)

    async def _call(self, method: str, request: Any, stale_from: str) -> Any:
        self.owner.check()
        deadline = Deadline(self._deadline_s)

        async def call(stub: Any) -> Any:
            return await unary(getattr(stub, method), request, deadline)

        return await self._calls.retry(call, deadline, stale_from)

    async def _call_at(self, replica: str, method: str, request: Any) -> Any:
        """Calls the replica that the caller names. Raises InvalidEndpoint for "", which means the
        leader elsewhere: a consumer's position belongs to one replica."""
        return await self._call(method, request, check_endpoint(replica))


def link_payload(number: int, path: bytes) -> types.Operation:
    """Links the entry's payload `number`, from 1, to `path`."""
    return types.Operation(
        create_hard_link=types.CreateHardLink(payload=number, destination_path=path)
    )


def remove_entry(path: bytes) -> types.Operation:
    return types.Operation(remove_directory_entry=types.RemoveDirectoryEntry(path=path))


def create_directory(path: bytes, mode: int = DIRECTORY_MODE) -> types.Operation:
    return types.Operation(create_directory=types.CreateDirectory(path=path, mode=mode))


async def _status(stub: Any, deadline: Deadline) -> api.GetStatusResponse:
    """Of a replica that has a log; raises Silent for one that waits for its first state."""
    found: api.GetStatusResponse = await unary(stub.GetStatus, api.GetStatusRequest(), deadline)
    if found.role in ("unbootstrapped", "joining"):
        raise Silent("it waits for its first state")
    return found
