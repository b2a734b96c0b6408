"""Streams are bounded both ways: a client that sends and does not read its answers is not read
from, one that reads nothing is sent nothing more, and one that sends nothing loses its place."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import (
    log_store_pb2_grpc,
    peer_pb2,
    peer_pb2_grpc,
)
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.transport.streams import StreamBytes, Streams, StreamWindow

from tests.support.local_group import eventually
from tests.support.stream_servers import Replica, served

BUFFERED = 1024
"""Messages of 8 KiB that the buffers of two processes' HTTP/2 may hold: 8 MiB, to be safe."""

SENT = 20_000
STALLED_S = 1.5


async def test_a_client_that_does_not_read_its_answers_is_not_read_from() -> None:
    """A slot of the stream is free when the answer is sent, not when it is made."""
    limits = replace(Limits(), append_requests_max=64)
    replica = Replica()
    async with served(replica, limits) as channel:
        call = log_store_pb2_grpc.LogStoreStub(channel).Append()
        sent = 0
        with pytest.raises(TimeoutError):  # "held back" comes as a write that does not end
            while sent < SENT:
                message = api.AppendRequest(request_id=sent + 1)
                message.proposal.operations.add().set_key.value = bytes(8000)
                await asyncio.wait_for(asyncio.shield(call.write(message)), STALLED_S)
                sent += 1
        assert replica.asked < limits.append_requests_max + BUFFERED

        # It goes on where the client reads, and nothing is lost.
        answers = {(await call.read()).request_id for _ in range(sent)}
        assert answers == set(range(1, sent + 1))
        call.cancel()


async def test_a_client_that_does_not_read_answers_to_frames_is_not_read_from() -> None:
    limits = replace(Limits(), append_requests_max=64)
    replica = Replica()
    async with served(replica, limits) as channel:
        call = log_store_pb2_grpc.LogStoreStub(channel).AppendFrames()
        sent, frame_appends = 0, 16
        with pytest.raises(TimeoutError):  # "held back" comes as a write that does not end
            while sent < SENT:
                frame = api.AppendFrame(
                    session_id=1,
                    first_sequence=sent + 1,
                    acknowledged_below=sent + 1,
                    proposals=[bytes(8000)] * frame_appends,
                )
                await asyncio.wait_for(asyncio.shield(call.write(frame)), STALLED_S)
                sent += frame_appends
        assert replica.asked < limits.append_requests_max + BUFFERED

        # It goes on where the client reads, and nothing is lost.
        answers: list[int] = []
        while len(answers) < sent:
            response = await call.read()
            answers += [done.first_sequence for done in response.appended]
        assert answers[:sent] == list(range(1, sent + 1))
        call.cancel()


async def test_a_reader_that_does_not_read_is_sent_no_more(tmp_path: Path) -> None:
    replica = Replica()
    async with served(replica, Limits()) as channel:
        call = log_store_pb2_grpc.LogStoreStub(channel).Read(api.ReadRequest(follow=True))
        await call.read()

        async def still() -> bool:
            before = replica.asked
            for _ in range(20):
                await asyncio.sleep(0.01)
            return before == replica.asked

        await eventually(still, "the replica waits")
        assert replica.asked < 100
        call.cancel()


async def test_a_stream_too_many_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(20 * 1024**2))
    replica = Replica(file)
    async with served(replica, replace(Limits(), client_streams_max=2)) as channel:
        stub = log_store_pb2_grpc.LogStoreStub(channel)
        calls = [stub.ReadFile(api.ReadFileRequest(path=b"f")), stub.Read(api.ReadRequest())]
        for call in calls:
            await call.read()
        for third in (stub.Read(api.ReadRequest()), stub.Append()):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await third.read()
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "2 streams are open" in str(raised.value.details())
        assert replica.opened == 1
        for call in calls:
            call.cancel()

        async def free() -> bool:
            call = stub.ReadFile(api.ReadFileRequest(path=b"f"))
            try:
                first = await call.read()
                return bool(first.applied == 7)
            except grpc.aio.AioRpcError:
                return False
            finally:
                call.cancel()

        await eventually(free, "the places of those that went are free")

        async def closed() -> bool:
            return replica.opened == 0

        await eventually(closed, "the files of those that went are let go of")


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("method", ["UploadPayload", "PushPayload", "InstallSnapshot"])
async def test_a_sender_that_sends_nothing_loses_its_place(method: str, begun: bool) -> None:
    first: Any = {
        "UploadPayload": api.UploadPayloadRequest(payload=types.Payload(digest=b"d" * 32)),
        "PushPayload": peer_pb2.PayloadChunk(digest=b"d" * 32),
        "InstallSnapshot": peer_pb2.InstallSnapshotRequest(
            header=peer_pb2.TransferHeader(sender=1, receiver=2)
        ),
    }[method]
    replica = Replica()
    async with served(replica, replace(Limits(), stream_stall_s=0.2)) as channel:
        client = method == "UploadPayload"
        stubs: Any = log_store_pb2_grpc.LogStoreStub if client else peer_pb2_grpc.PeerStub
        call = getattr(stubs(channel), method)()
        if begun:
            await call.write(first)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await asyncio.wait_for(call, 60)
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "no message arrived for 0.2 s" in str(raised.value.details())
        assert not replica.opened


