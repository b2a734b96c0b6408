"""A group in the middle of the upload of a large payload."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from partition_proto.v1 import log_store_pb2 as api
from partition_proto.v1 import types_pb2 as types

from tests.support.local_group import LocalGroup, LocalReplica, eventually

CHUNK_BYTES = 512 * 1024
CHUNKS = [os.urandom(CHUNK_BYTES) for _ in range(6)]
CONTENT = b"".join(CHUNKS)
DIGEST = hashlib.sha256(CONTENT).digest()


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


@dataclass
class HalfWay:
    """A group in the middle of an upload."""

    group: LocalGroup
    leader: LocalReplica
    followers: list[LocalReplica]
    upload: Upload
    running: "asyncio.Task[list[int]]"


@pytest.fixture
async def half_way(tmp_path: Path) -> AsyncIterator[HalfWay]:
    group = LocalGroup(tmp_path)
    async with group:
        await group.bootstrap()
        leader = await group.leader()
        followers = [one for one in group.replicas if one is not leader]
        upload = Upload(group, leader)
        running = asyncio.create_task(upload.run())
        await half_is_everywhere(followers)
        yield HalfWay(group, leader, followers, upload, running)
