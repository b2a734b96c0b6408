"""Frames of a Raft connection: however the bytes come, the frames are the same, and no more is kept
in memory than the limits allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from partition_replica.transport.raft_frames import (
    HEADER,
    HELLO,
    JOINED_BYTES_MAX,
    MESSAGE,
    PREAMBLE,
    BadFrame,
    FrameReader,
    frame,
    frames_of,
)

SMALL = 100


def kept(reader: FrameReader) -> int:
    """The bytes of a frame that is not complete."""
    return len(reader._begun) + sum(map(len, reader._content))


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
    assert fed(reader, begin + b"".join(frames_of(messages)), most) == [
        (MESSAGE, m) for m in messages
    ]


@pytest.mark.parametrize("most", [1000, 65_536, 10_000_000])
def test_large_frames_between_small_ones(most: int) -> None:
    reader = FrameReader(SMALL, PREAMBLE)
    assert fed(reader, PREAMBLE + frame(HELLO, b"h"), most) == [(HELLO, b"h")]
    reader.content_bytes_max = 300_000
    messages = [b"a" * size for size in (3, 300_000, 0, 65_536, 7, 200_000, 1)]
    assert fed(reader, b"".join(frames_of(messages)), most) == [(MESSAGE, m) for m in messages]
    assert not kept(reader), "nothing is kept between frames"


def test_many_small_parts_of_a_large_frame_are_few_objects() -> None:
    """An object for each of them would take many times their own memory."""
    reader = FrameReader(1_000_000)
    content = bytes(range(256)) * 1000
    whole = frame(MESSAGE, content)
    assert fed(reader, whole[:-1], 100) == []
    assert kept(reader) == len(whole) - 1
    assert len(reader._content) < 10
    assert fed(reader, whole[-1:], 100) == [(MESSAGE, content)]


def test_large_messages_are_written_without_a_copy() -> None:
    large = bytes(JOINED_BYTES_MAX + 1)
    writes = list(frames_of([b"a", large, b"b", b"c"]))
    assert [one for one in writes if one is large] == [large]
    assert len(writes) == 3
    assert fed(FrameReader(1 << 20), b"".join(writes), 1 << 20) == [
        (MESSAGE, one) for one in (b"a", large, b"b", b"c")
    ]


def test_a_stranger_has_a_small_buffer() -> None:
    """However long it sends, and in whatever parts."""
    reader = FrameReader(SMALL, PREAMBLE)
    begun = PREAMBLE + HEADER.pack(HELLO, SMALL) + bytes(SMALL - 1)
    for byte in begun:
        assert fed(reader, bytes([byte]), 1) == []
        assert kept(reader) < HEADER.size + SMALL
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
