"""Reads files for an upload to a bucket: in parts, with a check of the content."""

import hashlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from partition_snapshots.errors import SourceDamaged
from partition_snapshots.parallel import run_to_end
from partition_snapshots.store import Told


class _Stopped(Exception):
    """The caller of the upload was cancelled."""


class UploadProgress:
    """The bytes of a file that are sent or in flight, and the time of the last progress."""

    def __init__(self, sent: Told) -> None:
        self._sent = sent
        self.bytes = 0
        self.last = 0.0

    def begin(self) -> None:
        """Starts a try. The bytes of the previous one no longer count."""
        if self.bytes:
            self._sent(-self.bytes)
            self.bytes = 0

    def done(self, size: int) -> None:
        self.bytes += size
        self.last = time.monotonic()
        self._sent(size)


WAIT = b""
"""An empty part, yielded before an error that makes obstore abort an upload. obstore waits for the
part in flight before it takes the next. Otherwise that part could arrive after the abort, and a
store may keep it."""


class FileReader:
    """Reads a file in parts on threads, and checks its digest before it yields the last part.
    `taken` is called with the size of a part when the client asks for the next one. All earlier
    parts are sent then, except those that the client has in flight."""

    def __init__(self, path: Path, size: int, digest: str, part: int, taken: Told) -> None:
        self._path = path
        self._size = size
        self._digest = digest
        self._part = part
        self._taken = taken
        self._stopped = False

    def stop(self) -> None:
        self._stopped = True

    async def all(self) -> bytes:
        return b"".join([part async for part in self.parts()])

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Yields the parts. Raises SourceDamaged before the last part if the file is damaged."""
        found = hashlib.sha256()
        left = self._size
        try:
            with self._path.open("rb") as file:
                while True:
                    part = await run_to_end(self._step, file, left, found)
                    left -= len(part)
                    if self._stopped:
                        yield WAIT
                        raise _Stopped
                    if not left and (file.read(1) or found.hexdigest() != self._digest):
                        yield WAIT
                        raise self._damaged("has content that does not match its digest")
                    if left and not part:
                        yield WAIT
                        raise self._damaged(f"is {left} bytes too short")
                    yield part
                    if not left:
                        return
                    self._taken(len(part))
        except OSError as error:
            yield WAIT
            raise self._damaged(error.strerror or str(error)) from error

    def _step(self, file: Any, left: int, found: Any) -> bytes:
        part: bytes = file.read(min(self._part, left))
        found.update(part)
        return part

    def _damaged(self, what: str) -> SourceDamaged:
        return SourceDamaged(f"{self._path} {what}; the volume is damaged")
