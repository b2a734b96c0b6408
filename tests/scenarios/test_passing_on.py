"""A large payload travels to the other members while it arrives at the leader."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.local_group import LocalGroup, LocalReplica, eventually

CHUNK_BYTES = 512 * 1024
CHUNKS = [os.urandom(CHUNK_BYTES) for _ in range(6)]
CONTENT = b"".join(CHUNKS)
DIGEST = hashlib.sha256(CONTENT).digest()
PASSED_ON = "logstore_payloads_passed_on_total"


class Upload:
    """An upload to the leader that stops after half of its chunks until `go_on` is set."""

    def __init__(self, group: LocalGroup, leader: LocalReplica) -> None:
        self._stub = group.stub(leader)
        self.go_on = asyncio.Event()

    async def run(self) -> list[int]:
        """Returns the holders."""
        found = await self._stub.UploadPayload(self._requests(), timeout=60)
        return list(found.holders)

    async def _requests(self) -> AsyncIterator[api.UploadPayloadRequest]:
        payload = types.Payload(digest=DIGEST, size=len(CONTENT))
        yield api.UploadPayloadRequest(payload=payload)
        for number, chunk in enumerate(CHUNKS):
            if number == len(CHUNKS) // 2:
                await self.go_on.wait()
            yield api.UploadPayloadRequest(chunk=chunk)


def staged_bytes(replica: LocalReplica) -> int:
    return sum(p.stat().st_size for p in (replica.data / "staging").glob("blob-*"))


def blob(replica: LocalReplica) -> Path:
    return replica.data / "blobs" / DIGEST.hex()[:2] / DIGEST.hex()


async def half_is_everywhere(followers: list[LocalReplica]) -> None:
    async def found() -> bool:
        return all(staged_bytes(one) == len(CONTENT) // 2 for one in followers)

    await eventually(found, "half of the payload is on each follower")


async def test_followers_have_the_half_that_the_leader_has(tmp_path: Path) -> None:
    group = LocalGroup(tmp_path)
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        followers = [one for one in group.replicas if one is not leader]
        upload = Upload(group, leader)
        running = asyncio.create_task(upload.run())
        await half_is_everywhere(followers)
        upload.go_on.set()
        assert len(await running) >= 2

        async def stored() -> bool:
            return all(blob(one).exists() for one in group.replicas)

        await eventually(stored, "all have the payload")
        assert {hashlib.sha256(blob(one).read_bytes()).digest() for one in group.replicas} == {
            DIGEST
        }
        assert leader.metric(PASSED_ON) == 2
        for one in followers:
            assert one.metric("logstore_payload_bytes_total", direction="in") == len(CONTENT)


@pytest.mark.parametrize("who", ["the client", "the leader"])
async def test_what_is_cut_off_leaves_nothing(tmp_path: Path, who: str) -> None:
    """And the payload arrives by a second upload, to whoever leads then."""
    group = LocalGroup(tmp_path)
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        followers = [one for one in group.replicas if one is not leader]
        running = asyncio.create_task(Upload(group, leader).run())
        await half_is_everywhere(followers)
        if who == "the leader":
            leader.kill()
        else:
            running.cancel()
        with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await running
        left = [one for one in group.replicas if one.running]

        async def clean() -> bool:
            return not any(staged_bytes(one) or blob(one).exists() for one in left)

        await eventually(clean, "no part of the payload is left")
        again = Upload(group, await group.leader())
        again.go_on.set()
        assert len(await again.run()) >= 2


async def test_a_follower_that_is_lost_half_way_is_no_hindrance(tmp_path: Path) -> None:
    group = LocalGroup(tmp_path)
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        followers = [one for one in group.replicas if one is not leader]
        upload = Upload(group, leader)
        running = asyncio.create_task(upload.run())
        await half_is_everywhere(followers)
        followers[0].kill()
        upload.go_on.set()
        assert len(await running) == 2
        assert blob(followers[1]).exists()
