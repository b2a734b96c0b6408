"""The client's gets in frames: what goes out together, and what it makes of each answer."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from partition_client import AsyncClient, ClientError, DeadlineExceeded, RequestRefused, gets
from partition_proto.v1 import log_store_pb2 as api
from partition_replica.errors import (
    InvalidArgument,
    NoLeader,
    NotLeader,
    Overloaded,
    ReplicaError,
    Stopping,
)

from tests.support.local_group import eventually
from tests.support.stand_in_replica import StandInReplica

WITHIN_S = 20.0


class Framed(StandInReplica):
    """`frames`: what it was sent. `errors`: with which it refuses the next frames."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[api.GetFrame] = []
        self.errors: list[ReplicaError] = []
        self.gate = asyncio.Event()
        self.gate.set()
        for number in range(3000):
            self.view.put_value(b"%d" % number, b"v%d" % number)

    async def GetFrames(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async def seen() -> AsyncIterator[api.GetFrame]:
            async for frame in request:
                self.frames.append(frame)
                await self.gate.wait()
                yield frame

        async for answer in super().GetFrames(seen(), context):
            yield answer

    def get_frame(self, frame: api.GetFrame, response: api.GetFrameResponse) -> None:
        if self.errors:
            raise self.errors.pop(0)
        super().get_frame(frame, response)

    @property
    def keys(self) -> list[bytes]:
        return [key for frame in self.frames for key in frame.keys]


async def get_all(client: AsyncClient, numbers: range, **more: Any) -> None:
    keys = [b"%d" % number for number in numbers]
    found = await asyncio.gather(*(client.get_key(key, **more) for key in keys))
    assert found == [b"v" + key for key in keys]


async def test_gets_that_wait_go_out_together() -> None:
    replica = Framed()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await get_all(client, range(2500))
        assert await client.get_key(b"none") is None
        assert await client.get_key(b"2") == b"v2"
    assert [len(frame.keys) for frame in replica.frames] == [1000, 1000, 500, 1, 1]
    assert {frame.consistency for frame in replica.frames} == {api.CONSISTENCY_LINEARIZABLE}
    assert replica.calls["GetFrames"] == 1
    assert "GetKey" not in replica.calls


async def test_stale_gets_have_a_stream_to_their_replica() -> None:
    leader, other = Framed(), Framed()
    other.serving_as = "follower"
    async with leader.serving() as one, other.serving() as two:
        async with AsyncClient([one], deadline_s=WITHIN_S) as client:
            await asyncio.gather(
                get_all(client, range(3)), get_all(client, range(3), stale_from=two)
            )
    assert [f.consistency for f in other.frames] == [api.CONSISTENCY_STALE]
    assert [f.consistency for f in leader.frames] == [api.CONSISTENCY_LINEARIZABLE]


async def test_linearizable_gets_from_a_follower_say_so() -> None:
    leader, other = Framed(), Framed()
    other.serving_as = "follower"
    async with leader.serving() as one, other.serving() as two:
        async with AsyncClient([one], deadline_s=WITHIN_S) as client:
            await get_all(client, range(3), read_from=two)
            await get_all(client, range(3), stale_from=two)
            await get_all(client, range(3))
            with pytest.raises(ValueError, match="not both"):
                await client.get_key(b"k", read_from=two, stale_from=two)
    assert [(f.consistency, f.at_follower) for f in other.frames] == [
        (api.CONSISTENCY_LINEARIZABLE, True),
        (api.CONSISTENCY_STALE, False),
    ]
    assert [f.at_follower for f in leader.frames] == [False]


async def test_a_get_costs_no_task() -> None:
    replica = Framed()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await client.get_key(b"1")
        replica.gate.clear()
        callers = [asyncio.ensure_future(client.get_key(b"2")) for _ in range(100)]
        others = asyncio.all_tasks() - set(callers)
        while len(replica.frames) < 2:
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks() - set(callers) - others) <= 1, "none but the write's"
        replica.gate.set()
        await asyncio.gather(*callers)


