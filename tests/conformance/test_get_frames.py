"""GetFrames of a real replica: a frame is answered as a whole, with one read index and one
transaction per message; and whatever a client does, it costs a bounded amount."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import Limits
from partition_replica.errors import NoLeader
from partition_replica.runtime.member import Member
from partition_replica.transport.get_frames import GetFrames
from partition_replica.transport.streams import StreamBytes

from tests.support.local_group import eventually
from tests.support.served_replica import Served, served

VALUE = bytes(range(256)) * 40
"""10 KiB."""


@asynccontextmanager
async def stream_to(here: Served) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(here.address) as channel:
        call = log_store_pb2_grpc.LogStoreStub(channel).GetFrames()
        yield call
        call.cancel()


async def answer_to(call: Any, frame: api.GetFrame) -> list[api.GetFrameResponse]:
    """All messages of the answer to a frame."""
    await call.write(frame)
    found = [await call.read()]
    while not found[-1].last:
        found.append(await call.read())
    assert {one.frame_id for one in found} == {frame.frame_id}
    return found


async def test_a_frame_is_answered_in_the_order_of_its_keys(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here, stream_to(here) as call:
        for number in range(3):
            await here.one.set(b"k%d" % number, b"v%d" % number)
        await here.one.set(b"empty", b"")
        keys = [b"k2", b"none", b"k0", b"empty", b"k2", b"k" * 60_000]
        for consistency in api.Consistency.values():
            frame = api.GetFrame(frame_id=9, keys=keys, consistency=consistency)  # type: ignore[arg-type]
            (found,) = await answer_to(call, frame)
            assert list(found.values) == [b"v2", b"", b"v0", b"", b"v2", b""]
            assert list(found.absent) == [1, 5]
            assert (found.first, found.applied) == (0, here.one.replica.status().applied)
            assert not found.HasField("error")


async def test_a_frame_has_one_read_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    read_index = Member.read_index

    async def counted(member: Member, timeout_s: float) -> Any:
        nonlocal asked
        asked += 1
        return await read_index(member, timeout_s)

    monkeypatch.setattr(Member, "read_index", counted)
    async with served(tmp_path / "data") as here, stream_to(here) as call:
        keys = [b"%d" % number for number in range(1000)]
        await answer_to(call, api.GetFrame(frame_id=1, keys=keys))
        assert asked == 1
        stale = api.GetFrame(frame_id=2, keys=keys, consistency=api.CONSISTENCY_STALE)
        await answer_to(call, stale)
        assert asked == 1
        keys_seen = here.one.metrics.registry.get_sample_value("logstore_get_frame_keys_sum")
        assert keys_seen is not None


async def test_a_large_answer_is_split_and_can_be_followed(tmp_path: Path) -> None:
    limits = replace(Limits(), get_answer_bytes_max=25_000)
    async with served(tmp_path / "data", limits) as here, stream_to(here) as call:
        await here.one.set(b"large", VALUE)
        keys = [b"large", b"none"] * 5
        found = await answer_to(call, api.GetFrame(frame_id=1, keys=keys))
        assert len(found) == 3
        values: dict[int, bytes | None] = {}
        for message in found:
            assert message.first == len(values)
            for place, value in enumerate(message.values):
                values[message.first + place] = None if place in message.absent else value
        assert values == {n: None if n % 2 else VALUE for n in range(10)}
        # A value above the size of a message is a message.
        await here.one.set(b"huge", VALUE * 4)
        found = await answer_to(call, api.GetFrame(frame_id=2, keys=[b"huge", b"huge"]))
        assert [len(message.values) for message in found] == [1, 1]


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ([], "0 keys; allowed are 1 to 1024"),
        ([b"k"] * 1025, "1025 keys"),
        ([b"k", b""], "key has 0 bytes"),
        ([b"k" * 65_001], "65001 bytes"),
    ],
)
async def test_a_refused_frame_harms_no_other(keys: list[bytes], why: str, tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here, stream_to(here) as call:
        (found,) = await answer_to(call, api.GetFrame(frame_id=1, keys=keys))
        assert found.error.reason == types.REASON_INVALID_ARGUMENT
        assert why in found.error.message
        assert not found.values
        assert here.refused == ["INVALID_ARGUMENT"]
        (found,) = await answer_to(call, api.GetFrame(frame_id=2, keys=[b"k"]))
        assert list(found.absent) == [0]


async def test_a_frame_of_another_history_is_refused(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here, stream_to(here) as call:
        here.one.replica.applications.history()
        known = here.one.replica.applications.history()
        (found,) = await answer_to(call, api.GetFrame(frame_id=1, keys=[b"k"], history_id="other"))
        assert found.error.reason == types.REASON_WRONG_HISTORY
        assert found.error.history_id == known
        (found,) = await answer_to(call, api.GetFrame(frame_id=2, keys=[b"k"], history_id=known))
        assert list(found.absent) == [0]


async def test_an_unknown_consistency_ends_the_stream(tmp_path: Path) -> None:
    async with served(tmp_path / "data") as here, stream_to(here) as call:
        await call.write(api.GetFrame(frame_id=1, keys=[b"k"], consistency=9))  # type: ignore[arg-type]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_frame_that_waits_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here nobody confirms the leader for the first frame; the second is a stale read."""
    gate = asyncio.Event()

    async def held_up(member: Member, timeout_s: float) -> Any:
        await gate.wait()
        raise NoLeader("no quorum")

    monkeypatch.setattr(Member, "read_index", held_up)
    async with served(tmp_path / "data") as here, stream_to(here) as call:
        await call.write(api.GetFrame(frame_id=1, keys=[b"k"]))
        stale = api.GetFrame(frame_id=2, keys=[b"k"], consistency=api.CONSISTENCY_STALE)
        (found,) = await answer_to(call, stale)
        assert list(found.absent) == [0]
        gate.set()
        found = await call.read()
        assert (found.frame_id, found.error.reason) == (1, types.REASON_NO_LEADER)


