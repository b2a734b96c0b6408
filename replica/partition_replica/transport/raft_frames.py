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
    """Cuts received bytes into frames.

    The content of a frame is copied once out of the bytes of one read. Only a frame that spans
    several reads is collected first. Nothing else is kept in memory.
    """

    def __init__(self, content_bytes_max: int, preamble: bytes = b"") -> None:
        """The content of a frame may have `content_bytes_max` bytes. `preamble`: must come before
        the first frame."""
        self.content_bytes_max = content_bytes_max
        self._preamble = preamble
        self._begun = bytearray()
        """The bytes so far of a frame, or of the preamble, that is not complete."""
        self._wanted = 0
        """The size of that frame, as far as it is known."""

    def received(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields (kind, content) of each frame that these bytes complete. Take all of them. Raises
        BadFrame; then the reader must not be used again."""
        at = self._take_preamble(data) if self._preamble else 0
        while self._begun:
            at = self._go_on(data, at)
            if len(self._begun) < self._wanted:
                return
            kind, size = self._header(self._begun, 0)
            self._wanted = HEADER.size + size
            if len(self._begun) == self._wanted:
                content = bytes(memoryview(self._begun)[HEADER.size :])
                self._begun = bytearray()
                yield kind, content
        end = len(data)
        while end - at >= HEADER.size:
            kind, size = self._header(data, at)
            begin = at + HEADER.size
            if begin + size > end:
                self._wanted = HEADER.size + size
                break
            at = begin + size
            yield kind, data[begin:at]
        else:
            self._wanted = HEADER.size
        if at < end:
            self._begun += memoryview(data)[at:]

    def _header(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        """The kind and size of the frame that begins there. Raises BadFrame."""
        kind, size = HEADER.unpack_from(data, at)
        if size > self.content_bytes_max:
            raise BadFrame(
                f"a frame of {size} bytes is announced; at most {self.content_bytes_max} are "
                "allowed here"
            )
        return kind, size

    def _go_on(self, data: bytes, at: int) -> int:
        """Adds what is missing of the incomplete frame, from `at` on. Returns the place after
        it."""
        end = min(len(data), at + self._wanted - len(self._begun))
        self._begun += memoryview(data)[at:end]
        return end

    def _take_preamble(self, data: bytes) -> int:
        """Returns the place after the preamble's bytes. Raises BadFrame as soon as one differs."""
        self._wanted = len(self._preamble)
        at = self._go_on(data, 0)
        found = bytes(self._begun)
        if not self._preamble.startswith(found):
            raise BadFrame(f"the connection begins with {found!r}, not with {self._preamble!r}")
        if found == self._preamble:
            self._preamble, self._begun = b"", bytearray()
        return at
