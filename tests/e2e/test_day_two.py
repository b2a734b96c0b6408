"""What a platform team does to a Partition that runs, under writers, on a real Kubernetes."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from dev.install import NAMESPACE as SYSTEM
from dev.load import Writers
from tests.support.cluster import Namespace, assert_equal, condition, content
from tests.support.local_group import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

WRITERS = 8
PAUSE_S = 5.0
"""The longest pause of writes that the test accepts. docs/performance.md has measured ones."""
REPLACED = {"size": "512Mi", "replacement": "Rolling"}


def patch(namespace: Namespace, spec: dict[str, Any]) -> None:
    words = json.dumps({"spec": spec})
    namespace.kubectl("patch", "partition", "part", "--type=merge", "-p", words)


def annotate(namespace: Namespace, **annotations: str) -> None:
    words = [f"logstore.dev/{key}={value}" for key, value in annotations.items()]
    namespace.kubectl("annotate", "partition", "part", "--overwrite", *words)


def claims(namespace: Namespace) -> dict[str, dict[str, Any]]:
    found = namespace.json("get", "persistentvolumeclaims")["items"]
    return {claim["metadata"]["name"]: claim for claim in found}


def volume(namespace: Namespace, name: str) -> dict[str, Any]:
    found: dict[str, Any] = namespace.cluster.kubectl.json("get", "persistentvolume", name)
    return found


async def until(namespace: Namespace, what: str, holds: Any, within_s: float = 180) -> None:
    """holds: called with the Partition."""

    async def seen() -> bool:
        return bool(holds(await asyncio.to_thread(namespace.json, "get", "partition", "part")))

    try:
        await eventually(seen, what, within_s)
    except AssertionError:
        print(namespace.kubectl("describe", "partition", "part"))
        print(namespace.kubectl("get", "pods,persistentvolumeclaims", "-o", "wide"))
        raise


async def sound(namespace: Namespace) -> None:
    """Three voters, every pod ready, nothing under way with volumes."""
    await until(
        namespace,
        "the group is whole",
        lambda found: (
            condition(found, "Ready")["reason"] == "Ready"
            and condition(found, "StorageReady")["reason"] == "Ready"
        ),
    )


async def test_leaders_and_volumes_move_under_writers(namespace: Namespace, tmp_path: Path) -> None:
    namespace.apply("part", size="1Gi")
    await asyncio.to_thread(namespace.ready, "part")
    nodes = namespace.cluster.kubectl
    async with namespace.access("part") as access, access.client() as client:
        writers = Writers(client, WRITERS, tmp_path / "journal", "k/")
        writers.start()
        await writers.next_acknowledged(time.monotonic())

        async def longest(what: str) -> None:
            await sound(namespace)
            await writers.next_acknowledged(time.monotonic())
            print(f"\n{what}: longest pause of {WRITERS} writers {writers.longest_s:.2f} s")
            assert writers.failures == []
            assert writers.longest_s < PAUSE_S
            writers.longest_s = 0.0

        await longest("start")
        leader = (await asyncio.to_thread(namespace.json, "get", "partition", "part"))["status"][
            "leader"
        ]
        node = namespace.json("get", "pod", leader)["spec"]["nodeName"]
        nodes("cordon", node)
        try:
            await until(
                namespace, "another pod leads", lambda found: found["status"]["leader"] != leader
            )
            assert "LeaderLeavesNode" in namespace.events("part")
        finally:
            nodes("uncordon", node)
        await longest("cordon of the leader's node")

        before = claims(namespace)
        annotate(namespace, rebuild=leader)
        name = f"data-{leader}"
        await until(
            namespace,
            "the claim is another one",
            lambda _: uid(claims(namespace).get(name)) not in (None, uid(before[name])),
        )
        await longest("rebuild of a member")
        old = before[name]["spec"]["volumeName"]
        kept = volume(namespace, old)
        assert kept["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
        assert kept["status"]["phase"] == "Released"
        let_go(namespace, old)

        before = claims(namespace)
        patch(namespace, {"storage": REPLACED | {"whenReplaced": "Delete"}})
        await until(
            namespace,
            "every volume is smaller",
            lambda _: (
                {size(claim) for claim in claims(namespace).values()} == {"512Mi"}
                and len(claims(namespace)) == len(before)
            ),
            300,
        )
        await longest("replacement by smaller volumes")
        assert {uid(c) for c in claims(namespace).values()}.isdisjoint(map(uid, before.values()))
        await writers.stop()
        assert await writers.lost(client) == []
        await assert_equal(access.endpoints, client)
        had = await content(client)

    before_sleep = told_lost(namespace)
    patch(namespace, {"hibernated": True})
    await until(namespace, "it hibernates", lambda found: found["status"]["state"] == "Hibernated")
    assert namespace.json("get", "pods")["items"] == []
    assert len(claims(namespace)) == 3
    assert told_lost(namespace) == before_sleep, "asked for, so no quorum is said to be lost"
    patch(namespace, {"hibernated": False})
    await sound(namespace)
    async with namespace.access("part") as access, access.client() as client:
        assert await content(client) == had


@pytest.mark.long
@pytest.mark.timeout(1800)
async def test_drains_and_a_new_authority_under_writers(
    namespace: Namespace, tmp_path: Path
) -> None:
    namespace.apply("part")
    await asyncio.to_thread(namespace.ready, "part")
    kubectl = namespace.cluster.kubectl
    async with namespace.access("part") as access, access.client() as client:
        writers = Writers(client, WRITERS, tmp_path / "journal", "k/")
        writers.start()
        await writers.next_acknowledged(time.monotonic())
        for node in ("n1", "n2", "n3"):
            writers.longest_s = 0.0
            words = ("--ignore-daemonsets", "--delete-emptydir-data", "--timeout=120s")
            try:
                await asyncio.to_thread(kubectl, "drain", node, *words)
            finally:
                kubectl("uncordon", node)
            await sound(namespace)
            print(f"\ndrain of {node}: longest pause {writers.longest_s:.2f} s")
            assert writers.failures == []
        writers.longest_s = 0.0
        before = certificates(namespace)["authority"]
        words = ("annotate", "secret", "partition-operator-ca", "--overwrite")
        kubectl("-n", SYSTEM, *words, f"logstore.dev/renew-authority={time.time_ns()}")
        await until(
            namespace,
            "every replica has a certificate of the new authority",
            lambda _: (
                certificates(namespace)["authority"] != before
                and certificates(namespace)["phase"] in ("Overlap", "Settled")
            ),
            1200,
        )
        await sound(namespace)
        print(f"\na new authority: longest pause {writers.longest_s:.2f} s")
        assert writers.failures == []
        assert writers.longest_s < PAUSE_S
        await writers.stop()
        assert await writers.lost(client) == []
        await assert_equal(access.endpoints, client)


def certificates(namespace: Namespace) -> dict[str, Any]:
    found: dict[str, Any] = namespace.json("get", "partition", "part")["status"]["certificates"]
    return found


async def test_a_member_whose_volume_is_gone_is_rebuilt(namespace: Namespace) -> None:
    namespace.apply("part")
    await asyncio.to_thread(namespace.ready, "part")
    status = namespace.json("get", "partition", "part")["status"]
    pod = next(name for name in ("part-0", "part-1") if name != status["leader"])
    before = claims(namespace)[f"data-{pod}"]
    lost = before["spec"]["volumeName"]
    nodes = namespace.cluster.kubectl
    nodes("patch", "persistentvolume", lost, "--type=merge", "-p", RETAIN)
    nodes("delete", "persistentvolume", lost, "--wait=false")
    nodes(
        "patch", "persistentvolume", lost, "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )
    await until(
        namespace,
        "the claim is another one",
        lambda _: uid(claims(namespace).get(f"data-{pod}")) not in (None, uid(before)),
    )
    await sound(namespace)
    events = namespace.events("part")
    assert "ReplicaRebuilding" in events
    assert "MemberRemoved" in events


def told_lost(namespace: Namespace) -> int:
    """How often a lost quorum was told of so far. A hand-over may be seen as one for a moment."""
    found = namespace.json("get", "events", "--field-selector", "reason=QuorumLost")
    return sum(event.get("count", 1) for event in found["items"])


RETAIN = '{"spec":{"persistentVolumeReclaimPolicy":"Retain"}}'


def uid(claim: dict[str, Any] | None) -> str | None:
    return None if claim is None else str(claim["metadata"]["uid"])


def size(claim: dict[str, Any]) -> str:
    return str(claim["spec"]["resources"]["requests"]["storage"])


def let_go(namespace: Namespace, name: str) -> None:
    """So that the provisioner removes it."""
    words = json.dumps({"spec": {"persistentVolumeReclaimPolicy": "Delete"}})
    namespace.cluster.kubectl("patch", "persistentvolume", name, "--type=merge", "-p", words)
