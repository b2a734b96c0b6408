"""A pinned state costs a bounded amount of places and of time. Whatever ends it, nothing is left,
and the reader hears why. test_pinned_state_room.py is about the volume's room."""

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from partition_client import PayloadSource
from partition_client.errors import StateLost
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_replica.core.limits import PAYLOAD_INLINE_BYTES_MAX, Limits
from partition_replica.core.model import OpenedFile, TreeEntry
from partition_replica.errors import Overloaded, Stopping, StorageFailed
from partition_replica.ids import LSN, Digest
from partition_replica.runtime.disk import DiskWatch
from partition_replica.runtime.transfer.capture import Captured
from partition_replica.transport import chunks, state_reading

from tests.support.one_replica import serving
from tests.support.served_replica import (
    QUICK,
    Served,
    first_key,
    hold_up,
    served,
    serving_clients,
)

LARGE = os.urandom(3 * PAYLOAD_INLINE_BYTES_MAX)
OPEN = api.ReadStateRequest(open=api.OpenState())
FILE = api.ReadStateRequest(file=api.ReadFileRequest(path=b"f"))


@asynccontextmanager
async def raw_call(here: Served) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(here.address) as channel:
        call = log_store_pb2_grpc.LogStoreStub(channel).ReadState()
        try:
            yield call
        finally:
            call.cancel()


async def code_of(call: Any) -> grpc.StatusCode:
    """How a call ends, which nobody asks for anything."""
    found: grpc.StatusCode = await asyncio.wait_for(call.code(), 20)
    return found


# --- time ---------------------------------------------------------------------------------------


async def test_a_state_of_which_nothing_is_read_is_given_up(tmp_path: Path) -> None:
    limits = replace(QUICK, pinned_state_idle_s=0.3)
    async with served(tmp_path / "data", limits) as here:
        async with here.client.state() as state:
            await here.eventually(lambda: not here.copies, "the copy is gone")
            await here.eventually(lambda: here.pinned == 0, "its place is free")
            # The call ends with the reason, and gives its place among the streams back.
            await here.eventually(lambda: not here.streams["ReadState"], "the stream is over")
            # gRPC loses the reason if a write meets the end of the stream on its way.
            await here.eventually(state._call.done, "the client has heard of it")
            with pytest.raises(
                StateLost, match=r"open a new state: .*OVERLOADED: nothing was asked"
            ):
                await first_key(state)


async def test_a_reader_that_moves_slowly_keeps_its_state(tmp_path: Path) -> None:
    limits = replace(QUICK, pinned_state_idle_s=0.6, range_items_max=1)
    async with served(tmp_path / "data", limits) as here:
        for number in range(12):
            await here.one.set(b"%02d" % number)
        found = []
        async with here.client.state() as state:
            async for key, _ in state.keys():
                found.append(key)
                await asyncio.sleep(0.15)
        assert len(found) == 12  # over three times as long as it may be unused


async def test_a_file_that_is_taken_slowly_keeps_its_state(tmp_path: Path) -> None:
    """An answer that is taken is a use, too."""
    limits = replace(QUICK, pinned_state_idle_s=2.0)
    async with served(tmp_path / "data", limits) as here:
        await here.client.put_file(b"f", PayloadSource.of_bytes(LARGE * 320))
        async with raw_call(here) as call:
            await call.write(OPEN)
            await call.read()
            await call.write(FILE)
            received, last = 0, False
            while not last:
                answer = await call.read()
                received, last = received + len(answer.file.data), answer.last
                await asyncio.sleep(0.04)
            assert received == len(LARGE) * 320
            assert here.copies != []
            await call.write(api.ReadStateRequest(keys=api.ListKeysRequest()))
            assert (await call.read()).last


async def test_the_oldest_a_state_may_be(tmp_path: Path) -> None:
    limits = replace(QUICK, pinned_state_age_max_s=1.0)
    async with served(tmp_path / "data", limits) as here:
        await here.one.set(b"k")
        async with here.client.state() as state:

            async def read() -> None:
                while True:
                    await first_key(state)
                    await asyncio.sleep(0.05)

            with pytest.raises(StateLost, match=r"pinned for 1\.0 s"):
                await asyncio.wait_for(read(), 20)
            await here.eventually(lambda: not here.copies, "the copy is gone")