# --- bounds -----------------------------------------------------------------------------------


class Stage:
    """GetFrames over a replica that answers at once, with a client that writes frames as they are
    asked for."""

    def __init__(self, limits: Limits) -> None:
        self.asked = self.read = 0
        self.held: list[int] = [0]
        self.refused: list[str] = []
        self.sent = 0
        self.gate = asyncio.Event()
        self.gate.set()
        replica: Any = self
        self.gets = GetFrames(
            replica,
            limits,
            lambda error: self.refused.append(error.reason),
            StreamBytes(limits.get_bytes_total_max, self.held.append),
            lambda _: None,
        )

    def check_history(self, history: str) -> None:
        """It has any."""

    async def read_point(self, *, linearizable: bool, at_follower: bool = False) -> "Stage":
        if linearizable:
            self.asked += 1
            await self.gate.wait()
        return self

    def get_values(self, keys: Any, bytes_max: int) -> tuple[list[bytes | None], int]:
        self.read += 1
        return [bytes(bytes_max)], 7

    async def frames(self, keys: list[bytes], count: int = 1_000_000) -> AsyncIterator[Any]:
        for _ in range(count):
            self.sent += 1
            yield api.GetFrame(frame_id=self.sent, keys=keys)
            await asyncio.sleep(0)
        await asyncio.Event().wait()


async def still(stage: Stage) -> None:
    """Returns once the stream asks for no more frames."""

    async def unchanged() -> bool:
        before = (stage.sent, stage.read)
        for _ in range(50):
            await asyncio.sleep(0)
        return before == (stage.sent, stage.read)

    await eventually(unchanged, "the stream is not read any more")


async def test_a_client_that_does_not_read_costs_its_frames_and_one_message() -> None:
    limits = replace(Limits(), get_frames_max=5, get_answer_bytes_max=50_000)
    stage = Stage(limits)
    answers = stage.gets.serve(stage.frames([b"k"]))
    await anext(answers)
    await still(stage)
    assert stage.sent == 6, "five under way, and one that waits for room"
    assert stage.asked == 5
    assert stage.read == 1, "values are read when the message before them is sent"
    assert max(stage.held) < 50_000 + 1000
    for number in range(2, 20):
        assert (await anext(answers)).frame_id == number
    await answers.aclose()
    assert stage.held[-1] == 0


async def test_keys_are_bounded_in_bytes_too() -> None:
    limits = replace(Limits(), get_bytes_max=10_000)
    stage = Stage(limits)
    stage.gate.clear()
    answers = stage.gets.serve(stage.frames([b"k" * 3_000]))
    first = asyncio.ensure_future(anext(answers))
    await still(stage)
    assert stage.asked == 3
    stage.gate.set()
    await first
    await answers.aclose()
    assert stage.held[-1] == 0


async def test_all_streams_together_are_bounded() -> None:
    """An answer that does not fit is refused, and a frame that does not."""
    limits = replace(Limits(), get_bytes_total_max=10_000, get_answer_bytes_max=2_000)
    stage = Stage(limits)
    one, two, three = (stage.gets.serve(stage.frames([b"k" * 3_900], 1)) for _ in range(3))
    assert not (await anext(one)).HasField("error")  # 6 KB, because it is not known to be sent
    assert (await anext(two)).error.reason == types.REASON_OVERLOADED
    found = await anext(three)
    assert found.error.reason == types.REASON_OVERLOADED
    assert found.last
    assert not found.values
    assert stage.asked == 2, "a frame that does not fit asks for no read index"
    assert stage.refused == ["OVERLOADED"] * 2
    assert max(stage.held) <= 10_000 + 200, "errors are small"
    for answers in (one, two, three):
        await answers.aclose()
    assert stage.held[-1] == 0
    again = stage.gets.serve(stage.frames([b"k"]))
    assert not (await anext(again)).HasField("error")
    await again.aclose()


async def test_a_stream_too_many_is_refused_and_open_ones_are_counted(tmp_path: Path) -> None:
    limits = replace(Limits(), client_streams_max=1)
    async with served(tmp_path / "data", limits) as here, stream_to(here) as first:
        await answer_to(first, api.GetFrame(frame_id=1, keys=[b"k"]))
        assert here.streams["GetFrames"] == 1
        async with stream_to(here) as second:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await second.read()
            assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        first.cancel()
        await here.eventually(lambda: not here.streams["GetFrames"], "its place is free")
