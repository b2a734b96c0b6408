"""Raft streams of a member over loopback, and a replica that notes what it hears of them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc
from partition_replica.errors import WrongCluster

from tests.support.local_group import eventually

MEMBER = 5
HELLO = api.Hello(cluster_id="c", member_id=MEMBER, to_member_id=1, address="five:1")


class Replica:
    """Notes what it hears, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.streams = 0

    def opened(self, method: str, streams: int) -> None:
        self.streams = streams

    def check_peer(self, cluster: str, *_: object) -> None:
        if cluster != "c":
            raise WrongCluster("another cluster's")

    def greet(self, member: int, address: str) -> None:
        self.heard.append(f"hello {member}")

    def receive(self, message: bytes, sender: int) -> None:
        self.heard.append(message.decode())

    def disconnected(self, member: int) -> None:
        self.heard.append(f"end {member}")

    def status(self) -> Any:
        return SimpleNamespace(cluster="c", member=1, incarnation=1, last_index=9)


@asynccontextmanager
async def stream(address: str) -> AsyncIterator[tuple[Any, Any]]:
    """A channel and a Raft stream of MEMBER on it, which was greeted."""
    async with grpc.aio.insecure_channel(
        address, options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        call = peer_pb2_grpc.PeerStub(channel).Raft()
        await call.write(api.RaftBatch(hello=HELLO))
        assert (await call.read()).hello.member_id == 1
        yield channel, call
        call.cancel()


async def heard(replica: Replica, *expected: str) -> None:
    async def found() -> bool:
        return len(replica.heard) >= len(expected)

    await eventually(found, f"{expected} is heard", 20)
    assert replica.heard == list(expected)
