"""The client's deadline holds for every call, and what no retry mends is said at once."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from partition_client import (
    AsyncClient,
    ClientError,
    DeadlineExceeded,
    DiskFull,
    InvalidEndpoint,
    PayloadSource,
    RequestRefused,
    SourceFailed,
    TreeMismatch,
    calls,
)
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types
from partition_replica.errors import DiskFull as ReplicaDiskFull
from partition_replica.errors import InvalidArgument, PayloadQuorum, ReplicaError
from partition_replica.transport.failures import unary

from tests.support.mute_replicas import (
    DEADLINE_S,
    LARGE,
    USES,
    WITHIN_S,
    Mute,
    Use,
    assert_gives_up,
    mute_listener,
)
from tests.support.stand_in_replica import StandInReplica


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_nobody_listens(use: Use, tmp_path: Path) -> None:
    async with AsyncClient(["127.0.0.1:1"], deadline_s=DEADLINE_S) as client:
        await assert_gives_up(client, use, tmp_path)


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_listener_that_says_nothing(use: Use, tmp_path: Path) -> None:
    async with mute_listener() as address:
        async with AsyncClient([address], deadline_s=DEADLINE_S) as client:
            await assert_gives_up(client, use, tmp_path)


@pytest.mark.parametrize("use", USES.values(), ids=USES.keys())
async def test_a_leader_that_does_not_answer(use: Use, tmp_path: Path) -> None:
    async with Mute().client(deadline_s=DEADLINE_S) as client:
        await assert_gives_up(client, use, tmp_path)


async def test_a_deadline_names_the_reason() -> None:
    async with AsyncClient(["127.0.0.1:1", "127.0.0.1:2"], deadline_s=DEADLINE_S) as client:
        with pytest.raises(DeadlineExceeded, match=r"0\.4 s.*127\.0\.0\.1:1: UNAVAILABLE.*1:2: "):
            await client.get_key(b"k")
    async with Mute().client(deadline_s=DEADLINE_S) as client:
        with pytest.raises(DeadlineExceeded, match="no answer within"):
            await client.get_key(b"k")


async def test_a_transfer_that_moves_may_outlast_the_deadline(tmp_path: Path) -> None:
    class Slow(StandInReplica):
        async def ReadFile(self, request: Any, context: Any) -> AsyncIterator[Any]:
            async for response in super().ReadFile(request, context):
                if response.HasField("entry"):
                    yield response
                for byte in response.data:
                    await asyncio.sleep(DEADLINE_S / 4)
                    yield api.ReadFileResponse(data=bytes([byte]))

    replica = Slow()
    replica.put(b"f", b"0123456789")
    received = bytearray()
    began = time.monotonic()
    async with replica.client(deadline_s=DEADLINE_S) as client:
        await client.read_file(b"f", received.extend)
    assert received == b"0123456789"
    assert time.monotonic() - began > DEADLINE_S


@pytest.mark.parametrize("together", [False, True])
async def test_content_that_is_sent_again_and_again_is_no_progress(together: bool) -> None:
    """To a leader that takes all of it, and then finds no quorum for it."""

    class Alone(StandInReplica):
        @unary
        async def UploadPayload(self, request: AsyncIterator[Any], context: Any) -> Any:
            async for _ in request:
                pass
            raise PayloadQuorum("the others can't be reached")

        @unary
        async def UploadPayloads(self, request: AsyncIterator[Any], context: Any) -> Any:
            async for _ in request:
                pass
            raise PayloadQuorum("the others can't be reached")

    contents = [bytes([number]) * 70_000 for number in range(1 + together)]
    operations = [types.Operation(set_key=types.SetKey(key=b"k", value=b"v"))]
    # Longer than the longest pause between two tries.
    async with Alone().client(deadline_s=1.0) as client:
        async with asyncio.timeout(4 * WITHIN_S):
            with pytest.raises(DeadlineExceeded, match="can't be reached"):
                await client.append(operations, [PayloadSource.of_bytes(c) for c in contents])


async def test_the_time_of_the_caller_is_not_the_replicas() -> None:
    replica = StandInReplica()
    replica.lsn = 5
    found = []
    async with replica.client(deadline_s=DEADLINE_S) as client:
        async for entry in client.tail():
            found.append(entry.lsn)
            await asyncio.sleep(DEADLINE_S * 1.2)
    assert found == [2, 3, 4, 5]


@pytest.mark.parametrize("sent", [0, 4])
async def test_a_silent_stream_goes_on_at_the_next_leader(
    monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    """Behind the bytes that came."""
    monkeypatch.setattr(calls, "STREAM_IDLE_S", 0.2)
    second = StandInReplica()
    second.serving_as = "follower"

    class Stuck(Mute):
        async def ReadFile(self, request: Any, context: Any) -> AsyncIterator[Any]:
            self.serving_as, second.serving_as = "follower", "leader"
            async for response in StandInReplica.ReadFile(self, request, context):
                response.data = response.data[:sent]
                if sent:
                    yield response
            await self._nothing()

    first = Stuck()
    for replica in (first, second):
        replica.put(b"f", b"content")
    received = bytearray()
    async with first.serving() as one, second.serving() as two:
        async with AsyncClient([one, two], deadline_s=30.0) as client:
            async with asyncio.timeout(WITHIN_S):
                await client.read_file(b"f", received.extend)
    assert received == b"content"


async def test_a_follower_of_a_quiet_log_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "STREAM_IDLE_S", 0.05)
    replica = StandInReplica()
    async with replica.client(deadline_s=2.0) as client:
        async with asyncio.timeout(20.0):
            tail = aiter(client.tail(follow=True))
            replica.advance()
            assert (await anext(tail)).lsn == 2
            waiting = asyncio.ensure_future(anext(tail))
            asked = replica.calls["GetStatus"]
            while replica.calls["GetStatus"] < asked + 5:
                await asyncio.sleep(0.01)
            assert not waiting.done()
            replica.advance()
            assert (await waiting).lsn == 3
            assert replica.calls["Read"] == 1


async def test_a_follower_leaves_a_leader_that_leads_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A leader that was cut off from the others says nothing more: two others are known."""
    monkeypatch.setattr(calls, "STREAM_IDLE_S", 0.1)
    old, new = StandInReplica(), StandInReplica()
    old.lsn, new.lsn, new.serving_as = 2, 3, "follower"
    async with old.serving() as one, new.serving() as two, asyncio.timeout(20.0):
        async with AsyncClient([one, two], deadline_s=10.0) as client:
            tail = aiter(client.tail(follow=True))
            assert (await anext(tail)).lsn == 2
            old.serving_as, new.serving_as = "follower", "leader"
            assert (await anext(tail)).lsn == 3


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_deadline_that_is_no_time(seconds: float) -> None:
    with pytest.raises(ValueError, match="deadline"):
        AsyncClient(["localhost:1"], deadline_s=seconds)


