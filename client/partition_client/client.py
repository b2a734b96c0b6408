"""The asynchronous client."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.appends import BACKOFF_S, AppendStream, Pending, Session
from partition_client.channels import Tls
from partition_client.errors import (
    RETRIED,
    DeadlineExceeded,
    NotFound,
    RequestRefused,
    TreeMismatch,
    detail_of,
    from_detail,
    not_written,
)
from partition_client.routing import Routing

INLINE_BYTES_MAX = 64 * 1024
CHUNK_BYTES = 512 * 1024
CALL_TIMEOUT_S = 10.0
UPLOAD_TIMEOUT_S = 3600.0
DIRECTORY_MODE = 0o755

RETRIED_CODES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an append stands. `outcomes`: a types.Outcome an operation, where it waited for the
    apply and not all were APPLIED."""

    lsn: int
    term: int
    outcomes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """A payload's content: bytes, or a file of `size` bytes whose SHA-256 is `digest`."""

    digest: bytes
    size: int
    mode: int
    content: bytes | Path

    @classmethod
    def of_bytes(cls, content: bytes, mode: int = 0o644) -> "Source":
        return cls(hashlib.sha256(content).digest(), len(content), mode, content)

    @classmethod
    def of_file(cls, path: Path) -> "Source":
        """Reads the file once for its digest; small ones are kept."""
        mode = path.stat().st_mode & 0o777
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            first = file.read(INLINE_BYTES_MAX + 1)
            if len(first) <= INLINE_BYTES_MAX:
                return cls.of_bytes(first, mode)
            block = first
            while block:
                digest.update(block)
                size += len(block)
                block = file.read(1 << 20)
        return cls(digest.digest(), size, mode, path)

    def payload(self) -> types.Payload:
        payload = types.Payload(digest=self.digest, size=self.size, mode=self.mode)
        if self.size <= INLINE_BYTES_MAX and isinstance(self.content, bytes):
            payload.data = self.content
        return payload


