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

PIECE_BYTES_MIN = 4096
"""A smaller piece of a frame is copied to the one before it."""

JOINED_BYTES_MAX = 64 * 1024
"""A larger message is a write of its own: one more call of the system costs less than its copy."""


class BadFrame(Exception):
    """The other side does not keep to the protocol: end the connection."""


def frame(kind: int, content: bytes) -> bytes:
    return HEADER.pack(kind, len(content)) + content


def frames_of(messages: Sequence[bytes]) -> Iterator[bytes]:
    """One frame per message, as few writes: small messages are joined, large ones are not
    copied."""
    pieces: list[bytes] = []
    for message in messages:
        pieces.append(HEADER.pack(MESSAGE, len(message)))
        if len(message) > JOINED_BYTES_MAX:
            yield b"".join(pieces)
            yield message
            pieces = []
        else:
            pieces.append(message)
    if pieces:
        yield b"".join(pieces)


class FrameReader:
    """Cuts received bytes into frames.

    The content of a frame is copied once out of the bytes of one read, or of several. Until it is
    complete, the reads that it came in are kept, and nothing else.
    """

    def __init__(self, content_bytes_max: int, preamble: bytes = b"") -> None:
        """The content of a frame may have `content_bytes_max` bytes. `preamble`: must come before
        the first frame."""
        self.content_bytes_max = content_bytes_max
        self._preamble = preamble
        self._begun = bytearray()
        """The bytes so far of the preamble, or of a frame's header."""
        self._content: list[memoryview | bytearray] = []
        """The content so far of the frame that has this header."""
        self._content_bytes = 0

    def received(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """Yields (kind, content) of each frame that these bytes complete. Take all of them. Raises
        BadFrame; then the reader must not be used again."""
        at = self._take_preamble(data) if self._preamble else 0
        if self._preamble:
            return
        if self._begun:
            at = self._go_on(data, at, HEADER.size)
            if len(self._begun) < HEADER.size:
                return
            kind, size = self._header(self._begun, 0)
            rest = memoryview(data)[at : at + size - self._content_bytes]
            self._keep(rest)
            if self._content_bytes < size:
                return
            at += len(rest)
            content = b"".join(self._content)
            self._begun, self._content, self._content_bytes = bytearray(), [], 0
            yield kind, content
        yield from self._frames_in(data, at)

    def _frames_in(self, data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        """The frames that begin and end in `data`, from `at` on. Keeps what is left."""
        end = len(data)
        while end - at >= HEADER.size:
            kind, size = self._header(data, at)
            begin = at + HEADER.size
            if begin + size > end:
                self._begun += data[at:begin]
                self._keep(memoryview(data)[begin:])
                return
            at = begin + size
            yield kind, data[begin:at]
        self._begun += data[at:]

    def _keep(self, piece: memoryview) -> None:
        """Small pieces are joined: each object takes memory of its own."""
        self._content_bytes += len(piece)
        if len(piece) >= PIECE_BYTES_MIN:
            self._content.append(piece)
            return
        last = self._content[-1] if self._content else None
        if isinstance(last, bytearray):
            last += piece
        else:
            self._content.append(bytearray(piece))

    def _header(self, data: bytes | bytearray, at: int) -> tuple[int, int]:
        """The kind and size of the frame that begins there. Raises BadFrame."""
        kind, size = HEADER.unpack_from(data, at)
        if size > self.content_bytes_max:
            raise BadFrame(
                f"a frame of {size} bytes is announced; at most {self.content_bytes_max} are "
                "allowed here"
            )
        return kind, size

    def _go_on(self, data: bytes, at: int, wanted: int) -> int:
        """Adds what is missing of `wanted` bytes, from `at` on. Returns the place after it."""
        end = min(len(data), at + wanted - len(self._begun))
        self._begun += memoryview(data)[at:end]
        return end

    def _take_preamble(self, data: bytes) -> int:
        """Returns the place after the preamble's bytes. Raises BadFrame as soon as one differs."""
        at = self._go_on(data, 0, len(self._preamble))
        found = bytes(self._begun)
        if not self._preamble.startswith(found):
            raise BadFrame(f"the connection begins with {found!r}, not with {self._preamble!r}")
        if found == self._preamble:
            self._preamble, self._begun = b"", bytearray()
        return at