async def test_a_reader_that_takes_no_answers_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent no more than the buffers hold, loses its state, and then its call."""
    monkeypatch.setattr(state_reading, "CUT_OFF_S", 0.2)
    limits = replace(QUICK, pinned_state_idle_s=1.0, chunk_bytes=64 * 1024)
    sent = 0
    file_chunks = chunks.file_chunks

    async def counted(*arguments: Any) -> AsyncIterator[bytes]:
        nonlocal sent
        async for chunk in file_chunks(*arguments):
            sent += len(chunk)
            yield chunk

    monkeypatch.setattr(state_reading, "file_chunks", counted)
    async with served(tmp_path / "data", limits) as here:
        await here.client.put_file(b"f", PayloadSource.of_bytes(LARGE * 200))
        async with raw_call(here) as call:
            await call.write(OPEN)
            await call.read()
            for _ in range(10):
                await call.write(FILE)
            await here.eventually(lambda: not here.copies, "the copy is gone")
            await here.eventually(lambda: not here.streams["ReadState"], "the stream is over")
            assert sent < 16 * 1024**2, "of 375 MiB that were asked for"
            await here.eventually(lambda: here.refused == ["OVERLOADED"], "it is counted, once")
            await here.eventually(lambda: not here.one.volume.blobs.held_count, "no blob is held")
            # What is on its way already it may still take.
            with pytest.raises(grpc.aio.AioRpcError, match="no answer was taken"):
                while await asyncio.wait_for(call.read(), 20) is not grpc.aio.EOF:
                    pass


async def test_a_stream_that_asks_for_nothing_at_all_gives_its_place_back(tmp_path: Path) -> None:
    limits = replace(QUICK, stream_stall_s=0.3)
    async with served(tmp_path / "data", limits) as here, raw_call(here) as call:
        await call.wait_for_connection()
        assert await code_of(call) is grpc.StatusCode.RESOURCE_EXHAUSTED
        await here.eventually(lambda: not here.streams["ReadState"], "its place is free")


async def test_a_slow_end_of_one_state_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = replace(QUICK, pinned_state_idle_s=0.3)
    async with served(tmp_path / "data", limits) as here:
        go, kept, opened = threading.Event(), asyncio.Event(), 0
        remove = Captured.remove

        def slowly(captured: Captured) -> None:
            if captured.directory.name == "pinned-1":
                assert go.wait(60)
            remove(captured)

        monkeypatch.setattr(Captured, "remove", slowly)

        async def hold() -> None:
            nonlocal opened
            async with here.one.replica.applications.pinned_state(linearizable=True, history=""):
                opened += 1
                await kept.wait()

        first = asyncio.create_task(hold())
        await here.eventually(lambda: opened == 1, "the first is pinned")
        second = asyncio.create_task(hold())
        await here.eventually(lambda: opened == 2, "the second is pinned")
        await here.eventually(lambda: here.copies == ["pinned-1"], "the second is gone")
        await here.eventually(lambda: here.pinned == 1, "its place is free")
        go.set()
        await here.eventually(lambda: not here.copies, "the first is gone")
        kept.set()
        await asyncio.gather(first, second)


# --- the end ------------------------------------------------------------------------------------


async def test_readers_are_told_when_the_replica_stops(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here, here.client.state() as state:
        await here.one.replica.stop()
        assert here.copies == []
        with pytest.raises(StateLost, match="STOPPING"):
            await first_key(state)


async def test_a_stop_waits_for_a_copy_under_way(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one, serving_clients(one, QUICK) as here:
        slow = hold_up(here)
        states = one.replica._pinned_states

        async def open_one() -> None:
            async with states.open(linearizable=True, history=""):
                pass

        opening = asyncio.create_task(open_one())
        await asyncio.to_thread(slow.begun.wait)
        stopping = asyncio.create_task(one.replica.stop())
        done, _ = await asyncio.wait([stopping, opening], timeout=0.5)
        assert not done
        slow.go.set()
        await stopping
        assert here.copies == []
        with pytest.raises(Stopping):
            await opening
        with pytest.raises(Stopping):
            await open_one()


async def test_a_caller_that_goes_away_ends_its_copy(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here:
        slow = hold_up(here)
        async with raw_call(here) as call:
            await call.write(OPEN)
            await asyncio.to_thread(slow.begun.wait)
        slow.go.set()
        await here.eventually(lambda: here.pinned == 0, "its place is free")
        assert here.copies == []
        assert here.one.volume.state._views == 0


async def test_a_place_is_given_back_when_the_copy_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody who ends it a second time goes on before."""
    async with served(tmp_path / "data") as here:
        go, begun, loop_thread = threading.Event(), threading.Event(), threading.get_ident()
        rmtree, release = shutil.rmtree, Captured.release
        released_on: list[int] = []

        def slowly(*arguments: Any, **options: Any) -> None:
            begun.set()
            assert go.wait(60)
            rmtree(*arguments, **options)

        def noted(captured: Captured) -> None:
            released_on.append(threading.get_ident())
            release(captured)

        monkeypatch.setattr(Captured, "release", noted)
        monkeypatch.setattr(shutil, "rmtree", slowly)
        async with here.client.state():
            pass
        await asyncio.to_thread(begun.wait)
        closing = asyncio.create_task(here.one.replica._pinned_states.close())
        done, _ = await asyncio.wait([closing], timeout=0.3)
        assert not done
        assert here.pinned == 1
        go.set()
        await closing
        assert (here.copies, here.pinned) == ([], 0)
        # There may be a million blobs, so not on the event loop.
        assert released_on
        assert loop_thread not in released_on


