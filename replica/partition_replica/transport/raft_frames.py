"""The frames of a Raft connection, as peer.proto describes them. Pure: no I/O.

A connection begins with a preamble. A frame is its kind, the length of its content and its content.
"""

import struct
from collections.abc import Iterator, Sequence

PREAMBLE = b"LSRAFT" + (1).to_bytes(2, "big")
"""What a sender begins with: the protocol's name and its version."""

HELLO, REFUSAL, MESSAGE = 1, 2, 3
"""Kinds of frames."""

HEADER = struct.Struct(">BI")

READ_BYTES = 128 * 1024
"""The buffer of a connection whose sender was let in. It grows for a frame that does not fit, and
shrinks again after it."""


class BadFrame(Exception):
    """The other side does not keep to the protocol: end the connection."""


def frame(kind: int, content: bytes) -> bytes:
    return HEADER.pack(kind, len(content)) + content


def frames_of(messages: Sequence[bytes]) -> bytes:
    """One frame per message, as one write."""
    pieces: list[bytes] = []
    for message in messages:
        pieces += (HEADER.pack(MESSAGE, len(message)), message)
    return b"".join(pieces)


class FrameReader:
    """Cuts received bytes into frames. A frame's content is copied once, out of the buffer.

    Receive into `buffer()`, then tell `received` how many bytes there are.
    """

    def __init__(self, content_bytes_max: int, preamble: bytes = b"") -> None:
        """The content of a frame may have `content_bytes_max` bytes. `preamble`: must come before
        the first frame."""
        self._content_bytes_max = content_bytes_max
        self._preamble = preamble
        self._usual_bytes = len(preamble) + HEADER.size + content_bytes_max
        self._buffer = memoryview(bytearray(self._usual_bytes))
        self._begin = self._end = 0
        self._wanted_bytes = HEADER.size
        """The size of the incomplete frame at `_begin`, as far as it is known."""

    def allow(self, content_bytes_max: int) -> None:
        """From the next frame on, frames may be larger."""
        self._content_bytes_max = content_bytes_max
        self._usual_bytes = READ_BYTES

    def buffer(self) -> memoryview:
        """The place for the next bytes; never empty. It is valid until `received`."""
        size = max(self._usual_bytes, self._wanted_bytes)
        if size != len(self._buffer):
            self._move(memoryview(bytearray(size)))
        elif self._begin == self._end or self._begin + self._wanted_bytes > size:
            self._move(self._buffer)
        return self._buffer[self._end :]

    def received(self, count: int) -> Iterator[tuple[int, bytes]]:
        """Yields (kind, content) of each frame that `count` more bytes complete. Take all of them.
        Raises BadFrame; then the reader must not be used again."""
        self._end += count
        if self._preamble and not self._take_preamble():
            return
        self._wanted_bytes = HEADER.size
        while self._end - self._begin >= HEADER.size:
            kind, size = HEADER.unpack_from(self._buffer, self._begin)
            if size > self._content_bytes_max:
                raise BadFrame(
                    f"a frame of {size} bytes is announced; at most {self._content_bytes_max} are "
                    "allowed here"
                )
            content_at = self._begin + HEADER.size
            if content_at + size > self._end:
                self._wanted_bytes = HEADER.size + size
                return
            self._begin = content_at + size
            yield kind, self._buffer[content_at : self._begin].tobytes()

    def _take_preamble(self) -> bool:
        """Whether the preamble is complete. Raises BadFrame as soon as a byte differs."""
        found = self._buffer[: min(self._end, len(self._preamble))].tobytes()
        if not self._preamble.startswith(found):
            raise BadFrame(f"the connection begins with {found!r}, not with {self._preamble!r}")
        if len(found) < len(self._preamble):
            return False
        self._begin, self._preamble = len(found), b""
        return True

    def _move(self, target: memoryview) -> None:
        """Moves the bytes of the incomplete frame to the front of `target`."""
        left = self._buffer[self._begin : self._end].tobytes()
        target[: len(left)] = left
        self._buffer, self._begin, self._end = target, 0, len(left)
