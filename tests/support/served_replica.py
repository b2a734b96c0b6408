"""A whole replica of the test's own process, behind gRPC, with a client of it."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
from partition_client import AsyncClient, PinnedState
from partition_proto.v1 import log_store_pb2_grpc
from partition_replica.core.limits import Limits
from partition_replica.transport.channels import SERVER_OPTIONS
from partition_replica.transport.failures import Failures
from partition_replica.transport.log_store_service import LogStoreService
from partition_replica.transport.streams import Streams

from tests.support.captures import HeldUp
from tests.support.local_group import eventually
from tests.support.one_replica import OneReplica, serving

WITHIN_S = 30.0
QUICK = replace(
    Limits(), log_compaction_step_entries=1, pinned_states_max=2, pin_time_to_live_s=2.0
)
"""Limits that are reached at once."""


class Served:
    """`streams`: how many are open, by method. `refused`: the reasons of what was refused."""

    def __init__(self, one: OneReplica, address: str, client: AsyncClient) -> None:
        self.one = one
        self.address = address
        self.client = client
        self.streams: dict[str, int] = {}
        self.refused: list[str] = []

    @property
    def copies(self) -> list[str]:
        return os.listdir(self.one.volume.staging)

    @property
    def pinned(self) -> float:
        found = self.one.metrics.registry.get_sample_value("logstore_pinned_states")
        assert found is not None
        return found

    async def eventually(self, condition: Callable[[], object], what: str) -> None:
        async def ask() -> bool:
            return bool(condition())

        await eventually(ask, what, WITHIN_S)


@asynccontextmanager
async def served(
    data: Path, limits: Limits = QUICK, *, standalone: bool = False
) -> AsyncIterator[Served]:
    async with serving(data, limits=limits, standalone=standalone) as one:
        async with serving_clients(one, limits) as here:
            yield here


@asynccontextmanager
async def serving_clients(one: OneReplica, limits: Limits) -> AsyncIterator[Served]:
    """Of a replica that runs."""
    server = grpc.aio.server(options=SERVER_OPTIONS)
    failures = Failures(lambda reason: here.refused.append(reason), one.failures.append)
    streams = Streams(
        limits.client_streams_max, lambda method, count: here.streams.update({method: count})
    )
    service = LogStoreService(one.replica.applications, limits, failures, streams)
    log_store_pb2_grpc.add_LogStoreServicer_to_server(service, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    client = AsyncClient([address], deadline_s=WITHIN_S, follow_hints=False)
    here = Served(one, address, client)
    try:
        yield here
    finally:
        await client.close()
        await server.stop(None)


def hold_up(here: Served) -> HeldUp:
    """The next copies of the state wait until they are let go."""
    slow = HeldUp()
    assert here.one.replica.member is not None
    here.one.replica.member.capture._copy = slow
    return slow


async def first_key(state: PinnedState) -> bytes:
    return (await anext(aiter(state.keys())))[0]
