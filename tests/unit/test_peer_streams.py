"""When a replica hears that the Raft streams of a member have ended."""

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc
from partition_replica.core.limits import Limits
from partition_replica.transport.peer_service import PeerService
from partition_replica.transport.streams import Streams

from tests.support.local_group import eventually
from tests.support.raft_streams import MEMBER, Replica, heard, stream
from tests.support.stream_servers import failures


@pytest.fixture
def replica() -> Replica:
    return Replica()


@pytest.fixture
async def address(replica: Replica) -> AsyncGenerator[str, None]:
    server = grpc.aio.server()
    streams = Streams(Limits().peer_streams_max, replica.opened)
    service = PeerService(replica, Limits(), failures(), streams)  # type: ignore[arg-type]
    peer_pb2_grpc.add_PeerServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


Ending = Callable[[Any, Any], Awaitable[None]]


async def closed(_: Any, call: Any) -> None:
    await call.done_writing()


async def reset(_: Any, call: Any) -> None:
    call.cancel()


async def disconnected(channel: Any, _: Any) -> None:
    await channel.close()


@pytest.mark.parametrize("end", [closed, reset, disconnected])
async def test_a_stream_that_ends_is_heard_of_after_its_messages(
    replica: Replica, address: str, end: Ending
) -> None:
    async with stream(address) as (channel, call):
        await call.write(api.RaftBatch(messages=[b"one", b"two"]))
        await heard(replica, "hello 5", "one", "two")
        await end(channel, call)
        await heard(replica, "hello 5", "one", "two", "end 5")


async def test_a_process_that_is_killed_is_heard_of(replica: Replica, address: str) -> None:
    body = f"""
import time, grpc
from partition_proto.v1 import peer_pb2 as api, peer_pb2_grpc
hello = api.Hello(cluster_id="c", member_id={MEMBER}, to_member_id=1)
def batches():
    yield api.RaftBatch(hello=hello)
    time.sleep(600)
for _ in peer_pb2_grpc.PeerStub(grpc.insecure_channel("{address}")).Raft(batches()):
    pass
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", body)
    try:
        await heard(replica, "hello 5")
        process.send_signal(signal.SIGKILL)
        await heard(replica, "hello 5", "end 5")
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_another_stream_of_the_member_counts(replica: Replica, address: str) -> None:
    """It may connect again before the end of its old connection is noticed."""
    async with stream(address) as (_, first), stream(address) as (_, second):
        first.cancel()

        async def ended() -> bool:
            return replica.streams == 1

        await eventually(ended, "the first stream has ended", 20)
        await second.write(api.RaftBatch(messages=[b"one"]))
        await heard(replica, "hello 5", "hello 5", "one")
        second.cancel()
        await heard(replica, "hello 5", "hello 5", "one", "end 5")


async def test_a_stream_that_was_refused_is_no_member_s(replica: Replica, address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        call = peer_pb2_grpc.PeerStub(channel).Raft()
        await call.write(
            api.RaftBatch(hello=api.Hello(cluster_id="d", member_id=5, to_member_id=1))
        )
        with pytest.raises(grpc.aio.AioRpcError, match="another cluster's"):
            await call.read()
        assert await call.code() is grpc.StatusCode.FAILED_PRECONDITION
    async with stream(address):
        await heard(replica, "hello 5")
