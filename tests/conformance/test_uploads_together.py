"""Many payloads at a time: from a client to the leader, and from the leader to the members."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import log_store_pb2_grpc, peer_pb2_grpc
from partition_proto.v1 import peer_pb2 as peer
from partition_proto.v1 import types_pb2 as types
from partition_replica.core.limits import PAYLOAD_BATCHED_BYTES_MAX, PAYLOADS_A_CALL_MAX, Limits
from partition_replica.core.model import Configuration
from partition_replica.core.payloads import ArrivingPayload
from partition_replica.core.ports import PeerFailed
from partition_replica.errors import InvalidArgument, Overloaded, PayloadMismatch, PayloadQuorum
from partition_replica.ids import Digest
from partition_replica.runtime.metrics import Metrics
from partition_replica.runtime.transfer.arriving import ArrivingFile
from partition_replica.runtime.transfer.dissemination import Dissemination
from partition_replica.transport.chunks import payload_groups

from tests.support.one_replica import serving
from tests.support.peer_servers import connected
from tests.support.served_replica import served

SIZE = 70_000


def named(*contents: bytes) -> list[types.PayloadContent]:
    return [types.PayloadContent(digest=digest_of(found), content=found) for found in contents]


def digest_of(content: bytes) -> Digest:
    return Digest(hashlib.sha256(content).digest())


def some(count: int, size: int = SIZE) -> list[bytes]:
    return [os.urandom(size) for _ in range(count)]


async def upload(address: str, *messages: list[types.PayloadContent]) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = log_store_pb2_grpc.LogStoreStub(channel)

        async def requests() -> AsyncIterator[api.UploadPayloadsRequest]:
            for message in messages:
                yield api.UploadPayloadsRequest(payloads=message)

        await stub.UploadPayloads(requests())


# --- to the leader ----------------------------------------------------------------------------


async def test_they_are_stored_and_pinned(tmp_path: Path) -> None:
    async with served(tmp_path / "data", Limits()) as replica:
        blobs = replica.one.volume.blobs
        contents = some(5)
        await upload(replica.address, named(*contents[:3]), named(*contents[2:]))
        for content in contents:
            assert blobs.path(digest_of(content)).read_bytes() == content
        assert blobs.pinned == 5
        assert replica.copies == []  # nothing is left in staging


@pytest.mark.parametrize(
    ("messages", "why"),
    [
        ([named(b"small")], "a payload of 5 bytes can't be uploaded: more than 65536"),
        ([named(bytes(PAYLOAD_BATCHED_BYTES_MAX + 1))], "at most 1048576 are allowed"),
        ([named(*some(3, 800_000))], "a message has 2400000 bytes of content"),
        ([[types.PayloadContent(digest=b"d", content=bytes(SIZE))]], "a digest of 1 bytes"),
        ([[types.PayloadContent(digest=b"d" * 32, content=bytes(SIZE))]], "has SHA-256"),
    ],
    ids=["small", "large", "large message", "no digest", "other digest"],
)
async def test_what_is_refused_leaves_nothing(
    tmp_path: Path, messages: list[Any], why: str
) -> None:
    async with served(tmp_path / "data", Limits()) as replica:
        with pytest.raises(grpc.aio.AioRpcError, match=why):
            await upload(replica.address, named(*some(2)), *messages)
        assert list(replica.one.volume.blobs.digests()) == []
        assert replica.copies == []


async def test_payloads_that_are_here_need_no_place_among_the_pins(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as one:  # with room for ten pins
        assert one.replica.member is not None
        payloads = one.replica.member.payloads
        contents = [(digest_of(content), content) for content in some(10)]
        await payloads.receive_together(_of(contents))
        assert await payloads.receive_together(_of(contents)) == [d for d, _ in contents]
        new = os.urandom(SIZE)
        with pytest.raises(Overloaded, match="10 payloads are pinned"):
            await payloads.receive_together(_of([(digest_of(new), new)]))
        assert not one.volume.blobs.has(digest_of(new))


async def test_a_message_without_a_payload_is_refused() -> None:
    """It would keep a call open for ever."""

    async def messages() -> AsyncIterator[api.UploadPayloadsRequest]:
        yield api.UploadPayloadsRequest()

    with pytest.raises(InvalidArgument, match="a message has no payload"):
        await anext(aiter(payload_groups(messages())))


async def test_a_call_has_so_many_payloads() -> None:
    async def messages() -> AsyncIterator[api.UploadPayloadsRequest]:
        for _ in range(PAYLOADS_A_CALL_MAX + 1):
            yield api.UploadPayloadsRequest(payloads=named(b"x"))

    taken = 0
    with pytest.raises(InvalidArgument, match="more than 256 payloads: send the others in another"):
        async for group in payload_groups(messages()):
            taken += len(group)
    assert taken == PAYLOADS_A_CALL_MAX


async def test_uploads_are_bounded(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", limits=replace(Limits(), uploads_max=1)) as one:
        assert one.replica.member is not None
        payloads = one.replica.member.payloads
        go_on = asyncio.Event()

        async def groups() -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
            await go_on.wait()
            yield [(digest_of(b"x" * SIZE), b"x" * SIZE)]

        first = asyncio.create_task(payloads.receive_together(groups()))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 uploads are in progress"):
            await payloads.receive_together(groups())
        go_on.set()
        assert await first == [digest_of(b"x" * SIZE)]
        with pytest.raises(PayloadMismatch):
            await payloads.receive_together(_of([(b"d" * 32, bytes(SIZE))]))
        await payloads.receive_together(groups())  # the place is free again


async def _of(
    contents: Sequence[tuple[bytes, bytes]],
) -> AsyncIterator[Sequence[tuple[bytes, bytes]]]:
    yield contents


# --- from the leader --------------------------------------------------------------------------


class Taking(peer_pb2_grpc.PeerServicer):
    """A member that keeps what it gets. `refusal`: how it answers PushPayloads, None if it knows
    it."""

    def __init__(self, refusal: grpc.StatusCode | None = None) -> None:
        self.got: dict[bytes, bytes] = {}
        self.messages = 0
        self._refusal = refusal

    async def PushPayloads(
        self, request: AsyncIterator[peer.PushPayloadsRequest], context: Any
    ) -> Any:
        if self._refusal is not None:
            await context.abort(self._refusal, "Method not found!")
        async for message in request:
            assert message.cluster_id == "c"
            self.messages += 1
            self.got |= {payload.digest: payload.content for payload in message.payloads}
        return peer.PushPayloadsResponse()

    async def PushPayload(self, request: AsyncIterator[peer.PayloadChunk], context: Any) -> Any:
        digest, content = b"", b""
        async for chunk in request:
            digest, content = digest or chunk.digest, content + chunk.data
        self.got[digest] = content
        return peer.PushPayloadResponse()


def stored(folder: Path, contents: list[bytes]) -> list[tuple[Digest, Path, int]]:
    found = []
    for content in contents:
        path = folder / digest_of(content).hex()
        path.write_bytes(content)
        found.append((digest_of(content), path, len(content)))
    return found


REFUSALS = (None, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.INTERNAL)
"""INTERNAL is what grpcio tells if UNIMPLEMENTED arrives while a message is being written."""


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_members_get_them_together_or_one_by_one(
    tmp_path: Path, refusal: grpc.StatusCode | None
) -> None:
    contents = some(4, 900_000)
    member = Taking(refusal)
    async with connected(member) as peers:
        await peers.push_payloads(1, stored(tmp_path, contents))
    assert member.got == {digest_of(content): content for content in contents}
    assert member.messages == (0 if refusal else 2)


async def test_a_file_that_is_gone_fails_the_push(tmp_path: Path) -> None:
    """Also if the member took what came before it."""
    blobs = stored(tmp_path, some(4, 900_000))
    blobs[3][1].unlink()
    async with connected(Taking()) as peers:
        with pytest.raises(PeerFailed, match="deleted here meanwhile") as failed:
            await peers.push_payloads(1, blobs)
    assert failed.value.refused


class Members:
    """A transport to members 2 and 3. `calls`: (member, number of payloads) of each call."""

    def __init__(self, fails: set[int] | None = None) -> None:
        self.calls: list[tuple[int, int]] = []
        self.passed_on: list[int] = []
        self.fails = fails or set()
        self.fails_on_the_way: set[int] = set()
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def push_payload(self, member: int, digest: Digest, file: Path, size: int) -> None:
        await self._call(member, 1)

    async def push_arriving(
        self, member: int, digest: Digest, size: int, arriving: ArrivingPayload
    ) -> None:
        self.passed_on.append(member)
        async for _ in arriving.chunks():
            pass
        if member in self.fails_on_the_way:
            raise PeerFailed("the connection was reset")

    async def push_payloads(self, member: int, blobs: Sequence[tuple[Digest, Path, int]]) -> None:
        await self._call(member, len(blobs))

    async def _call(self, member: int, count: int) -> None:
        self.calls.append((member, count))
        await self.go_on.wait()
        if member in self.fails:
            raise PeerFailed("it does not answer")


def dissemination(members: Members, sizes: dict[Digest, int]) -> Dissemination:
    blobs = SimpleNamespace(size=sizes.get, path=lambda digest: Path(digest.hex()))
    return Dissemination(
        cast("Any", blobs),
        cast("Any", members),
        Metrics(),
        own_member=1,
        passed_on_max=2,
        configuration=lambda: Configuration(voters=(1, 2, 3)),
    )


def digests(count: int) -> list[Digest]:
    return [Digest(bytes([number]) * 32) for number in range(count)]


async def test_small_payloads_are_pushed_together_and_large_ones_alone() -> None:
    found = digests(4)
    members = Members()
    sizes = dict.fromkeys(found, SIZE) | {found[3]: PAYLOAD_BATCHED_BYTES_MAX + 1}
    pushing = dissemination(members, sizes)
    await pushing.to_quorum(found)
    await pushing.close()
    assert {(2, 3), (2, 1), (3, 3), (3, 1)} >= set(members.calls)
    assert all(len(pushing.holders(digest)) >= 2 for digest in found)
    calls = len(members.calls)
    await pushing.to_quorum(found)  # a quorum has them
    assert len(members.calls) == calls


async def test_one_member_that_fails_is_no_hindrance() -> None:
    pushing = dissemination(Members(fails={2}), dict.fromkeys(digests(3), SIZE))
    await pushing.to_quorum(digests(3))
    assert pushing.holders(digests(1)[0]) == [1, 3]
    await pushing.close()


async def test_without_a_quorum_the_caller_is_told_which_payload() -> None:
    pushing = dissemination(Members(fails={2, 3}), dict.fromkeys(digests(3), SIZE))
    with pytest.raises(PayloadQuorum, match=r"payload 0000.* is only on members 1, which is not"):
        await pushing.to_quorum(digests(3))
    await pushing.close()


async def test_a_payload_is_pushed_once_at_a_time() -> None:
    members = Members()
    members.go_on.clear()
    found = digests(5)
    pushing = dissemination(members, dict.fromkeys(found, SIZE))
    first = asyncio.create_task(pushing.to_quorum(found[:3]))
    await asyncio.sleep(0)
    second = asyncio.create_task(pushing.to_quorum(found[1:]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    members.go_on.set()
    await asyncio.gather(first, second)
    await pushing.close()
    assert sorted(members.calls) == [(2, 2), (2, 3), (3, 2), (3, 3)]


# --- while they arrive ------------------------------------------------------------------------


def arriving(folder: Path, written: int = 0) -> ArrivingFile:
    path = folder / "staged"
    path.write_bytes(b"x" * SIZE)
    found = ArrivingFile(path, SIZE, 10_000)
    found.advance(written)
    return found


async def test_a_payload_that_was_passed_on_is_not_pushed_again(tmp_path: Path) -> None:
    members = Members()
    [digest] = digests(1)
    pushing = dissemination(members, {digest: SIZE})
    file = arriving(tmp_path)
    pushing.pass_on(digest, SIZE, file)
    quorum = asyncio.create_task(pushing.to_quorum([digest]))
    await asyncio.sleep(0)
    assert not quorum.done()
    file.advance(SIZE)
    file.end()
    await quorum
    assert members.passed_on == [2, 3]
    assert members.calls == []
    await pushing.close()


async def test_a_member_that_did_not_take_it_on_its_way_gets_it_when_it_is_complete(
    tmp_path: Path,
) -> None:
    members = Members(fails={3})
    members.fails_on_the_way = {2, 3}
    [digest] = digests(1)
    pushing = dissemination(members, {digest: SIZE})
    pushing.pass_on(digest, SIZE, arriving(tmp_path, SIZE))
    await pushing.to_quorum([digest])
    assert pushing.holders(digest) == [1, 2]
    assert (2, 1) in members.calls
    await pushing.close()


async def test_a_stalled_upload_holds_up_no_other_one_of_the_same_payload(tmp_path: Path) -> None:
    members = Members()
    [digest] = digests(1)
    pushing = dissemination(members, {digest: SIZE})
    pushing.pass_on(digest, SIZE, arriving(tmp_path, SIZE // 2))
    await pushing.to_quorum([digest])
    assert len(members.calls) >= 1
    await pushing.close()


async def test_who_took_a_payload_that_was_given_up_holds_nothing(tmp_path: Path) -> None:
    members = Members()
    [digest] = digests(1)
    pushing = dissemination(members, {digest: SIZE})
    file = arriving(tmp_path, SIZE // 2)
    pushing.pass_on(digest, SIZE, file)
    file.end()
    await pushing.to_quorum([digest])
    assert len(members.calls) >= 1
    await pushing.close()


async def test_slow_uploads_have_places_of_their_own(tmp_path: Path) -> None:
    members = Members()
    first, second, third, complete = digests(4)
    pushing = dissemination(members, {complete: SIZE})
    for digest in (first, second, third):
        pushing.pass_on(digest, SIZE, arriving(tmp_path))
    await asyncio.sleep(0)
    assert members.passed_on == [2, 3, 2, 3]
    await pushing.to_quorum([complete])
    await pushing.close()


async def test_readers_of_what_arrives_get_it_in_chunks_and_end_with_it(tmp_path: Path) -> None:
    file = arriving(tmp_path, 25_000)
    chunks = file.chunks()
    assert [len(await anext(chunks)) for _ in range(3)] == [10_000, 10_000, 5_000]
    waiting = asyncio.ensure_future(anext(chunks))
    await asyncio.sleep(0)
    assert not waiting.done()
    file.advance(SIZE)
    file.end()
    assert not file.given_up
    assert len(await waiting) == 10_000
    assert sum([len(chunk) async for chunk in chunks]) == SIZE - 35_000


async def test_a_file_that_was_renamed_before_it_was_opened_has_no_chunks(tmp_path: Path) -> None:
    file = arriving(tmp_path, SIZE)
    (tmp_path / "staged").rename(tmp_path / "stored")
    assert [chunk async for chunk in file.chunks()] == []