# --- the leader -------------------------------------------------------------------------------


async def test_a_replica_that_says_nothing_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "STATUS_TIMEOUT_S", 60.0)
    async with mute_listener() as mute, StandInReplica().serving() as address:
        async with AsyncClient([mute, address], deadline_s=60.0) as client:
            async with asyncio.timeout(10 * WITHIN_S):
                assert await client.get_key(b"k") is None


@pytest.mark.parametrize("newer", [0, 1])
async def test_of_two_leaders_the_later_one_is_asked(newer: int) -> None:
    """A leader that was cut off may not know yet that there is another."""
    replicas = [StandInReplica(), StandInReplica()]
    replicas[newer].term += 1
    replicas[newer].view.put_value(b"k", b"new")
    async with replicas[0].serving() as one, replicas[1].serving() as two:
        async with AsyncClient([one, two], deadline_s=10.0) as client:
            # The first connection takes longer than the later leader is waited for.
            await client.statuses()
            assert await client.get_key(b"k") == b"new"


async def test_a_history_and_a_status_are_those_of_the_leader_that_serves() -> None:
    old, new = StandInReplica(), StandInReplica()
    old.serving_as, old.history, new.history = "follower", "old", "new"
    async with old.serving() as one, new.serving() as two:
        async with AsyncClient([one, two], deadline_s=10.0) as client:
            assert await client.history() == "new"
            assert (await client.status()).history_id == "new"
            assert (await client.status(stale_from=one)).history_id == "old"


# --- what no retry mends ----------------------------------------------------------------------


class Refusing(StandInReplica):
    """Refuses sessions."""

    def __init__(self, error: ReplicaError) -> None:
        super().__init__()
        self.error = error

    def open_session(self) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (InvalidArgument("time_to_live_ms 5: allowed are 10"), RequestRefused),
        (ReplicaDiskFull("the volume is full"), DiskFull),
    ],
)
async def test_a_refused_session_is_said_at_once(
    error: ReplicaError, wanted: type[ClientError]
) -> None:
    replica = Refusing(error)
    async with replica.client(deadline_s=60.0) as client, asyncio.timeout(WITHIN_S):
        with pytest.raises(wanted, match=str(error)):
            await client.set_key(b"k", b"v")
    assert replica.calls["OpenSession"] == 1


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "UNAUTHENTICATED", "UNIMPLEMENTED"])
@pytest.mark.parametrize("name", USES)
async def test_a_replica_that_never_lets_us_in(code: str, name: str, tmp_path: Path) -> None:
    class Stranger(StandInReplica):
        async def GetStatus(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode[code], "another partition's certificate")

        GetKey = GetStatus

        async def GetFrames(self, request: Any, context: Any) -> AsyncIterator[Any]:
            await self.GetStatus(request, context)
            yield

    async with Stranger().client(deadline_s=60.0) as client, asyncio.timeout(WITHIN_S):
        with pytest.raises(RequestRefused, match="another partition's certificate") as caught:
            await USES[name](client, tmp_path)
    assert caught.value.reason == code


