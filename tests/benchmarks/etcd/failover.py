"""The time from SIGKILL of the leader to the next acknowledged write.

One writer writes in a closed loop. A write consists of tries: each has a short deadline, and a
failed one is followed by a short pause and the next. Our client has the choice of the replica for
itself. A try at etcd goes to one member, and after a failure the next one goes to another: etcd's
members pass writes on to the leader, so a client needs none in particular. A write counts if it
began after the kill.

etcd's members notice the death of a leader by missing heartbeats alone: a follower begins an
election after a time-out, which it draws from 1 to 2 s by default. A write that reaches a follower
without a leader waits there until there is one. A write that was passed on to the dead leader is
lost, and its try ends by the deadline.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import grpc
from partition_client import AsyncClient, DeadlineExceeded, OutcomeUnknown
from partition_proto.v1 import types_pb2 as types

from tests.benchmarks.etcd.groups import Group
from tests.benchmarks.etcd.kv import Member, open_member

TRY_S = 0.2
PAUSE_S = 0.01
STEADY_S = 1.0
"""The writer writes at least this long before the kill."""
WITHIN_S = 60.0
KEY, VALUE = b"failover", b"v" * 256


class Writer(Protocol):
    async def tried(self) -> bool:
        """Makes one try; returns whether the write was acknowledged."""
        ...


class OurWriter:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._operations = [types.Operation(set_key=types.SetKey(key=KEY, value=VALUE))]

    async def tried(self) -> bool:
        try:
            await self._client.append(self._operations, deadline_s=TRY_S)
        except (DeadlineExceeded, OutcomeUnknown):
            return False
        return True


class EtcdWriter:
    def __init__(self, members: list[Member]) -> None:
        self._members = members
        self._next = 0

    async def tried(self) -> bool:
        try:
            await self._members[self._next].put(KEY, VALUE, timeout_s=TRY_S)
        except grpc.aio.AioRpcError:
            self._next = (self._next + 1) % len(self._members)
            return False
        return True


@asynccontextmanager
async def open_writer(group: Group) -> AsyncIterator[Writer]:
    async with AsyncExitStack() as stack:
        if group.name == "etcd":
            members = [
                await stack.enter_async_context(open_member(endpoint, group.tls))
                for endpoint in group.endpoints
            ]
            yield EtcdWriter(members)
        else:
            client = AsyncClient(group.endpoints, group.tls)
            yield OurWriter(await stack.enter_async_context(client))


async def write(writer: Writer) -> None:
    """Returns when a write is acknowledged."""
    while not await writer.tried():
        await asyncio.sleep(PAUSE_S)


async def measure_kill(group: Group) -> float:
    """Returns seconds. Restarts what it killed, and waits until all servers have the same. Raises
    TimeoutError if no write is acknowledged within a minute."""
    async with open_writer(group) as writer, asyncio.timeout(WITHIN_S):
        leader = await group.leader()
        kill_at = time.monotonic() + STEADY_S + random.uniform(0, 0.2)
        killer = asyncio.create_task(_kill(group, leader, kill_at))
        try:
            seconds = await next_write(writer, killer)
        finally:
            killer.cancel()
    await group.restart(leader)
    return seconds


async def _kill(group: Group, leader: int, at: float) -> tuple[float, float]:
    """Returns the moments before and after the signal was sent."""
    await asyncio.sleep(at - time.monotonic())
    before = time.monotonic()
    group.kill(leader)
    return before, time.monotonic()


async def next_write(writer: Writer, killer: "asyncio.Future[tuple[float, float]]") -> float:
    """Writes until a write that began after the kill is acknowledged. Returns the seconds since
    the kill. killer: its result is the moments before and after the kill."""
    while True:
        began = time.monotonic()
        await write(writer)
        ended = time.monotonic()
        if killer.done():
            before, after = killer.result()
            if began >= after:
                return ended - before