async def test_a_watch_that_fails_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: DiskWatch) -> bool:
        raise StorageFailed("no")

    async with served(tmp_path / "data") as here:
        monkeypatch.setattr(DiskWatch, "below_reserve", fail)
        async with here.client.state():
            await here.eventually(lambda: here.one.failures, "it is heard of")
        assert [str(error) for error in here.one.failures] == ["no"]
        here.one.failures.clear()


async def test_a_long_copy_is_no_long_wait(tmp_path: Path) -> None:
    """Only the time in which no copy is possible is bounded; a caller waits as long as it likes."""
    limits = replace(QUICK, snapshot_capture_wait_s=0.2)
    async with served(tmp_path / "data", limits) as here:
        slow = hold_up(here)
        replica, log = here.one.replica, here.one.volume.log

        async def pin() -> int:
            async with replica.applications.pinned_state(linearizable=True, history="") as state:
                return state.position.index

        both = [asyncio.create_task(pin()) for _ in range(2)]
        await asyncio.to_thread(slow.begun.wait)
        await asyncio.sleep(0.6)
        slow.go.set()
        assert await asyncio.gather(*both) == [here.one.volume.state.applied.index] * 2
        await here.eventually(lambda: here.pinned == 0, "the places are free")
        log.save_configuration(LSN(log.last.index + 5), log.configuration[1])
        with pytest.raises(Overloaded, match=r"could not be copied within 0.2 s"):
            await pin()


async def test_a_file_is_let_go_of_when_nobody_reads_it_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a reader that goes away in the middle: not when the garbage is collected."""
    events: list[str] = []

    async def endless(*_: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            events.append("content")

    monkeypatch.setattr(state_reading, "file_chunks", endless)
    node = TreeEntry(False, 0o644, 1, Digest(bytes(32)))
    opened = OpenedFile(node, tmp_path, LSN(1))
    state: Any = SimpleNamespace(open_file=lambda *_: opened)
    replica: Any = SimpleNamespace(close_file=lambda _: events.append("file"))
    answers = state_reading._answers(replica, Limits(), state, FILE)
    kept = [await anext(answers), await anext(answers)]
    assert kept
    await answers.aclose()
    assert events == ["content", "file"]
