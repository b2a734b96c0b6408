"""A pinned state is of one LSN, whatever is written meanwhile; it costs a bounded amount."""

import asyncio
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient, PayloadSource
from partition_client.errors import (
    DeadlineExceeded,
    HistoryChanged,
    NotFound,
    RequestRefused,
    StateLost,
)
from partition_client.pinned_state import PinnedState
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import PAYLOAD_INLINE_BYTES_MAX

from tests.support.proposals import mkdir, set_key
from tests.support.served_replica import Served, served

LARGE = os.urandom(3 * PAYLOAD_INLINE_BYTES_MAX)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncGenerator[Served, None]:
    async with served(tmp_path / "data") as found:
        yield found


async def everything(state: PinnedState) -> dict[bytes, bytes]:
    """Keys with values, and paths with contents."""
    found = {key: value async for key, value in state.keys()}
    entries = [entry async for entry in state.tree()]
    for entry in entries:
        parts: list[bytes] = []
        if not entry.directory:
            await state.read_file(entry.path, parts.append)
        found[b"/" + entry.path] = b"".join(parts)
    return found


async def write(client: AsyncClient, version: int) -> dict[bytes, bytes]:
    """Replaces everything; returns what is there then."""
    text, large = b"%d" % version, b"%d" % version + LARGE
    for number in range(5):
        await client.set_key(b"k%d" % number, text)
    await client.set_key(b"only %d" % version, text)
    await client.put_file(b"small", PayloadSource.of_bytes(text))
    await client.put_file(b"large", PayloadSource.of_bytes(large))
    if version:
        await client.delete_key(b"only %d" % (version - 1))
    keys = {b"k%d" % number: text for number in range(5)} | {b"only %d" % version: text}
    return keys | {b"/small": text, b"/large": large}


async def test_a_pinned_state_is_of_one_lsn_while_everything_is_replaced(here: Served) -> None:
    before = await write(here.client, 0)
    async with here.client.state() as state:
        applied = here.one.volume.state.applied
        assert (state.lsn, state.term) == (applied.index, applied.term)
        assert state.history == await here.client.history()
        first = [pair async for pair in state.keys(b"k", b"k2")]
        assert first == [(b"k0", b"0"), (b"k1", b"0")]
        after = await write(here.client, 1)
        assert await everything(state) == before
        assert here.pinned == 1
    async with here.client.state() as state:
        assert await everything(state) == after
    await here.eventually(lambda: here.pinned == 0, "the places are given back")
    assert here.copies == []
    # What only the first state named went with it.
    await here.eventually(
        lambda: len(list(here.one.volume.blobs.digests())) == 1, "one blob is left"
    )


async def test_a_state_is_read_in_pages(here: Served) -> None:
    directories = [b"d/%04d" % number for number in range(700)]
    keys = [b"%04d" % number for number in range(1100)]
    await here.one.append(mkdir(b"d"), *map(mkdir, directories))
    await here.one.append(*(set_key(key, b"v") for key in keys))
    async with here.client.state() as state:
        assert [key async for key, _ in state.keys()] == keys
        assert [entry.path async for entry in state.tree(b"d")] == directories
        assert [entry.path async for entry in state.tree(recursive=False)] == [b"d"]


async def test_one_state_too_many_is_refused_until_another_one_ends(here: Served) -> None:
    hurried = AsyncClient([here.address], deadline_s=0.5, follow_hints=False)
    async with here.client.state():
        async with here.client.state():
            with pytest.raises(DeadlineExceeded, match="2 states are pinned here"):
                async with hurried.state():
                    pass
        async with here.client.state():
            pass
    await hurried.close()


KEYS = api.ReadStateRequest(keys=api.ListKeysRequest())
OPEN = api.ReadStateRequest(open=api.OpenState())


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "the first request of a stream must be `open`"),
        ([KEYS], "the first request of a stream must be `open`"),
    ],
)
async def test_a_stream_begins_with_open_and_goes_on_with_reads(
    here: Served, requests: list[api.ReadStateRequest], words: str
) -> None:
    async with grpc.aio.insecure_channel(here.address) as channel:
        call = log_store_pb2_grpc.LogStoreStub(channel).ReadState(iter(requests))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in call:
                pass
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert words in str(caught.value.details())
    await here.eventually(lambda: not here.copies, "no copy is left")


async def test_a_reader_that_goes_away_leaves_nothing(here: Served) -> None:
    reading = asyncio.Event()

    async def read() -> None:
        async with here.client.state():
            reading.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(read())
    await reading.wait()
    assert here.copies != []
    task.cancel()
    await here.eventually(lambda: not here.copies, "the copy is gone")