class AsyncClient:
    """A client of one partition. Use as an async context manager, on one event loop.

    endpoints: host:port of any of the replicas, all of them for port-forwards.
    deadline_s: how long a call goes on retrying, unless it says otherwise.
    follow_hints: dial addresses that replicas name; False where only the endpoints can be reached.
    """

    def __init__(
        self,
        endpoints: list[str],
        tls: Tls | None = None,
        *,
        deadline_s: float = 60.0,
        session_ttl_ms: int = 0,
        follow_hints: bool = True,
    ) -> None:
        self._routing = Routing(endpoints, tls, follow_hints=follow_hints)
        self._deadline_s = deadline_s
        self._session_ttl_ms = session_ttl_ms
        self._appends = AppendStream(self._routing, self._open_session)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the stream and, where a leader answers at once, the session; else it expires."""
        session = await self._appends.close()
        if session is not None and self._routing.leader:
            request = api.CloseSessionRequest(session_id=session.id, history_id=session.history)
            with suppress(grpc.aio.AioRpcError):  # it expires by itself
                await self._routing.stub(self._routing.leader).CloseSession(request, timeout=1.0)
        await self._routing.close()

    # --- writes -------------------------------------------------------------------------------

    async def append(
        self,
        operations: list[types.Operation],
        sources: list[Source] | None = None,
        *,
        preconditions: list[types.Precondition] | None = None,
        wait_applied: bool = False,
        deadline_s: float | None = None,
    ) -> Appended:
        """Appends one entry. Operations name `sources` by their number, from 1.

        Returns when it is committed, or applied (with outcomes). Appends of one client that are
        under way at once are not ordered among each other. Raises ClientError.
        """
        sources = sources or []
        deadline = self._deadline(deadline_s)
        large = {s.digest: s for s in sources if s.size > INLINE_BYTES_MAX}

        async def upload(digests: list[bytes]) -> None:
            for digest in digests:
                await self._upload(large[digest], deadline)

        if large:
            await upload(list(large))
        proposal = types.Proposal(
            preconditions=preconditions or [],
            payloads=[source.payload() for source in sources],
            operations=operations,
        )
        response = await self._appends.append(
            Pending(proposal, wait_applied, deadline, upload if large else None)
        )
        return Appended(response.lsn, response.term, tuple(response.outcomes))

    async def set_key(self, key: bytes, value: bytes) -> Appended:
        return await self.append([types.Operation(set_key=types.SetKey(key=key, value=value))])

    async def delete_key(self, key: bytes) -> Appended:
        return await self.append([types.Operation(delete_key=types.DeleteKey(key=key))])

    async def put_file(self, path: bytes, source: Source, *, replace: bool = True) -> Appended:
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
        """The value, or None. Linearizable, unless `stale_from` names an endpoint to ask."""
        request = api.GetKeyRequest(key=key, consistency=_consistency(stale_from))
        response: api.GetKeyResponse = await self._call("GetKey", request, stale_from)
        return response.value if response.found else None

    async def list_keys(
        self, start: bytes = b"", end: bytes = b"", *, stale_from: str = ""
    ) -> AsyncIterator[tuple[bytes, bytes]]:
        """Keys of [start, end) with values; pages are not one snapshot."""
        while True:
            request = api.ListKeysRequest(
                start=start, end=end, consistency=_consistency(stale_from)
            )
            response: api.ListKeysResponse = await self._call("ListKeys", request, stale_from)
            for item in response.items:
                yield item.key, item.value
            if not response.next_start:
                return
            start = response.next_start

    async def list_tree(
        self, path: bytes = b"", *, recursive: bool = False, stale_from: str = ""
    ) -> list[api.TreeEntry]:
        """Entries below a directory, in byte order."""
        request = api.ListTreeRequest(
            path=path, recursive=recursive, consistency=_consistency(stale_from)
        )

        async def read(stub: Any) -> list[api.TreeEntry]:
            entries: list[api.TreeEntry] = []
            async for response in stub.ListTree(request, timeout=UPLOAD_TIMEOUT_S):
                entries.extend(response.entries)
            return entries

        return await self._retry(read, stale_from, None)

    async def read_file(
        self, path: bytes, write: Callable[[bytes], object], *, stale_from: str = ""
    ) -> api.TreeEntry:
        """Streams a file's content to `write`, and checks its digest.

        Goes on where a stream breaks. Raises NotFound, and TreeMismatch where the file changed
        meanwhile or the bytes don't match: what was written then is to be thrown away.
        """
        digest = hashlib.sha256()
        entry: api.TreeEntry | None = None
        received = 0

        async def read(stub: Any) -> api.TreeEntry:
            nonlocal entry, received
            request = api.ReadFileRequest(
                path=path, offset=received, consistency=_consistency(stale_from)
            )
            async for response in stub.ReadFile(request, timeout=UPLOAD_TIMEOUT_S):
                if response.HasField("entry"):
                    if entry is not None and entry.digest != response.entry.digest:
                        raise TreeMismatch(f"{path!r} changed while it was read", "TREE")
                    entry = response.entry
                digest.update(response.data)
                received += len(response.data)
                write(response.data)
            if entry is None:
                raise NotFound(f"{path!r}: the replica sent nothing", "NOT_FOUND")
            return entry

        found = await self._retry(read, stale_from, UPLOAD_TIMEOUT_S)
        if digest.digest() != found.digest or received != found.size:
            raise TreeMismatch(f"{path!r}: the bytes received don't match their digest", "TREE")
        return found

    async def tail(
        self, from_lsn: int = 0, *, follow: bool = False, stale_from: str = ""
    ) -> AsyncIterator[api.ReadResponse]:
        """Applied entries from an LSN on, 0 for the first there is; goes on where it breaks."""
        position = from_lsn
        while True:
            address = stale_from or await self._routing.find_leader() or self._routing.endpoints[0]
            try:
                stub = self._routing.stub(address)
                async for response in stub.Read(api.ReadRequest(from_lsn=position, follow=follow)):
                    position = response.lsn + 1
                    yield response
                return
            except grpc.aio.AioRpcError as error:
                detail = detail_of(error)
                if detail is not None and detail.reason not in RETRIED:
                    raise from_detail(detail) from error
                if error.code() not in RETRIED_CODES:
                    raise RequestRefused(str(error.details()), error.code().name) from error
                self._routing.forget_leader()
                await asyncio.sleep(BACKOFF_S[-1])

    async def statuses(self) -> dict[str, api.GetStatusResponse | None]:
        """Each endpoint's status, None where it does not answer."""
        found = await asyncio.gather(
            *(self._routing.status(endpoint) for endpoint in self._routing.endpoints)
        )
        return dict(zip(self._routing.endpoints, found, strict=True))

    # --- inside -------------------------------------------------------------------------------

    async def _open_session(self, history: str) -> Session:
        address = await self._routing.find_leader()
        request = api.OpenSessionRequest(time_to_live_ms=self._session_ttl_ms, history_id=history)
        response = await self._routing.stub(address).OpenSession(request, timeout=CALL_TIMEOUT_S)
        return Session(int(response.session_id), response.history_id)

    async def _upload(self, source: Source, deadline: float) -> None:
        async def upload(stub: Any) -> None:
            failures: list[OSError] = []
            try:
                await stub.UploadPayload(
                    _upload_requests(source, failures), timeout=UPLOAD_TIMEOUT_S
                )
            except grpc.aio.AioRpcError:
                if failures:
                    raise failures[0] from None
                raise

        await self._retry(upload, "", deadline - asyncio.get_running_loop().time())

    async def _call(self, method: str, request: Any, stale_from: str) -> Any:
        async def call(stub: Any) -> Any:
            return await getattr(stub, method)(request, timeout=CALL_TIMEOUT_S)

        return await self._retry(call, stale_from, None)

    async def _retry(
        self, call: Callable[[Any], Awaitable[T]], address: str, deadline_s: float | None
    ) -> T:
        """Calls a replica, the leader where `address` is "", until it answers or time is up."""
        deadline = self._deadline(deadline_s)
        failures = 0
        while True:
            last = "no replica says that it leads"
            target = address or await self._routing.find_leader()
            try:
                if target:
                    return await call(self._routing.stub(target))
            except grpc.aio.AioRpcError as error:
                detail = detail_of(error)
                last = f"{target}: {error.code().name} {error.details()}"
                if detail is not None and detail.reason not in RETRIED:
                    raise from_detail(detail) from error
                if detail is None and error.code() not in RETRIED_CODES:
                    raise RequestRefused(last, error.code().name) from error
                if detail is not None and detail.HasField("leader"):
                    self._routing.hint(detail.leader)
                else:
                    self._routing.forget_leader()
            pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            if asyncio.get_running_loop().time() + pause > deadline:
                raise DeadlineExceeded(f"no answer before the deadline; last: {last}")
            failures += 1
            await asyncio.sleep(pause)

    def _deadline(self, seconds: float | None) -> float:
        return asyncio.get_running_loop().time() + (
            self._deadline_s if seconds is None else seconds
        )


