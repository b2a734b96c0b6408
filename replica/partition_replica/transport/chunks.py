"""Streams content as chunks, and small payloads as batches."""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from partition_replica.core.limits import (
    PAYLOAD_BATCH_BYTES_MAX,
    PAYLOAD_BATCHED_BYTES_MAX,
    PAYLOADS_A_CALL_MAX,
)
from partition_replica.core.payloads import CompletePayloads
from partition_replica.core.validation import check_digest
from partition_replica.errors import InvalidArgument, NotFound, Overloaded

CHUNK_BYTES_MAX = 1024 * 1024


async def file_chunks(path: Path, offset: int, count: int) -> AsyncGenerator[bytes, None]:
    """Yields a file's content from `offset` on. Threads read one chunk ahead. Raises NotFound."""

    def opened() -> io.FileIO:
        file = path.open("rb", buffering=0)
        file.seek(offset)
        return file

    try:
        file = await asyncio.to_thread(opened)
    except FileNotFoundError as error:
        raise NotFound(f"payload {path.name} was deleted here meanwhile") from error

    def close(done: "asyncio.Future[bytes]") -> None:
        file.close()
        if not done.cancelled():
            done.exception()  # retrieved, or asyncio would log it: no caller waits for this read

    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, file.read, count)
    try:
        # Shielded: a cancelled future would be done while its thread still reads.
        while chunk := await asyncio.shield(reading):
            reading = loop.run_in_executor(None, file.read, count)
            yield chunk
    finally:
        # Not while a thread reads: its descriptor could then belong to another file.
        reading.add_done_callback(close)


async def file_batches(
    locate: Callable[[bytes], tuple[Path, int]], digests: Sequence[bytes]
) -> AsyncIterator[list[bytes]]:
    """Yields whole small payloads in order, as many per batch as fit into a message. Threads read
    them. `locate` returns (path, size). Raises NotFound, InvalidArgument and the errors of
    `locate`."""
    batches = _batches(locate, digests)
    while batch := await asyncio.to_thread(next, batches, None):
        yield batch


def _batches(
    locate: Callable[[bytes], tuple[Path, int]], digests: Sequence[bytes]
) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    total = 0
    for digest in digests:
        path, size = locate(digest)
        if size > PAYLOAD_BATCHED_BYTES_MAX:
            raise InvalidArgument(
                f"payload {digest.hex()} has {size} bytes: at most "
                f"{PAYLOAD_BATCHED_BYTES_MAX} are allowed in a batch. Fetch it with FetchPayload"
            )
        total += size
        if batch and total > PAYLOAD_BATCH_BYTES_MAX:
            yield batch
            batch, total = [], size
        try:
            batch.append(path.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(f"payload {path.name} was deleted here meanwhile") from error
    if batch:
        yield batch


async def in_time(requests: AsyncIterator[Any], stall_s: float) -> AsyncGenerator[Any, None]:
    """Yields the same messages. Raises Overloaded if no message arrives for `stall_s` seconds,
    because other senders may wait for this stream's place."""
    while True:
        try:
            async with asyncio.timeout(stall_s):
                message = await anext(requests, None)
        except TimeoutError as error:
            raise Overloaded(
                f"no message arrived for {stall_s} s: the call is ended, so that other callers get "
                "its place. Send it again"
            ) from error
        if message is None:
            return
        yield message


async def payload_chunks(
    first: bytes, requests: AsyncIterator[Any], field: str
) -> AsyncIterator[bytes]:
    """Yields `first`, then the `field` of each message. Raises InvalidArgument if a chunk is larger
    than CHUNK_BYTES_MAX."""
    if first:
        yield _bounded(first)
    async for request in requests:
        yield _bounded(getattr(request, field))


async def payload_groups(
    requests: AsyncIterator[Any],
) -> AsyncIterator[CompletePayloads]:
    """Yields the payloads of each message as (digest, content). Raises InvalidArgument if they
    exceed a limit of PAYLOADS_A_CALL_MAX, PAYLOAD_BATCH_BYTES_MAX and PAYLOAD_BATCHED_BYTES_MAX."""
    count = 0
    async for request in requests:
        if not request.payloads:
            raise InvalidArgument("a message has no payload: send at least one in each")
        count += len(request.payloads)
        if count > PAYLOADS_A_CALL_MAX:
            raise InvalidArgument(
                f"the call has more than {PAYLOADS_A_CALL_MAX} payloads: send the others in "
                "another call"
            )
        sizes = [len(payload.content) for payload in request.payloads]
        if max(sizes) > PAYLOAD_BATCHED_BYTES_MAX:
            raise InvalidArgument(
                f"a payload has {max(sizes)} bytes; at most {PAYLOAD_BATCHED_BYTES_MAX} are "
                "allowed in a call with several: send it alone"
            )
        if sum(sizes) > PAYLOAD_BATCH_BYTES_MAX:
            raise InvalidArgument(
                f"a message has {sum(sizes)} bytes of content; at most {PAYLOAD_BATCH_BYTES_MAX} "
                "are allowed"
            )
        for payload in request.payloads:
            check_digest(payload.digest, "the payload")
        yield [(payload.digest, payload.content) for payload in request.payloads]


def _bounded(chunk: bytes) -> bytes:
    if len(chunk) > CHUNK_BYTES_MAX:
        raise InvalidArgument(
            f"a chunk has {len(chunk)} bytes; at most {CHUNK_BYTES_MAX} are allowed"
        )
    return chunk
