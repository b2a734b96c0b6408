"""Raft connections of any bytes, in any parts: nothing reaches the replica before the connection
said who sends it and was let in, and what is refused is refused by name."""

import asyncio
from itertools import takewhile

from hypothesis import example, given
from hypothesis import strategies as st
from partition_proto.v1 import peer_pb2 as api
from partition_replica.transport.raft_frames import (
    HELLO,
    MESSAGE,
    PREAMBLE,
    REFUSAL,
    FrameReader,
    frame,
)

from tests.support.fuzz.inputs import fuzzing
from tests.support.fuzz.peer_streams import GOOD, Replica
from tests.support.fuzz.raft_connections import PART, frames, received, sender


@fuzzing
@example(begin=PREAMBLE, parts=[frame(HELLO, GOOD.SerializeToString())] * 2, most=1)
@example(begin=PREAMBLE, parts=[frame(MESSAGE, b"m"), frame(HELLO, b"")], most=99)
@given(
    begin=st.sampled_from([PREAMBLE, PREAMBLE, PREAMBLE, PREAMBLE[:3], b""]),
    parts=st.lists(PART, max_size=6),
    most=st.integers(1, 60),
)
def test_messages_are_of_whom_the_hello_names(begin: bytes, parts: list[bytes], most: int) -> None:
    replica, content = Replica(), begin + b"".join(parts)
    wire = asyncio.run(received(replica, content, most))
    came = frames(content)
    good = sender(came)
    messages = takewhile(lambda one: one[0] == MESSAGE, came[1:] if good else [])
    assert replica.seen == [(message, good) for _, message in messages]
    answers = list(FrameReader(1 << 20).received(wire.got)) if wire.got else []
    assert [kind for kind, _ in answers] == [HELLO] * bool(good) + [REFUSAL] * wire.over
    if wire.over:
        assert api.RaftRefusal.FromString(answers[-1][1]).reason
