"""Files on their way to a bucket: read in parts, checked, and counted."""

import hashlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from partition_snapshots.errors import SourceDamaged
from partition_snapshots.parallel import run_to_end
from partition_snapshots.store import Told


class _Stopped(Exception):
    """Whoever wanted the upload wants it no more."""


class UploadProgress:
    """How much of a file is on its way or sent, and when it last became more."""

    def __init__(self, sent: Told) -> None:
        self._sent = sent
        self.bytes = 0
        self.last = 0.0

    def begin(self) -> None:
        """A try begins: nothing of the one before counts any more."""
        if self.bytes:
            self._sent(-self.bytes)
            self.bytes = 0

    def done(self, size: int) -> None:
        self.bytes += size
        self.last = time.monotonic()
        self._sent(size)


WAIT = b""
"""Given before an error that makes obstore abort an upload: before it takes anything, obstore waits
for the part under way. A store may keep a part that arrives after the abort."""


class FileReader:
    """Reads a file in parts on threads, and checks it before the last is given. `taken` is told of
    each part when the next one is asked for: it is sent then, but for what the client has under
    way."""

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
        """Raises SourceDamaged instead of giving the last part of another file."""
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
                        raise self._damaged("has other content than its name says")
                    if left and not part:
                        yield WAIT
                        raise self._damaged(f"ends {left} bytes early")
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
        return SourceDamaged(f"{self._path} {what}: the volume is damaged")