async def test_one_stranger_among_the_endpoints_harms_nobody() -> None:
    class Stranger(StandInReplica):
        async def GetStatus(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")

    async with Stranger().serving() as other, StandInReplica().serving() as address:
        async with AsyncClient([other, address], deadline_s=10.0) as client:
            assert await client.get_key(b"k") is None


ENDPOINTS = {
    "": "is empty",
    "https://localhost:7000": "is a URL",
    "dns:///localhost:7000": "is a URL",
    "localhost": "has no port",
    "unix:run/a": "has no absolute path",
    f"unix:/{'a' * 107}": "has a path of more than 107 bytes",
    "[::1]": "has no port",
    "localhost:": "port ''",
    "localhost:http": "port 'http'",
    "localhost:0": "port '0'",
    "localhost:65536": "port '65536'",
    ":7000": "has no host",
    " localhost:7000": "contains a space",
    "localhost: 7000": "contains a space",
    "localhost:7000\n": "contains a space",
    "a:1,b:2": "contains more than a host and a port",
    "localhost:7000/": "contains more than a host and a port",
    "::1:7000": "more than one colon",
    "[localhost]:7000": "invalid IPv6 address",
}


@pytest.mark.parametrize(("endpoint", "why"), ENDPOINTS.items())
async def test_malformed_endpoints_are_refused_by_name(endpoint: str, why: str) -> None:
    for refused in (InvalidEndpoint, ValueError):
        with pytest.raises(refused) as caught:
            AsyncClient(["localhost:7000", endpoint])
        assert repr(endpoint) in str(caught.value)
        assert why in str(caught.value)
    if endpoint:
        async with AsyncClient(["localhost:7000"], deadline_s=60.0) as client:
            with pytest.raises(InvalidEndpoint, match="endpoint"):
                await client.get_key(b"k", stale_from=endpoint)


def test_endpoints_that_are_no_list() -> None:
    with pytest.raises(InvalidEndpoint, match="is empty"):
        AsyncClient([])
    with pytest.raises(InvalidEndpoint, match="give a list"):
        AsyncClient("localhost:7000")  # type: ignore[arg-type]


def test_endpoints_that_are_right() -> None:
    right = ["localhost:7000", "[::1]:1", "10.0.0.1:65535", "example.default.svc:7000"]
    assert AsyncClient([*right, right[0]]).endpoints == right


# --- files that change ------------------------------------------------------------------------


async def test_a_file_that_changed_or_went_is_named(tmp_path: Path) -> None:
    path = tmp_path / "large"
    async with StandInReplica().client(deadline_s=60.0) as client, asyncio.timeout(WITHIN_S):
        for change, why in (
            (lambda: path.write_bytes(LARGE[::-1]), "changed while it was sent"),
            (lambda: os.truncate(path, 100_000), "changed while it was sent"),
            (path.unlink, "can't be read any more: No such file"),
        ):
            path.write_bytes(LARGE)
            found = PayloadSource.of_file(path)
            change()
            with pytest.raises(SourceFailed, match=f"{path}.*{why}"):
                await client.put_file(b"f", found)


async def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    replica = StandInReplica()
    replica.put(b"f", b"1")
    replica.view.contents[replica.view.nodes[b"f"].digest] = b"2"
    async with replica.client(deadline_s=10.0) as client:
        with pytest.raises(TreeMismatch, match="b'f'"):
            await client.read_file(b"f", lambda _: None)
    with pytest.raises(OSError, match=str(tmp_path)):
        PayloadSource.of_file(tmp_path)


def test_a_pipe_is_taken_as_far_as_it_can_be() -> None:
    for size, content in ((10, LARGE[:10]), (0, b"")):
        read, write = os.pipe()
        os.write(write, content)
        os.close(write)
        assert PayloadSource.of_file(Path(f"/dev/fd/{read}")).size == size
        os.close(read)
    # A pipe holds 64 KiB, so the writer needs a thread.
    read, write = os.pipe()
    writer = threading.Thread(target=lambda: os.write(write, LARGE[:70_000]))
    writer.start()
    with pytest.raises(SourceFailed, match="is not a regular file"):
        PayloadSource.of_file(Path(f"/dev/fd/{read}"))
    os.close(read)
    writer.join()
    os.close(write)