async def test_a_cancelled_caller_costs_nothing_on_the_wire() -> None:
    replica = Framed()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await client.get_key(b"0")
        replica.frames.clear()
        callers = [asyncio.ensure_future(client.get_key(b"%d" % n)) for n in range(10)]
        await asyncio.sleep(0)  # they wait, and the stream has not run
        for caller in callers[:9]:
            caller.cancel()
        assert await callers[9] == b"v9"
        assert replica.keys == [b"9"]
        # While it is under way: the answer is for nobody, and the stream goes on.
        replica.gate.clear()
        caller = asyncio.ensure_future(client.get_key(b"1"))
        while len(replica.frames) < 2:
            await asyncio.sleep(0)
        caller.cancel()
        replica.gate.set()
        assert await client.get_key(b"2") == b"v2"
    assert replica.calls["GetFrames"] == 1


@pytest.mark.parametrize(
    "error",
    [
        NoLeader("not now"),
        Overloaded("too many"),
        Stopping("going"),
        NotLeader("an unknown one", (2, "127.0.0.1:1")),
    ],
)
async def test_a_refusal_that_passes_is_retried(error: ReplicaError) -> None:
    replica = Framed()
    replica.errors = [error] * 3
    async with replica.client(deadline_s=WITHIN_S) as client:
        await get_all(client, range(10))
    assert replica.keys == [b"%d" % n for n in range(10)] * 4, "in order, each time"


async def test_a_hint_is_followed() -> None:
    old, new = Framed(), Framed()
    async with new.serving() as there, old.serving() as here:
        async with AsyncClient([here], deadline_s=WITHIN_S) as client:
            await client.get_key(b"1")
            old.serving_as = "follower"
            old.errors = [NotLeader("another leads", (2, there))]
            await get_all(client, range(10))
    assert len(new.keys) == 10


async def test_a_refusal_that_does_not_pass_is_told_to_the_frame_alone() -> None:
    replica = Framed()
    replica.errors = [InvalidArgument("a key of it")]
    async with replica.client(deadline_s=WITHIN_S) as client:
        found = await asyncio.gather(
            *(client.get_key(b"1") for _ in range(3)), return_exceptions=True
        )
        assert {str(error) for error in found} == {"INVALID_ARGUMENT: a key of it"}
        assert {type(error) for error in found} == {RequestRefused}
        assert await client.get_key(b"1") == b"v1"
    assert replica.calls["GetFrames"] == 1


@pytest.mark.parametrize("key", [b"", b"k" * 65_001])
async def test_a_key_that_would_be_refused_harms_no_other(key: bytes) -> None:
    """It travels alone, and the replica says what is wrong with it."""
    replica = Framed()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await asyncio.gather(client.get_key(key), get_all(client, range(3)))
    assert replica.keys == [b"0", b"1", b"2"]


class Breaking(Framed):
    """Its streams end in the given ways before they answer; then it serves."""

    def __init__(self, *ends: str) -> None:
        super().__init__()
        self.ends = list(ends)

    async def GetFrames(self, request: Any, context: Any) -> AsyncIterator[Any]:
        end = self.ends.pop(0) if self.ends else ""
        if end:
            self._count("GetFrames")
            self.frames.append(await anext(request))
        if end == "error":
            raise RuntimeError("planted")
        if end == "part":  # three keys were asked for
            yield api.GetFrameResponse(frame_id=self.frames[-1].frame_id, values=[b"v0"])
        if end == "too many":
            yield api.GetFrameResponse(frame_id=self.frames[-1].frame_id, values=[b"v0"] * 9)
        if end == "too few":
            yield api.GetFrameResponse(frame_id=self.frames[-1].frame_id, last=True)
        if end == "silence":
            await asyncio.Event().wait()
        if end:
            return
        async for answer in super().GetFrames(request, context):
            yield answer


async def test_a_broken_stream_is_opened_again() -> None:
    replica = Breaking("error", "end", "too many", "too few", "part")
    async with replica.client(deadline_s=WITHIN_S) as client:
        await get_all(client, range(3))
    assert replica.calls["GetFrames"] == 6
    assert list(replica.frames[-2].keys) == [b"0", b"1", b"2"]
    assert list(replica.frames[-1].keys) == [b"1", b"2"], "what was answered is not asked again"


