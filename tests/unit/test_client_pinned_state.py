"""A pinned state as the client has it: what its caller gets when it is over, however that came."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from partition_client import (
    ClientError,
    DiskFull,
    HistoryChanged,
    PinnedState,
    RequestRefused,
    StateLost,
)
from partition_client.calls import Deadline
from partition_client.waiting import Silent
from partition_proto.v1 import log_store_pb2 as api
from partition_replica.errors import DiskFull as ReplicaDiskFull
from partition_replica.errors import InvalidArgument, Overloaded, ReplicaError, WrongHistory
from partition_replica.transport.failures import abort

from tests.support.stand_in_replica import StandInReplica


class Pinning(StandInReplica):
    """Opens after `open_s`, and answers requests for keys and files while `answers` is set. Once it
    has an `error`, it ends the stream with that instead."""

    def __init__(self, *, open_s: float = 0.0) -> None:
        super().__init__()
        self.open_s = open_s
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self.opened = 0
        self.error: ReplicaError | None = None

    async def ReadState(
        self, request: AsyncIterator[api.ReadStateRequest], context: Any
    ) -> AsyncIterator[api.ReadStateResponse]:
        self.opened += 1
        first = True
        async for item in request:
            if first:
                await asyncio.sleep(self.open_s)
                opened = api.OpenedState(lsn=7, term=3, history_id="now")
                yield api.ReadStateResponse(opened=opened, last=True)
                first = False
                continue
            self.asked.set()
            await self.answers.wait()
            if self.error is not None:
                await abort(context, self.error)
            if item.HasField("file"):
                entry = api.TreeEntry(path=item.file.path, size=2)
                yield api.ReadStateResponse(file=api.ReadFileResponse(entry=entry, data=b"1"))
                yield api.ReadStateResponse(file=api.ReadFileResponse(data=b"2"), last=True)
            else:
                yield api.ReadStateResponse(keys=api.ListKeysResponse(), last=True)


async def read(state: PinnedState) -> None:
    async for _ in state.keys():
        raise AssertionError("there are no keys")


async def test_behind_its_block_a_state_is_lost() -> None:
    async with Pinning().client() as client:
        async with client.state() as state:
            await read(state)
        for _ in range(2):
            with pytest.raises(StateLost, match="the block of the state at LSN 7 has ended"):
                await read(state)
            with pytest.raises(StateLost, match="has ended"):
                await state.read_file(b"f", lambda _: None)


async def test_a_read_under_way_ends_with_the_block() -> None:
    replica = Pinning()
    async with replica.client() as client:
        async with client.state() as state:
            replica.answers.clear()
            reading = asyncio.create_task(read(state))
            await replica.asked.wait()
        with pytest.raises(StateLost, match="has ended"):
            await reading


@pytest.mark.parametrize("under_way", [False, True])
async def test_a_closed_clients_state_is_lost(under_way: bool) -> None:
    replica = Pinning()
    async with replica.client() as client:
        async with client.state() as state:
            if under_way:
                replica.answers.clear()
                reading = asyncio.create_task(read(state))
                await replica.asked.wait()
            await client.close()
            if not under_way:
                reading = asyncio.create_task(read(state))
            for reader in (reading, read(state)):
                with pytest.raises(StateLost, match="open a new state: the client was closed"):
                    await reader


async def test_a_client_that_is_closed_while_it_opens_a_state_says_so() -> None:
    replica = Pinning(open_s=60.0)
    async with replica.client() as client:

        async def enter() -> None:
            async with client.state():
                raise AssertionError("it never opens")

        opening = asyncio.create_task(enter())
        while not replica.opened:
            await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(ClientError):
            await opening


async def test_a_reader_that_is_cancelled_is_cancelled() -> None:
    replica = Pinning()
    async with replica.client() as client, client.state() as state:
        replica.answers.clear()
        reading = asyncio.create_task(read(state))
        await replica.asked.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        for _ in range(2):
            with pytest.raises(StateLost, match="a read was cancelled or left before its end"):
                await read(state)


async def test_a_read_that_is_left_before_its_end_ends_the_state() -> None:
    """The rest of its answers would be taken for those of the next read."""

    def full(_: bytes) -> None:
        raise OSError("the local disk is full")

    async with Pinning().client() as client, client.state() as state:
        with pytest.raises(OSError, match="local disk"):
            await state.read_file(b"f", full)
        with pytest.raises(StateLost, match="a read was cancelled or left before its end"):
            await read(state)


async def test_a_second_read_at_the_same_time_is_refused() -> None:
    """The first one goes on."""
    replica = Pinning()
    async with replica.client() as client, client.state() as state:
        replica.answers.clear()
        reading = asyncio.create_task(read(state))
        await replica.asked.wait()
        with pytest.raises(StateLost, match="another read of this state is in progress"):
            await read(state)
        replica.answers.set()
        await reading
        await read(state)


@pytest.mark.parametrize(
    ("error", "wanted", "why"),
    [
        (ReplicaDiskFull("no room"), DiskFull, "no room"),
        (WrongHistory("restored", "h2"), StateLost, "open a new state: .*WRONG_HISTORY: restored"),
        (InvalidArgument("open it"), StateLost, "open a new state: .*INVALID_ARGUMENT: open it"),
        (Overloaded("for 300 s"), StateLost, "open a new state: .*OVERLOADED: for 300 s"),
    ],
)
async def test_a_state_that_the_replica_gave_up_says_why(
    error: ReplicaError, wanted: type[ClientError], why: str
) -> None:
    replica = Pinning()
    async with replica.client() as client, client.state() as state:
        replica.error = error
        for _ in range(2):
            with pytest.raises(ClientError, match=why) as caught:
                await read(state)
            assert type(caught.value) is wanted


async def test_an_older_replica_that_has_no_states_is_named() -> None:
    async with StandInReplica().client(deadline_s=60.0) as client, asyncio.timeout(20):
        with pytest.raises(RequestRefused, match="UNIMPLEMENTED") as caught:
            async with client.state():
                raise AssertionError("it has none")
        assert caught.value.reason == "UNIMPLEMENTED"


async def test_a_state_of_another_history_is_none() -> None:
    async with Pinning().client() as client:
        with pytest.raises(HistoryChanged) as raised:
            async with client.state(history="before"):
                raise AssertionError("it is another one")
        assert raised.value.history == "now"
        async with client.state(history="now") as state:
            assert state.history == "now"


async def test_the_deadline_counts_from_entering() -> None:
    async with Pinning(open_s=0.4).client(deadline_s=0.8) as client:
        waiting = client.state()
        await asyncio.sleep(0.6)
        async with waiting as state:
            await read(state)


async def test_the_deadline_holds_for_what_is_written() -> None:
    """A write waits for as long as the replica reads nothing."""

    class Stuck:
        async def write(self, request: api.ReadStateRequest) -> None:
            await asyncio.Event().wait()

    state = PinnedState("here:1", Stuck(), Deadline(0.2), lambda: False)
    async with asyncio.timeout(20):
        with pytest.raises(Silent, match=r"within 0\.2 s"):
            await state.open(api.OpenState())
        with pytest.raises(StateLost, match="no answer within"):
            await read(state)