async def test_reads_may_be_nested(here: Served) -> None:
    """More than a page of files, each read while the tree is gone through."""
    for start in range(0, 1100, 100):
        names = [b"f%04d" % number for number in range(start, start + 100)]
        await here.one.append(*(mkdir(name) for name in names))
    await here.client.put_file(b"f0500", PayloadSource.of_bytes(b"x"))
    await here.client.put_file(b"f1099", PayloadSource.of_bytes(b"y"))
    found: list[bytes] = []
    seen = 0
    async with here.client.state() as state:
        async for entry in state.tree():
            seen += 1
            if not entry.directory:
                await state.read_file(entry.path, found.append)
        async for _ in state.keys():
            pass
    assert seen == 1100
    assert b"".join(found) == b"xy"


async def test_what_is_not_there_or_asked_wrongly_leaves_the_state(here: Served) -> None:
    with pytest.raises(HistoryChanged):
        async with here.client.state(history="another"):
            pass
    await here.client.put_file(b"f", PayloadSource.of_bytes(b"x"))
    async with here.client.state() as state:
        before = await everything(state)
        with pytest.raises(NotFound, match="b'none' is not a file"):
            await state.read_file(b"none", lambda _: None)
        with pytest.raises(NotFound, match="b'f' is not a directory"):
            await anext(aiter(state.tree(b"f")))
        with pytest.raises(RequestRefused, match="INVALID_ARGUMENT"):
            await state.read_file(b"a//b", lambda _: None)
        assert await everything(state) == before


async def test_a_state_is_lost_if_a_read_of_it_is_left(here: Served) -> None:
    await here.client.put_file(b"f", PayloadSource.of_bytes(LARGE * 20))
    async with here.client.state() as state:

        def write(_: bytes) -> None:
            raise OSError("no room")

        with pytest.raises(OSError, match="no room"):
            await state.read_file(b"f", write)
        with pytest.raises(StateLost, match="left before its end"):
            await everything(state)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (OPEN, "only once per stream"),
        (api.ReadStateRequest(), "set keys, tree or file"),
        (
            api.ReadStateRequest(tree=api.ListTreeRequest(path=b"d", after=b"e")),
            "does not lie below",
        ),
    ],
)
async def test_a_wrong_request_is_answered_and_the_next_one_served(
    here: Served, wrong: api.ReadStateRequest, words: str
) -> None:
    async with grpc.aio.insecure_channel(here.address) as channel:
        call = log_store_pb2_grpc.LogStoreStub(channel).ReadState(iter([OPEN, wrong, KEYS]))
        _, refused, served = [answer async for answer in call]
    assert refused.last
    assert refused.error.reason == types.REASON_INVALID_ARGUMENT
    assert words in refused.error.message
    assert (served.WhichOneof("answer"), served.last) == ("keys", True)


async def test_a_listing_goes_on_behind_a_path_up_to_a_limit(here: Served) -> None:
    """Of the running state and of a pinned one."""
    await here.one.append(*map(mkdir, [b"a", b"a/x", b"a/x/y", b"a/z", b"b"]))
    many = [b"b/%04d" % number for number in range(1200)]
    await here.one.append(*map(mkdir, many))

    async def listed(channel: grpc.aio.Channel, **options: Any) -> list[bytes]:
        request = api.ListTreeRequest(**options)
        stub = log_store_pb2_grpc.LogStoreStub(channel)
        one = [entry.path async for page in stub.ListTree(request) for entry in page.entries]
        call = stub.ReadState(iter([OPEN, api.ReadStateRequest(tree=request)]))
        other = [entry.path async for page in call for entry in page.tree.entries]
        assert one == other
        return one

    async with grpc.aio.insecure_channel(here.address) as channel:
        for limit, count in ((0, 1200), (500, 500), (501, 501), (1000, 1000), (2000, 1200)):
            assert await listed(channel, path=b"b", limit=limit) == many[:count]
        assert await listed(channel, path=b"b", after=b"b/0009", limit=2) == many[10:12]
        assert await listed(channel, path=b"b", after=many[-1]) == []
        assert await listed(channel, path=b"a", after=b"a/x/q") == [b"a/z"]
        assert await listed(channel, path=b"a", after=b"a/x", recursive=True) == [b"a/x/y", b"a/z"]
        assert await listed(channel, after=b"a/none", limit=1) == [b"b"]
        with pytest.raises(grpc.aio.AioRpcError, match="does not lie below"):
            await listed(channel, path=b"a", after=b"b")
