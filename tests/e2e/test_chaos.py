"""Faults and changes at random, from a seed, while clients write: nothing acknowledged is lost, the
replicas are equal, and the Partition is Ready again soon after each fault has ended."""

import asyncio
import os
import random
import time
from pathlib import Path

import pytest
from partition_client import AsyncClient

from dev.load import Writers
from tests.support.chaos import Chaos
from tests.support.cluster import Namespace, assert_equal
from tests.support.local_group import eventually

ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "10"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(2**32)
READY_S = float(os.environ.get("CHAOS_READY_S", "60"))
"""How long the Partition may take to be Ready again after a fault has ended."""
WRITERS = 8

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(600 + 300 * ROUNDS)]


async def test_faults_and_changes_under_writers(namespace: Namespace, tmp_path: Path) -> None:
    print(f"\nchaos: CHAOS_SEED={SEED} CHAOS_ROUNDS={ROUNDS}")
    rng = random.Random(SEED)
    namespace.apply("part", size="1Gi")
    await asyncio.to_thread(namespace.ready, "part")
    chaos = Chaos(namespace, rng)
    faults = chaos.faults()
    rng.shuffle(faults)
    slowest = 0.0
    async with namespace.access("part") as access, access.client(deadline_s=120.0) as client:
        writers = Writers(client, WRITERS, tmp_path / "journal", "k/")
        writers.start()
        for number in range(ROUNDS):
            change = chaos.change()
            fault = faults[number % len(faults)]
            await asyncio.sleep(rng.uniform(0, 5))  # at another moment of what the change began
            await fault()
            ended = time.monotonic()
            await ready(chaos, client, namespace, f"round {number}: {change}, {fault.__name__}")
            took = time.monotonic() - ended
            slowest = max(slowest, took)
            print(f"round {number}: {change}, {fault.__name__}: ready after {took:.1f} s")
            await writers.next_acknowledged(time.monotonic())
        await writers.stop()
        assert await writers.lost(client) == []
        await assert_equal(access.endpoints, client)
    written = len(writers.acknowledged)
    failed = len(writers.failures)
    print(f"chaos: {written} writes, none lost; slowest {slowest:.1f} s; {failed} failed calls")


async def ready(chaos: Chaos, client: AsyncClient, namespace: Namespace, what: str) -> None:
    """Three voters that serve, and every pod ready."""

    async def whole() -> bool:
        try:
            return await asyncio.to_thread(chaos.whole)
        except RuntimeError:
            return False  # the API server comes back

    try:
        await eventually(whole, f"Ready again after {what} (CHAOS_SEED={SEED})", READY_S)
    except AssertionError:
        print(namespace.kubectl("describe", "partition", "part"))
        print(namespace.kubectl("get", "pods,pvc", "-o", "wide"))
        print(await client.statuses())
        raise
