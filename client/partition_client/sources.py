"""Payloads of an append: their content, in memory or in a file, and its upload."""

import asyncio
import hashlib
import io
import os
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.calls import Calls, Deadline, moving
from partition_client.errors import RequestRefused, SourceFailed, detail_of

INLINE_BYTES_MAX = 64 * 1024
"""Content up to this size travels in the append itself; larger content is uploaded before it."""

CHUNK_BYTES = 512 * 1024
"""Bytes of an upload in one message."""

TOGETHER_BYTES_MAX = 1024 * 1024
"""Content up to this size is uploaded with that of other payloads of the append."""

TOGETHER_MAX = 256
"""Payloads per call that uploads several."""

CALL_BYTES_MAX = 8 * 1024 * 1024
"""Content per such a call. The leader syncs and passes on all of it after the last message, within
the deadline."""

MESSAGE_BYTES_MAX = 1024 * 1024
"""Content per message of such a call, at least one payload."""


@dataclass(frozen=True, slots=True)
class PayloadSource:
    """A payload's content: bytes, or a file of `size` bytes whose SHA-256 is `digest`."""

    digest: bytes
    size: int
    mode: int
    content: bytes | Path

    @classmethod
    def of_bytes(cls, content: bytes, mode: int = 0o644) -> "PayloadSource":
        return cls(hashlib.sha256(content).digest(), len(content), mode, content)

    @classmethod
    def of_file(cls, path: Path | str) -> "PayloadSource":
        """Reads the file once for its digest. Keeps content up to INLINE_BYTES_MAX in memory.
        Raises OSError with the file's name, and SourceFailed for larger content that can't be read
        a second time to send it, such as a pipe's."""
        digest, size = hashlib.sha256(), 0
        try:
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                mode = status.st_mode
                first = _read_first(file, status)
                if len(first) <= INLINE_BYTES_MAX:
                    return cls.of_bytes(first, mode & 0o777)
                if not stat.S_ISREG(mode):
                    raise SourceFailed(
                        f"{path} is not a regular file and has more than {INLINE_BYTES_MAX} bytes; "
                        "copy it to a regular file, and give that file"
                    )
                block = first
                while block:
                    digest.update(block)
                    size += len(block)
                    block = file.read(1 << 20)
        except OSError as error:
            error.filename = error.filename or str(path)
            raise
        return cls(digest.digest(), size, mode & 0o777, Path(path))

    def add_to(self, proposal: types.Proposal) -> None:
        """Adds the payload, with its content if that travels in the append. A message that is made
        first would be encoded and decoded to be added."""
        data = self.content if self.size <= INLINE_BYTES_MAX else b""
        proposal.payloads.add(
            digest=self.digest,
            size=self.size,
            mode=self.mode,
            data=data if isinstance(data, bytes) else b"",
        )


def _read_first(file: io.FileIO, status: os.stat_result) -> bytes:
    """As `_read_up_to` INLINE_BYTES_MAX + 1 bytes. A regular file that is as large as its status
    says takes one read, into no more memory than that."""
    if not stat.S_ISREG(status.st_mode) or not 0 < status.st_size <= INLINE_BYTES_MAX:
        return _read_up_to(file, INLINE_BYTES_MAX + 1)
    found = file.read(status.st_size + 1)
    if len(found) == status.st_size:
        return found
    return found + _read_up_to(file, INLINE_BYTES_MAX + 1 - len(found))


def _read_up_to(file: io.FileIO, size: int) -> bytes:
    """Reads until the end or `size` bytes: a pipe gives less at a time."""
    found = file.read(size)
    while found and len(found) < size and (more := file.read(size - len(found))):
        found += more
    return found


async def upload_sources(
    calls: Calls, sources: Sequence[PayloadSource], deadlines: Callable[[], Deadline]
) -> None:
    """Uploads the contents of large payloads, which differ, to the leader. Those up to
    TOGETHER_BYTES_MAX travel in calls with others. Each message restarts its call's deadline.
    Raises SourceFailed if a file became unreadable or has changed, and ClientError."""
    together = [source for source in sources if source.size <= TOGETHER_BYTES_MAX]
    alone = [source for source in sources if source.size > TOGETHER_BYTES_MAX]
    taken = True
    for some in _cut(together, CALL_BYTES_MAX, TOGETHER_MAX):
        if taken and len(some) > 1:
            taken = await _upload_together(calls, some, deadlines())
        if not taken or len(some) == 1:
            alone += some
    for source in alone:
        await upload_source(calls, source, deadlines())


class _OneByOne(Exception):
    """The payloads are to be uploaded one by one."""


