"""Payloads of an append: their content, in memory or in a file, and its upload."""

import asyncio
import hashlib
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from partition_client.calls import Calls, Deadline, moving
from partition_client.errors import SourceFailed, detail_of

INLINE_BYTES_MAX = 64 * 1024
"""Content up to this size travels in the append itself; larger content is uploaded before it."""

CHUNK_BYTES = 512 * 1024
"""Bytes of an upload in one message."""


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
    def of_file(cls, path: Path) -> "PayloadSource":
        """Reads the file once for its digest. Keeps content up to INLINE_BYTES_MAX in memory.
        Raises OSError with the file's name, and SourceFailed for larger content that can't be read
        a second time to send it, such as a pipe's."""
        mode = path.stat().st_mode
        digest, size = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                first = file.read(INLINE_BYTES_MAX + 1)
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
        return cls(digest.digest(), size, mode & 0o777, path)

    def payload(self) -> types.Payload:
        payload = types.Payload(digest=self.digest, size=self.size, mode=self.mode)
        if self.size <= INLINE_BYTES_MAX and isinstance(self.content, bytes):
            payload.data = self.content
        return payload


async def upload_source(calls: Calls, source: PayloadSource, deadline: Deadline) -> None:
    """Uploads a source's content to the leader. Each chunk restarts the deadline. Raises
    SourceFailed if the file became unreadable or has changed, and ClientError."""

    async def upload(stub: Any) -> None:
        failures: list[OSError] = []
        requests = _upload_requests(source, failures, deadline)
        try:
            await moving(stub.UploadPayload(requests), deadline)
        except grpc.aio.AioRpcError as error:
            if failures:
                raise SourceFailed(
                    f"{source.content!s} can't be read any more: {failures[0].strerror}"
                ) from failures[0]
            detail = detail_of(error)
            changed = detail is not None and detail.reason == types.REASON_PAYLOAD_MISMATCH
            if changed and isinstance(source.content, Path):
                raise SourceFailed(
                    f"{source.content} changed while it was sent; send it again"
                ) from error
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
        failures.append(error)
