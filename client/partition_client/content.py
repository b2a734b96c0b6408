"""The content of a file, as a replica streams it."""

import hashlib
from collections.abc import Callable

from partition_proto.v1 import log_store_pb2 as api

from partition_client.errors import NotFound, TreeMismatch


class Content:
    """Passes the bytes of a file to `write`, and checks them against the file's entry.

    received: bytes so far. An interrupted stream is resumed at this offset.
    """

    def __init__(self, path: bytes, write: Callable[[bytes], object]) -> None:
        self.received = 0
        self._path = path
        self._write = write
        self._digest = hashlib.sha256()
        self._entry: api.TreeEntry | None = None

    def take(self, answer: api.ReadFileResponse) -> None:
        """Takes one message of the stream. Raises TreeMismatch if a resumed stream has another
        digest, and the errors of `write`."""
        if answer.HasField("entry"):
            if self._entry is not None and self._entry.digest != answer.entry.digest:
                raise TreeMismatch(f"{self._path!r} changed while it was read", "TREE")
            self._entry = answer.entry
        self._digest.update(answer.data)
        self.received += len(answer.data)
        self._write(answer.data)

    def whole(self) -> api.TreeEntry:
        """Returns the file's entry, after the last message. Raises NotFound if no message came, and
        TreeMismatch if the bytes don't match the entry."""
        if self._entry is None:
            raise NotFound(f"{self._path!r}: the replica sent nothing", "NOT_FOUND")
        if self._digest.digest() != self._entry.digest or self.received != self._entry.size:
            raise TreeMismatch(
                f"{self._path!r}: the bytes received don't match their digest", "TREE"
            )
        return self._entry