def link_payload(number: int, path: bytes) -> types.Operation:
    """Links the entry's payload `number`, from 1, to `path`."""
    return types.Operation(
        create_hard_link=types.CreateHardLink(payload=number, destination_path=path)
    )


def remove_entry(path: bytes) -> types.Operation:
    return types.Operation(remove_directory_entry=types.RemoveDirectoryEntry(path=path))


def create_directory(path: bytes, mode: int = DIRECTORY_MODE) -> types.Operation:
    return types.Operation(create_directory=types.CreateDirectory(path=path, mode=mode))


def _consistency(stale_from: str) -> api.Consistency:
    return api.CONSISTENCY_STALE if stale_from else api.CONSISTENCY_LINEARIZABLE


async def _upload_requests(
    source: Source, failures: list[OSError]
) -> AsyncIterator[api.UploadPayloadRequest]:
    """An error in a request iterator would cancel the caller's task: it is kept aside, and the
    upload, cut short, is refused."""
    yield api.UploadPayloadRequest(payload=types.Payload(digest=source.digest, size=source.size))
    if isinstance(source.content, bytes):
        for start in range(0, len(source.content), CHUNK_BYTES):
            yield api.UploadPayloadRequest(chunk=source.content[start : start + CHUNK_BYTES])
        return
    try:
        with source.content.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield api.UploadPayloadRequest(chunk=chunk)
    except OSError as error:
        failures.append(error)
