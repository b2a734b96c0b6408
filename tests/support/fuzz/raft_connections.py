"""Raft connections of any bytes, received by a replica that remembers what they brought."""

import asyncio
from contextlib import suppress
from typing import Any

from google.protobuf.message import DecodeError
from hypothesis import strategies as st
from partition_proto.v1 import peer_pb2 as api
from partition_replica.core.limits import Limits
from partition_replica.transport.failures import Failures
from partition_replica.transport.greetings import Greetings
from partition_replica.transport.listener_parts import ListenerParts
from partition_replica.transport.raft_frames import (
    HEADER,
    HELLO,
    MESSAGE,
    PREAMBLE,
    BadFrame,
    FrameReader,
    frame,
)
from partition_replica.transport.raft_listener import RaftListener, _Connection
from partition_replica.transport.streams import Streams

from tests.support.fuzz.peer_streams import CLUSTER, OWN, Replica
from tests.support.fuzz.peer_streams import HELLO as HELLOS

PART = st.one_of(
    st.builds(lambda hello: frame(HELLO, hello.SerializeToString()), HELLOS),
    st.builds(lambda content: frame(MESSAGE, content), st.binary(max_size=9)),
    st.builds(frame, st.integers(0, 255), st.binary(max_size=9)),
    st.builds(HEADER.pack, st.integers(0, 4), st.integers(0, (1 << 32) - 1)),
    st.binary(max_size=9),
)


class Wire(asyncio.Transport):
    """What the other side gets, and whether the connection is over."""

    def __init__(self) -> None:
        super().__init__()
        self.got = b""
        self.over = False

    def write(self, data: Any) -> None:
        assert not self.over
        self.got += data

    def close(self) -> None:
        self.over = True

    def abort(self) -> None:
        self.over = True

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def frames(content: bytes) -> list[tuple[int, bytes]]:
    """The frames in front of the first one that is none."""
    found: list[tuple[int, bytes]] = []
    with suppress(BadFrame):
        for one in FrameReader(16 * 1024**2, PREAMBLE).received(content):
            found.append(one)
    return found


async def received(replica: Replica, content: bytes, most: int) -> Wire:
    parts = ListenerParts(
        replica,  # type: ignore[arg-type]
        Greetings(replica),  # type: ignore[arg-type]
        Streams(1),
        Failures(lambda _: None, lambda _: None),
    )
    connection, wire = _Connection(RaftListener(parts, Limits(), None)), Wire()
    connection.connection_made(wire)
    for place in range(0, len(content), most):
        connection.data_received(content[place : place + most])
    over = wire.over
    connection.connection_lost(None)
    wire.over = over
    return wire


def sender(came: list[tuple[int, bytes]]) -> int:
    """The member whose hello is in front of these frames and right; 0 if there is none."""
    with suppress(DecodeError):
        if came and came[0][0] == HELLO:
            hello = api.Hello.FromString(came[0][1])
            if (hello.cluster_id, hello.to_member_id) == (CLUSTER, OWN):
                return hello.member_id
    return 0
