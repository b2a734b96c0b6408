"""Content as chunks, in and out, and small payloads in batches."""

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from partition_replica.core.limits import (
    PAYLOAD_BATCH_BYTES_MAX,
    PAYLOAD_BATCHED_BYTES_MAX,
)
from partition_replica.errors import InvalidArgument, NotFound, Overloaded

CHUNK_BYTES_MAX = 1024 * 1024


async def file_chunks(path: Path, offset: int, count: int) -> AsyncGenerator[bytes, None]:
    """A file's content from offset on, read on threads, one chunk ahead. Raises NotFound."""

    def opened() -> io.FileIO:
        file = path.open("rb", buffering=0)
        file.seek(offset)
        return file

    try:
        file = await asyncio.to_thread(opened)
    except FileNotFoundError as error:
        raise NotFound(f"payload {path.name} is not here any more") from error

    def close(done: "asyncio.Future[bytes]") -> None:
        file.close()
        if not done.cancelled():
            done.exception()  # seen: nobody waits for what it read ahead

    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, file.read, count)
    try:
        # Shielded, or one that is cancelled would be done while its thread reads on.
        while chunk := await asyncio.shield(reading):
            reading = loop.run_in_executor(None, file.read, count)
            yield chunk
    finally:
        # Not below a thread that reads: its descriptor may be another file's by then.
        reading.add_done_callback(close)


async def file_batches(
    locate: Callable[[bytes], tuple[Path, int]], digests: Sequence[bytes]
) -> AsyncIterator[list[bytes]]:
    """Small payloads whole, in their order, as many at a time as a message may carry; read on
    threads. `locate` says (path, size). Raises what it raises, NotFound, InvalidArgument."""
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
                f"payload {digest.hex()} has {size} bytes: those above "
                f"{PAYLOAD_BATCHED_BYTES_MAX} are fetched one by one (FetchPayload)"
            )
        total += size
        if batch and total > PAYLOAD_BATCH_BYTES_MAX:
            yield batch
            batch, total = [], size
        try:
            batch.append(path.read_bytes())
        except FileNotFoundError as error:
            raise NotFound(f"payload {path.name} is not here any more") from error
    if batch:
        yield batch


async def in_time(requests: AsyncIterator[Any], stall_s: float) -> AsyncGenerator[Any, None]:
    """The same messages. Raises Overloaded when none comes for `stall_s`: the sender has a place
    that others wait for."""
    while True:
        try:
            async with asyncio.timeout(stall_s):
                message = await anext(requests, None)
        except TimeoutError as error:
            raise Overloaded(
                f"nothing came for {stall_s} s: the call is given up, so that others get its "
                "place; send it again"
            ) from error
        if message is None:
            return
        yield message


async def payload_chunks(
    first: bytes, requests: AsyncIterator[Any], field: str
) -> AsyncIterator[bytes]:
    """The content of a stream of messages: `first`, then each one's `field`, bounded."""
    if first:
        yield _bounded(first)
    async for request in requests:
        yield _bounded(getattr(request, field))


def _bounded(chunk: bytes) -> bytes:
    if len(chunk) > CHUNK_BYTES_MAX:
        raise InvalidArgument(f"a chunk has {len(chunk)} bytes; at most {CHUNK_BYTES_MAX}")
    return chunk
