"""A pinned state is of one LSN, whatever is written meanwhile; it costs a bounded amount."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient
from partition_client.client import Source
from partition_client.errors import (
    DeadlineExceeded,
    DiskFull,
    HistoryChanged,
    NotFound,
    RequestRefused,
    StateLost,
)
from partition_client.pinned_state import PinnedState
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_replica.core.limits import PAYLOAD_INLINE_BYTES_MAX, Limits
from partition_replica.transport.failures import Failures
from partition_replica.transport.log_store_service import LogStoreService

from tests.support.local_group import eventually
from tests.support.one_replica import OneReplica, serving
from tests.support.proposals import mkdir, set_key

WITHIN_S = 30.0
LARGE = os.urandom(3 * PAYLOAD_INLINE_BYTES_MAX)
QUICK = replace(Limits(), log_compaction_step_entries=1, pinned_states_max=2, pin_lease_s=2.0)


class Served:
    """A replica behind gRPC, with a client of it."""

    def __init__(self, one: OneReplica, address: str, client: AsyncClient) -> None:
        self.one = one
        self.address = address
        self.client = client

    @property
    def copies(self) -> list[str]:
        return os.listdir(self.one.volume.staging)

    @property
    def pinned(self) -> float:
        found = self.one.metrics.registry.get_sample_value("logstore_pinned_states")
        assert found is not None
        return found

    async def eventually(self, condition: Any, what: str) -> None:
        async def ask() -> bool:
            return bool(condition())

        await eventually(ask, what, WITHIN_S)


@asynccontextmanager
async def served(data: Path, limits: Limits = QUICK) -> AsyncIterator[Served]:
    async with serving(data, limits=limits) as one:
        server = grpc.aio.server()
        failures = Failures(lambda _: None, one.failures.append)
        service = LogStoreService(one.replica, limits, failures)
        log_store_pb2_grpc.add_LogStoreServicer_to_server(service, server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        client = AsyncClient([address], deadline_s=WITHIN_S, follow_hints=False)
        try:
            yield Served(one, address, client)
        finally:
            await client.close()
            await server.stop(None)


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
    await client.put_file(b"small", Source.of_bytes(text))
    await client.put_file(b"large", Source.of_bytes(large))
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
    await here.eventually(lambda: not here.copies, "the copies are gone")
    assert here.pinned == 0
    # What only the first state named went with it.
    await here.eventually(
        lambda: len(list(here.one.volume.blobs.digests())) == 1, "one blob is left"
    )


async def test_the_log_goes_on_where_the_state_ends_for_as_long_as_it_is_pinned(
    here: Served,
) -> None:
    await here.client.set_key(b"k", b"0")
    log = here.one.volume.log
    async with here.client.state() as state:
        for number in range(20):
            await here.client.set_key(b"k", b"%d" % number)
        await here.eventually(lambda: log.first_stored == state.lsn + 1, "compacted up to it")
        lsns = [entry.lsn async for entry in here.client.tail(state.lsn + 1, history=state.history)]
        assert lsns[:20] == list(range(state.lsn + 1, state.lsn + 21))
    await here.client.set_key(b"k", b"last")
    await here.eventually(lambda: log.first_stored > state.lsn + 1, "compacted further")


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


async def test_a_state_of_which_nothing_is_read_is_given_up(tmp_path: Path) -> None:
    limits = replace(QUICK, pinned_state_idle_s=0.3)
    async with served(tmp_path / "data", limits) as here:
        async with here.client.state() as state:
            await here.eventually(lambda: not here.copies, "the copy is gone")
            assert here.pinned == 0
            with pytest.raises(StateLost, match=r"begin anew: .*OVERLOADED: nothing was asked"):
                await everything(state)


async def test_a_reader_that_takes_no_answers_loses_its_state(tmp_path: Path) -> None:
    limits = replace(QUICK, pinned_state_idle_s=0.5)
    async with served(tmp_path / "data", limits) as here:
        await here.client.put_file(b"f", Source.of_bytes(LARGE * 100))
        async with grpc.aio.insecure_channel(here.address) as channel:
            call = log_store_pb2_grpc.LogStoreStub(channel).ReadState()
            await call.write(api.ReadStateRequest(open=api.OpenState()))
            await call.read()
            file = api.ReadStateRequest(file=api.ReadFileRequest(path=b"f"))
            for _ in range(100):
                await call.write(file)
            await here.eventually(lambda: not here.copies, "the copy is gone")
            call.cancel()


async def test_a_state_is_given_up_for_room(here: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    free = here.one.volume.free_bytes()
    async with here.client.state() as state:
        monkeypatch.setattr(here.one.volume, "free_bytes", lambda: (1000, free[1]))
        await here.eventually(lambda: not here.copies, "the copy is gone")
        with pytest.raises(DiskFull, match="fell below its reserve"):
            await everything(state)
    with pytest.raises(DiskFull, match="reading the whole state takes a copy of it"):
        async with here.client.state():
            pass


async def test_what_is_asked_wrongly_is_refused(here: Served) -> None:
    with pytest.raises(HistoryChanged):
        async with here.client.state(history="another"):
            pass
    async with here.client.state() as state:
        with pytest.raises(NotFound, match="b'none' is no file"):
            await state.read_file(b"none", lambda _: None)
        with pytest.raises(NotFound):  # the stream ended with it
            await everything(state)
    async with here.client.state() as state:
        await here.one.append(mkdir(b"d"), mkdir(b"e"))
    async with here.client.state() as state:
        async for _ in state.tree():
            with pytest.raises(StateLost, match="another read of this state"):
                await everything(state)
            break


KEYS = api.ReadStateRequest(keys=api.ListKeysRequest())
OPEN = api.ReadStateRequest(open=api.OpenState())


@pytest.mark.parametrize(
    ("requests", "words"),
    [
        ([], "the first request of a stream is `open`"),
        ([KEYS], "the first request of a stream is `open`"),
        ([OPEN, OPEN], "a stream reads one state"),
        ([OPEN, api.ReadStateRequest()], "one of keys, tree and file"),
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


async def test_readers_are_told_when_the_replica_stops(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here, here.client.state() as state:
        await here.one.replica.stop()
        assert here.copies == []
        with pytest.raises(StateLost, match="STOPPING"):
            await everything(state)


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


async def test_a_refusal_is_no_lost_state(here: Served) -> None:
    async with here.client.state() as state:
        with pytest.raises(RequestRefused, match="INVALID_ARGUMENT"):
            await state.read_file(b"a//b", lambda _: None)
