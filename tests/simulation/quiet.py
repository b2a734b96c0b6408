"""A group of the simulation in which nothing fails by itself: for tests that do one thing to it."""

import asyncio
import gc
import logging
import os
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from partition_replica.core.limits import Limits

from tests.simulation import restores
from tests.simulation.cluster import MEMORY_DIRECTORY, Cluster
from tests.simulation.disk import Disks
from tests.simulation.loop import VirtualLoop, run
from tests.simulation.node import Node
from tests.simulation.operator import Operator
from tests.simulation.trace import Trace

ELECTED_S = 60.0


def quietly(
    body: Callable[[Cluster], Coroutine[Any, Any, None]],
    *,
    voters: int = 3,
    seed: int = 1,
    lease_reads: bool = False,
) -> None:
    """Runs `body` on a group of so many voters, then raises what the checks have found."""
    base = MEMORY_DIRECTORY if os.access(MEMORY_DIRECTORY, os.W_OK) else None
    loop = VirtualLoop()
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="simulation-", dir=base) as directory,
            pytest.MonkeyPatch.context() as patch,
        ):
            disks = Disks(Path(directory))
            disks.attach(patch)
            restores.attach(patch)
            cluster = Cluster(seed, loop, disks, Trace(loop.time, echo=False))
            cluster.settings = replace(cluster.settings, lease_reads=lease_reads)
            try:
                run(loop, _run(cluster, body, voters))
            finally:
                disks.close()
    finally:
        logging.disable(level)
        gc.collect()
    if cluster.verdict.failed is not None:
        raise cluster.verdict.failed


async def _run(
    cluster: Cluster, body: Callable[[Cluster], Coroutine[Any, Any, None]], voters: int
) -> None:
    cluster.settings = replace(
        cluster.settings, limits=Limits(disk_reserve_bytes=0), voters=voters, patience=0.0
    )
    cluster.network.settings = cluster.settings
    cluster.network.perfect = True
    for _ in range(voters):
        cluster.add_node().start()
    operator = Operator(cluster)
    await operator._bootstrap(cluster.nodes[0])
    async with asyncio.timeout(ELECTED_S):
        while len(operator.configuration.voters) < voters:
            await asyncio.sleep(0.1)
            await operator.step()
    life = asyncio.ensure_future(body(cluster))
    await asyncio.wait([life, cluster.verdict.failure], return_when=asyncio.FIRST_COMPLETED)
    if cluster.verdict.failed is None:
        life.result()
    life.cancel()


async def leader(cluster: Cluster) -> Node:
    """The node that leads and serves, of the highest term."""
    async with asyncio.timeout(ELECTED_S):
        while True:
            serving = [n for n in cluster.nodes if n.running is not None and n.running.serving]
            if serving:
                return max(serving, key=_term)
            await asyncio.sleep(0.1)


def _term(node: Node) -> int:
    assert node.running is not None
    return node.running.loop.status().term


def cut_off(cluster: Cluster, node: Node) -> None:
    """From all other nodes; clients reach it."""
    for other in cluster.nodes:
        if other is not node:
            cluster.network.cut(node.name, other.name)
            cluster.network.cut(other.name, node.name)