async def test_a_silent_stream_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gets, "CALL_TIMEOUT_S", 0.5)
    replica = Breaking("silence", "part", "silence")
    async with replica.client(deadline_s=WITHIN_S) as client:
        await get_all(client, range(3))
    assert not replica.ends


async def test_each_get_has_its_own_deadline() -> None:
    replica = Framed()
    async with replica.client(deadline_s=2.0) as client:
        await client.get_key(b"0")
        replica.gate.clear()
        loop = asyncio.get_running_loop()
        began = loop.time()
        first = asyncio.ensure_future(client.get_key(b"1"))
        while loop.time() < began + 1.0:
            await asyncio.sleep(0.05)
        second = asyncio.ensure_future(client.get_key(b"2"))
        with pytest.raises(DeadlineExceeded, match=r"no answer within 2 s: 127"):
            await first
        assert loop.time() >= began + 2.0
        assert not second.done()
        replica.gate.set()
        assert await second == b"v2"


async def test_a_stream_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gets, "STREAM_IDLE_S", 0.1)
    replica = Framed()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await client.get_key(b"0")
        lanes = client._gets._lanes

        async def none() -> bool:
            return not lanes

        await eventually(none, "the stream is closed, and its task has ended")
        assert await client.get_key(b"1") == b"v1"
    assert replica.calls["GetFrames"] == 2


# --- replicas without GetFrames -----------------------------------------------------------------


class Older(Framed):
    """A replica of the version before GetFrames, until it is upgraded."""

    upgraded = False

    async def GetFrames(self, request: Any, context: Any) -> AsyncIterator[Any]:
        if not self.upgraded:
            self._count("GetFrames")
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        async for answer in super().GetFrames(request, context):
            yield answer

    async def GetKey(self, request: Any, context: Any) -> Any:
        self._count("GetKey")
        return await super().GetKey(request, context)


@pytest.mark.parametrize("stale", [False, True])
async def test_a_replica_without_frames_is_asked_one_by_one(stale: bool) -> None:
    replica = Older()
    async with replica.serving() as address, AsyncClient([address]) as client:
        more = {"stale_from": address} if stale else {}
        await get_all(client, range(20), **more)
        await get_all(client, range(20), **more)
    assert replica.calls["GetKey"] == 40
    assert replica.calls["GetFrames"] == 1


async def test_a_replica_that_was_upgraded_is_asked_in_frames(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gets, "UNARY_S", 0.05)
    replica = Older()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await client.get_key(b"1")
        replica.upgraded = True

        async def framed() -> bool:
            await client.get_key(b"1")
            return bool(replica.frames)

        await eventually(framed, "frames are tried again")


# --- the end ------------------------------------------------------------------------------------


async def test_close_ends_the_gets_that_wait() -> None:
    replica = Framed()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await client.get_key(b"0")
        replica.gate.clear()
        sent = asyncio.ensure_future(client.get_key(b"1"))
        while len(replica.frames) < 2:
            await asyncio.sleep(0)
        waiting = asyncio.ensure_future(client.get_key(b"2"))
        await asyncio.sleep(0)
        await client.close()
        for caller in (sent, waiting):
            with pytest.raises(ClientError, match="closed"):
                await caller
        with pytest.raises(ClientError, match="closed"):
            await client.get_key(b"3")
        replica.gate.set()


async def test_a_failure_of_the_stream_itself_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Framed()
    async with replica.client(deadline_s=WITHIN_S) as client:
        await client.get_key(b"0")

        def broken(*_: object) -> None:
            raise ZeroDivisionError("planted")

        with monkeypatch.context() as patch:
            patch.setattr(gets._Lane, "_take_frame", broken)
            with pytest.raises(ClientError, match="planted"):
                await client.get_key(b"1")
        assert await client.get_key(b"2") == b"v2"
