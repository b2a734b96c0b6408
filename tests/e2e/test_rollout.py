"""Changes of the pods reach them one by one, under writers, on a real Kubernetes."""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from dev.load import Writers
from tests.support.cluster import Namespace, assert_equal, condition
from tests.support.local_group import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

WRITERS = 8
PAUSE_S = float(os.environ.get("ROLLOUT_PAUSE_S", "5"))
"""The longest pause of writes that the test accepts. docs/performance.md has measured ones."""


async def patch(namespace: Namespace, spec: dict[str, Any]) -> None:
    words = json.dumps({"spec": spec})
    command = ("patch", "partition", "part", "--type=merge", "-p", words)
    await asyncio.to_thread(namespace.kubectl, *command)


async def rolled(namespace: Namespace, status: str, reason: str) -> dict[str, Any]:
    async def seen() -> dict[str, Any] | None:
        found = await asyncio.to_thread(namespace.json, "get", "partition", "part")
        told = condition(found, "RolledOut")
        newest = told["observedGeneration"] == found["metadata"]["generation"]
        return told if newest and (told["status"], told["reason"]) == (status, reason) else None

    return await eventually(seen, f"RolledOut is {status} {reason}", 300)


def uids(namespace: Namespace) -> dict[str, str]:
    pods = namespace.json("get", "pods")["items"]
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}


async def test_a_rollout_fails_no_write_and_a_broken_one_stops_after_one_pod(
    namespace: Namespace, tmp_path: Path
) -> None:
    strategy = "  updateStrategy: {progressDeadlineSeconds: 20}\n"
    namespace.apply("part", more=strategy)
    await asyncio.to_thread(namespace.ready, "part")
    await rolled(namespace, "True", "UpToDate")
    first = uids(namespace)
    async with namespace.access("part") as access, access.client() as client:
        writers = Writers(client, WRITERS, tmp_path / "journal", "k/")
        writers.start()
        await writers.next_acknowledged(time.monotonic())
        writers.longest_s = 0.0

        await patch(namespace, {"resources": {"requests": {"cpu": "60m", "memory": "200Mi"}}})
        await rolled(namespace, "False", "Rolling")
        await rolled(namespace, "True", "UpToDate")
        await asyncio.to_thread(namespace.ready, "part")
        second = uids(namespace)
        assert all(second[name] != uid for name, uid in first.items())
        assert writers.failures == []
        print(f"\nrollout: longest pause of {WRITERS} writers {writers.longest_s:.2f} s")
        assert writers.longest_s < PAUSE_S

        # An image that nobody has: one pod is lost to it, the others go on.
        writers.longest_s = 0.0
        await patch(namespace, {"image": "nowhere.invalid/none:1"})
        told = await rolled(namespace, "False", "Stalled")
        third = uids(namespace)
        assert sum(third.get(name) != uid for name, uid in second.items()) == 1
        assert "Pull" in told["message"]
        assert "RolloutStalled" in namespace.events("part")

        # Back to the former one.
        await patch(namespace, {"image": namespace.cluster.image})
        await rolled(namespace, "True", "UpToDate")
        await asyncio.to_thread(namespace.ready, "part")
        await writers.stop()
        assert writers.failures == []
        assert await writers.lost(client) == []
        await assert_equal(access.endpoints, client)
    assert sum(uids(namespace)[name] != uid for name, uid in second.items()) == 1
