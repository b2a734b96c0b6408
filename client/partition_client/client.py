"""The asynchronous client."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.appends import AppendStream, ClientSession
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
from partition_client.gets import Gets, Source
from partition_client.pending_append import Appended, PendingAppend
from partition_client.pinned_state import PinnedState, pinned_state
from partition_client.routing import STATUS_TIMEOUT_S, Routing
from partition_client.sources import INLINE_BYTES_MAX, PayloadSource, upload_sources
from partition_client.waiting import Silent

DIRECTORY_MODE = 0o755


class AsyncClient:
    """A client of one partition. Use as an async context manager, on one event loop.

    endpoints: host:port of some of the replicas; of all of them if these are forwarded ports. Or
    unix:/PATH of the replica in the same pod; tls is then for the other replicas, which it names.
    deadline_s: seconds that a call may take with its retries; a transfer counts from its last
    progress.
    session_ttl_ms: how long the session outlives its last append; 0 means 10 minutes.
    follow_hints: connect to addresses that replicas name; False if only the endpoints are
    reachable.
    use_proxy: connect through the proxy in https_proxy or http_proxy of the environment.

    `stale_from` and `replica` of the methods name one replica by its own address, host:port, such
    as example-0.example-replicas.default.svc:7000. Don't give a Service's address. The next
    connection to a Service may reach another replica, which has applied less or lacks the consumer.
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
        """Raises InvalidEndpoint, ForkedProcess, and ValueError unless deadline_s is finite and
        above 0."""
        self._deadline_s = check_seconds(deadline_s)
        self._routing = Routing(endpoints, tls, follow_hints=follow_hints, use_proxy=use_proxy)
        self.owner = self._routing.owner
        self._calls = Calls(self._routing)
        self._session_ttl_ms = session_ttl_ms
        self._appends = AppendStream(self._routing, self._open_session)
        self._gets = Gets(self._routing, self._calls, self._deadline_s)
        self._close_lock = asyncio.Lock()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the streams of appends and gets, and closes all channels. Closes the session if the
        leader answers within a second; otherwise the session expires later. Does nothing if the
        client is closed, and in a fork of the client's process."""
        if not self.owner.here:
            return
        async with self._close_lock:  # a concurrent close would close channels that this one uses
            try:
                await self._close_session()
            finally:
                await self._routing.close()

    async def _close_session(self) -> None:
        session = await self._appends.close()
        await self._gets.close()
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

        Returns when the entry is committed; with `wait_applied`, when it is applied, with outcomes.
        Concurrent appends of one client may be ordered in any way. The deadline counts from the
        last progress of an upload. Raises ClientError.
        """
        self.owner.check()
        sources = sources or []
        allowed_s = self._deadline_s if deadline_s is None else deadline_s
        large = {s.digest: s for s in sources if s.size > INLINE_BYTES_MAX}

        async def upload(digests: list[bytes]) -> None:
            sources = [large[digest] for digest in digests]
            await upload_sources(self._calls, sources, lambda: Deadline(allowed_s))

        if large:
            await upload(list(large))
        proposal = types.Proposal(preconditions=preconditions or [], operations=operations)
        for source in sources:
            source.add_to(proposal)
        pending = PendingAppend(
            proposal, wait_applied, check_seconds(allowed_s), upload if large else None
        )
        return await self._appends.append(pending)

    async def append_many(
        self,
        many: Iterable[list[types.Operation]],
        *,
        wait_applied: bool = False,
        deadline_s: float | None = None,
    ) -> list[Appended | ClientError]:
        """Appends one entry for each list of operations, which name no payloads. It costs less than
        as many calls of `append`, because there is no task for each.

        Returns an answer or an error for each, in the order of `many`: some may be written and
        others not. The entries may be ordered in any way. The deadline is that of each. Raises
        ClientError if nothing was sent.
        """
        self.owner.check()
        allowed_s = check_seconds(self._deadline_s if deadline_s is None else deadline_s)
        pending = [
            PendingAppend(types.Proposal(operations=operations), wait_applied, allowed_s)
            for operations in many
        ]
        await self._appends.append_many(pending)
        return [_answer(one.future) for one in pending]

    async def set_key(self, key: bytes, value: bytes) -> Appended:
        return await self.append([types.Operation(set_key=types.SetKey(key=key, value=value))])

    async def delete_key(self, key: bytes) -> Appended:
        return await self.append([types.Operation(delete_key=types.DeleteKey(key=key))])

    async def put_file(
        self, path: bytes, source: PayloadSource, *, replace: bool = True
    ) -> Appended:
        """Writes a file into the tree. `replace` also replaces an empty directory. Raises
        TreeMismatch if the parent directory doesn't exist, if `path` is a directory with content,
        or, without `replace`, if `path` exists."""
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

    async def get_key(
        self, key: bytes, *, stale_from: str = "", read_from: str = ""
    ) -> bytes | None:
        """Returns the value, or None if the key is absent. The read is linearizable, from the
        leader. With `read_from`, it is linearizable from that replica, which asks the leader how
        far it has to be. With `stale_from`, it returns what that replica has applied. Concurrent
        gets of one client travel together. Raises ValueError if both are given."""
        self.owner.check()
        if stale_from and read_from:
            raise ValueError("give stale_from or read_from, not both")
        return await self._gets.get(key, Source(stale_from or read_from, bool(stale_from)))

    async def list_keys(
        self, start: bytes = b"", end: bytes = b"", *, stale_from: str = ""
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Yields keys of [start, end) with values, in byte order. Pages may be of different LSNs;
        `state` reads all of one LSN."""
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
        """Returns the entries below a directory, in byte order. Raises NotFound."""
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

        Resumes an interrupted stream. Raises NotFound, and TreeMismatch if the file changed during
        the read or the bytes don't match the digest; discard what was written then.
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
        """Yields applied entries from an LSN on; 0 is the first stored one. Resumes an interrupted
        stream.

        `follow`: wait for new entries, as long as a leader or the replica `stale_from` answers.
        `stale_from`: read only from this replica, by its own address.
        `history`: the history that from_lsn belongs to (see the method `history`); by default the
        current one of the first replica. Raises HistoryChanged if the group has another history,
        because it was restored: read the state, and continue behind its LSN. Raises
        DeadlineExceeded if no replica answers for the client's deadline.
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
                tries.refused = await self._calls.failed(
                    target, error, deadline, fixed=bool(stale_from)
                )

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
        """Registers a consumer that has everything up to `lsn`; 0 if it needs all that is stored.
        The log of `replica` then keeps the entries behind `lsn`, also after a restart. Read them
        with `tail(lsn + 1, stale_from=replica)`, and acknowledge them.

        `replica`: host:port of the replica itself, not of a Service. `history`: the history that
        `lsn` belongs to. The same call again does nothing. Raises HistoryChanged, and
        RequestRefused: INVALID_ARGUMENT if the name is registered at another LSN, COMPACTED if
        entries behind `lsn` are compacted. If a reader starts again, after a restart of its program
        or a StateLost, its name may be registered already. It calls `acknowledge_consumer` first,
        and registers after NotFound.
        """
        request = api.RegisterConsumerRequest(name=name, lsn=lsn, history_id=history)
        found: api.ConsumerResponse = await self._call_at(replica, "RegisterConsumer", request)
        return found

    async def acknowledge_consumer(
        self, name: str, lsn: int, *, replica: str, history: str = ""
    ) -> api.ConsumerResponse:
        """Confirms that the consumer has everything up to `lsn`, so that `replica` need not keep
        it. Raises NotFound, HistoryChanged, and RequestRefused: INVALID_ARGUMENT for an LSN below
        the last one, COMPACTED if entries behind `lsn` are compacted."""
        request = api.AcknowledgeConsumerRequest(name=name, lsn=lsn, history_id=history)
        found: api.ConsumerResponse = await self._call_at(replica, "AcknowledgeConsumer", request)
        return found

    async def remove_consumer(self, name: str, *, replica: str, history: str = "") -> None:
        """Removes a consumer. Raises NotFound, also if an earlier try of this call removed the
        consumer and the answer was lost."""
        request = api.RemoveConsumerRequest(name=name, history_id=history)
        await self._call_at(replica, "RemoveConsumer", request)

    async def list_consumers(self, *, replica: str) -> api.ListConsumersResponse:
        """Returns the consumers at `replica`, and its low-water mark: the lowest LSN that any of
        its positions needs."""
        request = api.ListConsumersRequest()
        found: api.ListConsumersResponse = await self._call_at(replica, "ListConsumers", request)
        return found

    async def history(self) -> str:
        """Returns the ID of the group's history, from its leader; "" if the leader's version has no
        history IDs. Store it with each LSN that you store, and give both to `tail`: the same LSN of
        another history is another entry."""
        return (await self.status()).history_id

    async def status(self, *, stale_from: str = "") -> api.GetStatusResponse:
        """Returns the status of the leader, or of the replica `stale_from`: of the replica that
        `tail` reads from. Waits for an answer until the deadline."""
        self.owner.check()
        deadline = Deadline(self._deadline_s)

        async def ask(stub: Any) -> api.GetStatusResponse:
            found = await _status(stub, deadline)
            if not (stale_from or (found.role == "leader" and found.serving)):
                raise Silent(f"it is {found.role} and does not serve as the leader")
            return found

        return await self._calls.retry(ask, deadline, stale_from)

    async def statuses(self) -> dict[str, api.GetStatusResponse | None]:
        """Returns each endpoint's status, or None if it does not answer; `explain` returns the
        reason. Raises TlsRefused if no endpoint answers and one of them fails by TLS."""
        self.owner.check()
        return await self._routing.statuses(min(STATUS_TIMEOUT_S, self._deadline_s))

    @property
    def endpoints(self) -> list[str]:
        """The endpoints, without duplicates."""
        return list(self._routing.endpoints)

    def explain(self, endpoint: str) -> str:
        """Returns the last failure of an endpoint, as text that begins with the endpoint."""
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
        """Calls the replica that the caller names. Raises InvalidEndpoint for "", which would mean
        the leader: a consumer's position belongs to one replica."""
        return await self._call(method, request, check_endpoint(replica))


def link_payload(number: int, path: bytes) -> types.Operation:
    """Returns the operation that links the entry's payload `number`, from 1, to `path`."""
    return types.Operation(
        create_hard_link=types.CreateHardLink(payload=number, destination_path=path)
    )


def remove_entry(path: bytes) -> types.Operation:
    return types.Operation(remove_directory_entry=types.RemoveDirectoryEntry(path=path))


def create_directory(path: bytes, mode: int = DIRECTORY_MODE) -> types.Operation:
    return types.Operation(create_directory=types.CreateDirectory(path=path, mode=mode))


def _answer(future: "asyncio.Future[Appended]") -> Appended | ClientError:
    error = future.exception()
    if error is None or isinstance(error, ClientError):
        return error or future.result()
    raise error


async def _status(stub: Any, deadline: Deadline) -> api.GetStatusResponse:
    """Returns the status of a replica. Raises Silent if it waits for its first state."""
    found: api.GetStatusResponse = await unary(stub.GetStatus, api.GetStatusRequest(), deadline)
    if found.role in ("unbootstrapped", "joining"):
        raise Silent("it waits for its first state")
    return found