async def test_a_stream_whose_requests_fail_does_not_end_well() -> None:
    """A message that is none, behind an append that is under way: the client must not take the end
    of the stream for "there is nothing more"."""
    replica = Replica()
    replica.gate.clear()
    async with served(replica, Limits()) as channel:
        call = channel.stream_stream(
            "/logstore.v1.LogStore/Append", request_serializer=bytes, response_deserializer=bytes
        )()
        await call.write(api.AppendRequest(request_id=1).SerializeToString())

        async def asked() -> bool:
            return replica.asked == 1

        await eventually(asked, "the first is under way")
        await call.write(b"\xff\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError):
            while await asyncio.wait_for(call.read(), 30) is not grpc.aio.EOF:
                pass
            raise AssertionError(f"the stream ended with {await call.code()}")


async def test_appends_of_all_streams_together_are_bounded() -> None:
    """One too many is told, and not kept."""
    held: list[int] = []
    replica = Replica()
    replica.gate.clear()
    limits = replace(Limits(), append_bytes_total_max=10_000)
    async with served(replica, limits, StreamBytes(10_000, held.append)) as channel:
        stub = log_store_pb2_grpc.LogStoreStub(channel)
        first, second = stub.Append(), stub.Append()
        message = api.AppendRequest(request_id=1)
        message.proposal.operations.add().set_key.value = bytes(6_000)
        await first.write(message)

        async def asked() -> bool:
            return replica.asked == 1

        await eventually(asked, "the first is under way")
        await second.write(message)
        answer = await second.read()
        assert answer.error.reason == types.REASON_OVERLOADED
        assert answer.request_id == 1
        replica.gate.set()
        assert (await first.read()).lsn == 1
        first.cancel()
        second.cancel()

        async def nothing() -> bool:
            return held[-1] == 0

        await eventually(nothing, "nothing is held any more")
    assert max(held) > 6_000


async def test_room_is_by_number_and_by_bytes() -> None:
    now: list[int] = []
    held = StreamBytes(1 << 20, now.append)
    room = StreamWindow(3, 100, held)
    await room.take(500)  # larger than everything: alone
    waiting = asyncio.create_task(room.take(10))
    await asyncio.sleep(0)
    assert not waiting.done()
    room.give(500)
    await waiting
    await room.take(90)
    waiting = asyncio.create_task(room.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    room.give(90)
    await waiting
    await room.take(1)
    waiting = asyncio.create_task(room.take(1))
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()
    assert now[-1] == 12
    room.close()
    assert now[-1] == 0


async def test_a_request_that_is_refused_or_answered_takes_no_bytes_from_others() -> None:
    now: list[int] = [0]
    held = StreamBytes(1000, now.append)
    room, other = StreamWindow(3, 1000, held), StreamWindow(3, 1000, held)
    assert await room.take(800)
    assert not await other.take(300)
    assert now[-1] == 800
    other.give(0)
    room.shrink(800, 10)  # its answer is made, and waits to be read
    assert now[-1] == 10
    assert await other.take(300)
    room.give(10)
    assert now[-1] == 300
    other.close()
    other.shrink(300, 10)
    assert now[-1] == 0


def test_open_streams_are_told_by_method() -> None:
    told: list[tuple[str, int]] = []
    streams = Streams(5, lambda method, count: told.append((method, count)))
    with streams.open("Read"), streams.open("Read"), streams.open("Append"):
        pass
    assert told == [
        ("Read", 1),
        ("Read", 2),
        ("Append", 1),
        ("Append", 0),
        ("Read", 1),
        ("Read", 0),
    ]
