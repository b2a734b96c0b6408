"""Calls to another member: what goes wrong is told as what it is, whoever's it was."""

import asyncio
import errno
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_proto.v1 import peer_pb2 as api
from partition_proto.v1 import peer_pb2_grpc
from partition_replica.core.limits import (
    PAYLOAD_BATCHED_BYTES_MAX,
    PAYLOADS_A_CALL_MAX,
    Limits,
)
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import NotFound, PayloadMismatch
from partition_replica.ids import Digest
from partition_replica.transport.chunks import file_chunks
from partition_replica.transport.peers import Peers

from tests.support.peer_servers import (
    Earlier,
    Here,
    Reading,
    Stalling,
    connected,
    contents_of,
    one,
    push,
    serving,
    snapshot,
    together,
)
from tests.support.peer_servers import payloads as payloads  # a fixture


@pytest.mark.parametrize("earlier", [False, True])
async def test_over_the_wire(payloads: dict[Digest, Path], tmp_path: Path, earlier: bool) -> None:
    here = Here(payloads)
    service = serving(here)
    async with connected(Earlier(service) if earlier else service) as peers:
        wanted = list(payloads)
        assert await contents_of(peers, wanted) == [payloads[d].read_bytes() for d in wanted]
        with pytest.raises(PeerFailed, match="NOT_FOUND"):
            await contents_of(peers, [*wanted, Digest(b"x" * 32)])
        large = tmp_path / "large"
        large.write_bytes(bytes(PAYLOAD_BATCHED_BYTES_MAX + 1))
        here.files = payloads | {Digest(b"y" * 32): large}
        with pytest.raises(PayloadMismatch if earlier else PeerFailed, match="1048577"):
            await contents_of(peers, [Digest(b"y" * 32)])
        if not earlier:
            with pytest.raises(PeerFailed, match=f"at most {PAYLOADS_A_CALL_MAX}"):
                await contents_of(peers, wanted[:1] * (PAYLOADS_A_CALL_MAX + 1))


Call = Callable[[Peers, Path], Any]


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("call", [together, one, push, snapshot])
async def test_a_call_on_a_channel_that_is_closed_has_failed(
    tmp_path: Path, call: Call, after: int
) -> None:
    """And is not taken for cancelled by whoever wants it: that would leave the other side of an
    InstallSnapshot without an answer. Before anything came, or in the middle."""
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    stalling = Stalling(after)
    async with connected(stalling) as peers:
        calling = asyncio.create_task(call(peers, file))
        await asyncio.wait_for(stalling.stalled.wait(), 60)
        peers.set_addresses({1: "127.0.0.1:1"})
        with pytest.raises(PeerFailed, match="closed"):
            await asyncio.wait_for(calling, 60)


async def test_a_close_waits_for_the_channels_of_earlier_addresses() -> None:
    async with connected(Stalling(0)) as peers:
        peer = peers._connected(1)
        peers.set_addresses({1: "127.0.0.1:1"})
        await peers.close()
        assert peer._task.done()


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("call", [together, one])
async def test_a_member_that_sends_nothing_has_failed(
    tmp_path: Path, call: Call, after: int
) -> None:
    """Its process lives, and so its connection; its disk does not."""
    limits = replace(Limits(), fetch_stall_s=0.2)
    async with connected(Stalling(after), limits) as peers:
        with pytest.raises(PeerFailed, match="sent no message for"):
            await asyncio.wait_for(call(peers, tmp_path), 60)


@pytest.mark.parametrize("call", [together, one, push, snapshot])
async def test_who_is_cancelled_is_cancelled(tmp_path: Path, call: Call) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    stalling = Stalling(1)
    async with connected(stalling) as peers:
        calling = asyncio.create_task(call(peers, file))
        await asyncio.wait_for(stalling.stalled.wait(), 60)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(calling, 60)


@pytest.mark.parametrize("how", ["gone", "short", "unreadable"])
@pytest.mark.parametrize("call", [push, snapshot])
async def test_a_file_of_ours_that_can_not_be_sent_is_not_sent_again(
    tmp_path: Path, call: Call, how: str
) -> None:
    """It is named, and the connection is not blamed."""
    file = tmp_path / "file"
    if how == "short":
        file.write_bytes(bytes(999))
    elif how == "unreadable":
        file.mkdir()
    async with connected(Reading()) as peers:
        with pytest.raises(PeerFailed, match=str(file)) as raised:
            await asyncio.wait_for(call(peers, file), 60)
        assert raised.value.refused


async def test_an_earlier_version_is_sent_a_snapshot_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    came: list[tuple[int, int]] = []

    class Taking(peer_pb2_grpc.PeerServicer):
        async def InstallSnapshot(self, request: AsyncIterator[Any], context: Any) -> Any:
            messages = [message async for message in request]
            came.append((messages[0].header.offset, sum(len(m.chunk) for m in messages)))
            return api.InstallSnapshotResponse(payloads_fetched=3)

    async with connected(Taking()) as peers:
        assert await peers.send_state(1, b"", file, 1000, b"") == 3
    assert came == [(0, 1000)]


async def test_a_whole_file_that_is_refused_is_not_ours_to_blame(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    async with connected(Reading()) as peers:
        with pytest.raises(PeerFailed, match="UNAVAILABLE") as raised:
            await snapshot(peers, file)
        assert not raised.value.refused


# --- a file in chunks -------------------------------------------------------------------------


async def test_chunks_are_the_file(tmp_path: Path) -> None:
    content = os.urandom(10_000)
    (tmp_path / "file").write_bytes(content)
    for offset in (0, 1, 9_999, 10_000):
        found = [chunk async for chunk in file_chunks(tmp_path / "file", offset, 3000)]
        assert b"".join(found) == content[offset:]
        assert all(len(chunk) <= 3000 for chunk in found)
    with pytest.raises(NotFound):
        await anext(file_chunks(tmp_path / "gone", 0, 10))


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_file_is_not_closed_below_the_thread_that_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Its descriptor may be another file's by then."""
    begun, go = threading.Event(), threading.Event()

    class Slow:
        closed = False
        reads = 0

        def read(self, count: int) -> bytes:
            self.reads += 1
            if self.reads == 2:
                begun.set()
                assert go.wait(60)
                assert not self.closed
                raise OSError(errno.EIO, "nobody hears of it")
            return b"c" * count

        def seek(self, offset: int) -> None:
            assert not offset

        def close(self) -> None:
            self.closed = True

    slow = Slow()
    monkeypatch.setattr(Path, "open", lambda *_, **__: slow)
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
    chunks = file_chunks(tmp_path / "file", 0, 10)
    assert await anext(chunks) == b"c" * 10
    assert await asyncio.to_thread(begun.wait, 60)
    if how == "cancelled":
        waiting = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
    else:
        await chunks.aclose()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not slow.closed
    go.set()
    deadline = asyncio.get_running_loop().time() + 60
    while not slow.closed:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.001)
    assert heard == []
