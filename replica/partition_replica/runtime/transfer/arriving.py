"""A payload that is passed on while it arrives."""

import asyncio
import io
import logging
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

from partition_replica.threads import run_to_end

logger = logging.getLogger(__name__)


class ArrivingFile:
    """A staging file that grows. Others read it behind its writer: from the file, so that a slow
    reader costs no memory. On the event loop; threads read."""

    def __init__(self, path: Path, size: int, chunk_bytes: int) -> None:
        """size: bytes of the complete file. chunk_bytes: the most that one read returns."""
        self._path = path
        self._size = size
        self._chunk_bytes = chunk_bytes
        self._written = 0
        self._given_up = False
        self._changed = asyncio.Event()

    def advance(self, written: int) -> None:
        """Says that the file has its first `written` bytes now."""
        self._written = written
        self._wake_readers()

    def end(self) -> None:
        """Says that no more comes. Readers of an incomplete file end where they are."""
        self._given_up = self._written < self._size
        self._wake_readers()

    @property
    def path(self) -> Path:
        return self._path

    @property
    def given_up(self) -> bool:
        """Whether the file ended incomplete."""
        return self._given_up

    @property
    def complete(self) -> bool:
        """Whether all of it has arrived."""
        return self._written == self._size

    def _wake_readers(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def beyond(self, done: int) -> int:
        """Waits until the file has more than `done` bytes; returns how many it has. Returns `done`
        if no more will come."""
        while self._written == done and not self._given_up and done < self._size:
            await self._changed.wait()
        return self._written

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yields the content from its beginning, as it arrives. Ends early if the file is given up,
        renamed before it could be opened, or unreadable; the receiver refuses what is incomplete.
        So it raises nothing, which gRPC's request iterators need."""
        try:
            file = await run_to_end(lambda: self._path.open("rb", buffering=0), io.FileIO.close)
        except FileNotFoundError:
            return  # it is complete, or given up
        except OSError as error:
            self._say_unreadable(error)
            return
        try:
            async for chunk in self._read(file):
                yield chunk
        except OSError as error:
            self._say_unreadable(error)
        finally:
            file.close()

    async def _read(self, file: io.FileIO) -> AsyncGenerator[bytes, None]:
        done = 0
        while done < self._size:
            count = min(await self.beyond(done) - done, self._chunk_bytes)
            chunk = await run_to_end(partial(file.read, count)) if count else b""
            if not chunk:
                return
            done += len(chunk)
            yield chunk

    def _say_unreadable(self, error: OSError) -> None:
        logger.warning("%s can't be passed on while it arrives: %s", self._path.name, error)
