"""Listeners and replicas that say nothing, and every way in which a client can wait for one."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from partition_client import (
    AsyncClient,
    DeadlineExceeded,
    PayloadSource,
)
from partition_client.tree import digest_tree, get_tree, put_tree
from partition_proto.v1 import log_store_pb2 as api

from tests.support.stand_in_replica import StandInReplica

DEADLINE_S = 0.4
WITHIN_S = 4.0
"""Far above the deadline, for a machine under load, and below every limit of a single try."""

LARGE = os.urandom(3 * 1024**2)

Use = Callable[[AsyncClient, Path], Awaitable[object]]


async def all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def source(folder: Path) -> Path:
    (folder / "source").mkdir(exist_ok=True)
    (folder / "source" / "f").write_text("1")
    return folder / "source"


USES: dict[str, Use] = {
    "get_key": lambda client, _: client.get_key(b"k"),
    "get_key stale": lambda client, _: client.get_key(b"k", stale_from=client.endpoints[0]),
    "list_keys": lambda client, _: all_of(client.list_keys()),
    "list_tree": lambda client, _: client.list_tree(recursive=True),
    "read_file": lambda client, _: client.read_file(b"f", lambda _: None),
    "tail": lambda client, _: all_of(client.tail()),
    "tail follow": lambda client, _: all_of(client.tail(follow=True)),
    "set_key": lambda client, _: client.set_key(b"k", b"v"),
    "put_file": lambda client, _: client.put_file(b"f", PayloadSource.of_bytes(b"1")),
    "put_file large": lambda client, _: client.put_file(b"f", PayloadSource.of_bytes(LARGE)),
    "put_tree": lambda client, folder: put_tree(client, source(folder), b""),
    "get_tree": lambda client, folder: get_tree(client, b"", folder / "out"),
    "digest_tree": lambda client, _: digest_tree(client, b""),
}


@asynccontextmanager
async def mute_listener() -> AsyncIterator[str]:
    """Accepts connections and says nothing on them."""
    end = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await end.wait()
        writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        end.set()
        server.close()


class Mute(StandInReplica):
    """Says that it leads, and answers nothing else. `asked`: a call waits for its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def _nothing(self) -> None:
        self.asked.set()
        await asyncio.Event().wait()

    async def OpenSession(self, request: Any, context: Any) -> Any:
        await self._nothing()

    async def GetKey(self, request: Any, context: Any) -> Any:
        await self._nothing()

    async def GetFrames(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._nothing()
        yield

    async def ListKeys(self, request: Any, context: Any) -> Any:
        await self._nothing()

    async def UploadPayload(self, request: Any, context: Any) -> Any:
        await self._nothing()

    async def ListTree(self, request: Any, context: Any) -> AsyncIterator[Any]:
        await self._nothing()
        yield

    async def ReadFile(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield api.ReadFileResponse(entry=api.TreeEntry(path=request.path, size=1))
        await self._nothing()

    async def Read(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield api.ReadResponse(lsn=2, term=1)
        # Only the first call: it leads no more, as far as it knows.
        self.serving_as = "follower"
        await self._nothing()


class Speechless(Mute):
    """Does not even say whether it leads."""

    async def GetStatus(self, request: Any, context: Any) -> Any:
        await self._nothing()


async def assert_gives_up(client: AsyncClient, use: Use, folder: Path) -> None:
    began = time.monotonic()
    async with asyncio.timeout(10 * WITHIN_S):
        with pytest.raises(DeadlineExceeded):
            await use(client, folder)
    assert DEADLINE_S * 0.5 < time.monotonic() - began < WITHIN_S
