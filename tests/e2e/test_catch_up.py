"""A replica that was away for longer than the log reaches back."""

import asyncio
import os
from pathlib import Path

import pytest
from partition_client import PayloadSource
from partition_client.client import create_directory

from dev.load import Writers
from tests.support.cluster import Namespace, assert_equal
from tests.support.local_group import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.long, pytest.mark.timeout(1200)]

TRAIL_ENTRIES = 50_000
"""The replica's default: what the log keeps for followers that are behind."""

CONCURRENT = 512


async def test_a_follower_that_the_log_was_compacted_past_is_sent_a_snapshot(
    namespace: Namespace, tmp_path: Path
) -> None:
    namespace.apply("part", size="1Gi")
    found = await asyncio.to_thread(namespace.ready, "part")
    leader = found["status"]["leader"]
    follower = next(p for p in ("part-0", "part-1", "part-2") if p != leader)
    node = namespace.json("get", "pod", follower)["spec"]["nodeName"]
    kubectl = namespace.cluster.kubectl
    async with namespace.access("part") as access, access.client() as client:
        await client.append([create_directory(b"d")])
        for number in range(20):
            await client.put_file(b"d/%d" % number, PayloadSource.of_bytes(os.urandom(200_000)))
        # Its volume is on that node alone, so the pod can't be scheduled again.
        kubectl("cordon", node)
        try:
            namespace.kubectl("delete", "pod", follower, "--wait=true")
            away_at = max(s.last_index for s in (await client.statuses()).values() if s)
            slots = asyncio.Semaphore(CONCURRENT)

            async def write(number: int) -> None:
                async with slots:
                    await client.set_key(b"n/%d" % (number % 5000), b"%d" % number)

            await asyncio.gather(*(write(n) for n in range(TRAIL_ENTRIES + 5000)))
            # Some of what the follower has goes, some that it lacks comes.
            for number in range(10):
                await client.remove_file(b"d/%d" % number)
                await client.put_file(
                    b"d/new%d" % number, PayloadSource.of_bytes(os.urandom(200_000))
                )

            async def compacted() -> bool:
                firsts = [s.first_index for s in (await client.statuses()).values() if s]
                return bool(firsts) and min(firsts) > away_at + 1

            await eventually(compacted, "the log is compacted past the follower", within_s=180)
            writers = Writers(client, 8, tmp_path / "journal", "w/")
            writers.start()
        finally:
            kubectl("uncordon", node)
        await asyncio.to_thread(namespace.ready, "part", 300)
        await writers.stop()
        assert await writers.lost(client) == []
        assert writers.failures == []
        assert len(writers.acknowledged) > 0
        await assert_equal(access.endpoints, client)
    logs = "".join(namespace.kubectl("logs", pod) for pod in ("part-0", "part-1", "part-2"))
    assert "installed the state at LSN" in logs