async def _upload_together(
    calls: Calls, sources: Sequence[PayloadSource], deadline: Deadline
) -> bool:
    """Returns False if the leader, of an earlier version, takes them one by one only."""

    async def upload(stub: Any) -> None:
        deadline.next_upload()
        failures: list[Exception] = []
        try:
            await moving(
                stub.UploadPayloads(_requests_together(sources, failures, deadline)), deadline
            )
        except grpc.aio.AioRpcError as error:
            if failures:
                raise failures[0] from None
            if error.code() is grpc.StatusCode.INTERNAL:
                # grpcio tells of its own failed write, not of the answer that it came from:
                # UNIMPLEMENTED, or an error that an upload alone gets, too.
                raise _OneByOne from error
            raise
        if failures:  # the leader has what came before
            raise failures[0]

    try:
        await calls.retry(upload, deadline)
    except _OneByOne:
        return False
    except RequestRefused as refused:
        if refused.reason != "UNIMPLEMENTED":
            raise
        return False
    return True


async def _requests_together(
    sources: Sequence[PayloadSource], failures: list[Exception], deadline: Deadline
) -> AsyncIterator[api.UploadPayloadsRequest]:
    """Yields the messages of an upload of several. Errors of files go to `failures`, as in
    `_upload_requests`."""
    for some in _cut(sources, MESSAGE_BYTES_MAX, TOGETHER_MAX):
        try:
            contents = await asyncio.to_thread(_contents, some)
        except (OSError, SourceFailed) as error:
            failures.append(error if isinstance(error, SourceFailed) else _unreadable(error))
            return
        yield api.UploadPayloadsRequest(payloads=contents)
        deadline.progress()


def _cut(
    sources: Sequence[PayloadSource], bytes_max: int, count_max: int
) -> Iterator[list[PayloadSource]]:
    """Yields groups within the limits, of at least one source each."""
    some: list[PayloadSource] = []
    size = 0
    for source in sources:
        if some and (size + source.size > bytes_max or len(some) == count_max):
            yield some
            some, size = [], 0
        some.append(source)
        size += source.size
    if some:
        yield some


def _contents(sources: Sequence[PayloadSource]) -> list[types.PayloadContent]:
    """Raises OSError, and SourceFailed for a file that has changed."""
    found = []
    for source in sources:
        content = source.content if isinstance(source.content, bytes) else _again(source)
        found.append(types.PayloadContent(digest=source.digest, content=content))
    return found


def _again(source: PayloadSource) -> bytes:
    """A file's content, which must have the digest that it had."""
    try:
        with open(source.content, "rb", buffering=0) as file:
            content = _read_up_to(file, source.size + 1)
    except OSError as error:
        error.filename = error.filename or str(source.content)
        raise
    if hashlib.sha256(content).digest() != source.digest:
        raise _changed(source)
    return content


def _changed(source: PayloadSource) -> SourceFailed:
    return SourceFailed(f"{source.content!s} changed while it was sent; send it again")


def _unreadable(error: OSError) -> SourceFailed:
    return SourceFailed(f"{error.filename} can't be read any more: {error.strerror}")


async def upload_source(calls: Calls, source: PayloadSource, deadline: Deadline) -> None:
    """Uploads a source's content to the leader. Each chunk restarts the deadline. Raises
    SourceFailed if the file became unreadable or has changed, and ClientError."""

    async def upload(stub: Any) -> None:
        deadline.next_upload()
        failures: list[OSError] = []
        requests = _upload_requests(source, failures, deadline)
        try:
            await moving(stub.UploadPayload(requests), deadline)
        except grpc.aio.AioRpcError as error:
            if failures:
                raise _unreadable(failures[0]) from failures[0]
            detail = detail_of(error)
            changed = detail is not None and detail.reason == types.REASON_PAYLOAD_MISMATCH
            if changed and isinstance(source.content, Path):
                raise _changed(source) from error
            raise

    await calls.retry(upload, deadline)


async def _upload_requests(
    source: PayloadSource, failures: list[OSError], deadline: Deadline
) -> AsyncIterator[api.UploadPayloadRequest]:
    """Yields the messages of an upload. Each chunk that gRPC accepts restarts the deadline.

    An error in a request iterator would cancel the caller's task. So a read error goes to
    `failures`, and the replica refuses the incomplete upload."""
    yield api.UploadPayloadRequest(payload=types.Payload(digest=source.digest, size=source.size))
    if isinstance(source.content, bytes):
        for start in range(0, len(source.content), CHUNK_BYTES):
            yield api.UploadPayloadRequest(chunk=source.content[start : start + CHUNK_BYTES])
            deadline.progress()
        return
    try:
        with source.content.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield api.UploadPayloadRequest(chunk=chunk)
                deadline.progress()
    except OSError as error:
        error.filename = error.filename or str(source.content)
        failures.append(error)
