"""Frames of a Raft connection: however the bytes come, the frames are the same, and no more is kept
in memory than the limits allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from partition_replica.transport.raft_frames import (
    HEADER,
    HELLO,
    MESSAGE,
    PREAMBLE,
    BadFrame,
    FrameReader,
    frame,
    frames_of,
)

SMALL = 100


def fed(reader: FrameReader, content: bytes, most: int) -> list[tuple[int, bytes]]:
    """Receives `content` in parts of at most `most` bytes, as from a socket."""
    found: list[tuple[int, bytes]] = []
    for place in range(0, len(content), most):
        found += reader.received(content[place : place + most])
    return found


@given(
    sizes=st.lists(st.sampled_from([0, 1, 5, 99, 100]), max_size=12),
    most=st.integers(1, 300),
    preamble=st.booleans(),
)
def test_frames_are_the_same_however_the_bytes_come(
    sizes: list[int], most: int, preamble: bool
) -> None:
    messages = [bytes([n % 256]) * size for n, size in enumerate(sizes)]
    begin = PREAMBLE if preamble else b""
    reader = FrameReader(SMALL, begin)
    assert fed(reader, begin + frames_of(messages), most) == [(MESSAGE, m) for m in messages]


@pytest.mark.parametrize("most", [1000, 65_536, 10_000_000])
def test_large_frames_between_small_ones(most: int) -> None:
    reader = FrameReader(SMALL, PREAMBLE)
    assert fed(reader, PREAMBLE + frame(HELLO, b"h"), most) == [(HELLO, b"h")]
    reader.content_bytes_max = 300_000
    messages = [b"a" * size for size in (3, 300_000, 0, 65_536, 7, 200_000, 1)]
    assert fed(reader, frames_of(messages), most) == [(MESSAGE, m) for m in messages]
    assert not reader._begun, "nothing is kept between frames"


def test_a_stranger_has_a_small_buffer() -> None:
    """However long it sends, and in whatever parts."""
    reader = FrameReader(SMALL, PREAMBLE)
    begun = PREAMBLE + HEADER.pack(HELLO, SMALL) + bytes(SMALL - 1)
    for byte in begun:
        assert fed(reader, bytes([byte]), 1) == []
        assert len(reader._begun) < HEADER.size + SMALL
    with pytest.raises(BadFrame):
        fed(FrameReader(SMALL, PREAMBLE), PREAMBLE + HEADER.pack(HELLO, 1 << 31) + bytes(9), 9)


def test_a_frame_above_the_limit_is_refused_at_its_header() -> None:
    reader = FrameReader(SMALL)
    assert fed(reader, frame(MESSAGE, bytes(SMALL)), 9) == [(MESSAGE, bytes(SMALL))]
    with pytest.raises(BadFrame, match="101 bytes is announced; at most 100"):
        fed(reader, HEADER.pack(MESSAGE, SMALL + 1), 9)


@pytest.mark.parametrize("begin", [b"G", b"GET / HTTP/1.1\r\n", PREAMBLE[:-1] + b"\x02", b"\x16"])
def test_another_protocol_is_refused_at_its_first_byte(begin: bytes) -> None:
    """A further version of ours, too: its sender uses gRPC then."""
    with pytest.raises(BadFrame, match="the connection begins with"):
        fed(FrameReader(SMALL, PREAMBLE), begin, 1)
