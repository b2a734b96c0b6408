"""Raft switched on for a Partition that holds data, on a real Kubernetes, while 8 writers go on.

BACKFILL_ENTRIES and BACKFILL_BYTES say how much: little by default, 200,000 and 1 GiB in
`make e2e`.
"""

import asyncio
import json
import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from partition_client.tree import digest_tree

from dev.cluster.layout import ROOT
from dev.demo import kill_container
from dev.load import Writers
from tests.support.backfilled_partitions import (
    BYTES,
    ENTRIES,
    READY_S,
    SEED,
    STEP_ENTRIES,
    WRITERS,
    check,
    fill,
    held_seconds,
    mode,
    of,
    only,
    put_seed,
    ready,
    switch_on,
    whole_log,
    without_raft,
)
from tests.support.cluster import Cluster, Namespace, assert_equal, condition
from tests.support.local_group import eventually
from tests.support.seed_logs import seed_log

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]
OPERATOR = "partition-system"


async def test_the_switch_under_writers_and_how_long_writes_were_refused(
    namespace: Namespace, tmp_path: Path
) -> None:
    await without_raft(namespace)
    found = await of(namespace.json, "get", "partition", "part")
    assert condition(found, "Replicated")["reason"] == "Standalone"
    assert "not replicated" in condition(found, "Ready")["message"]
    assert namespace.kubectl("get", "pdb", "-o", "name") == ""
    assert "None" in namespace.kubectl("get", "partitions")
    async with namespace.access("part") as access, access.client() as client:
        async with whole_log(access):
            await fill(client)
            before = await only(client)
            assert before.last_index - before.stored_from + 1 >= ENTRIES
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            began = time.monotonic()
            await writers.next_acknowledged(began)
            await asyncio.sleep(5)  # a measure of the same without a switch
            usual, writers.longest_s = writers.longest_s, 0.0
            began = time.monotonic()
            await of(switch_on, namespace)

            async def is_raft() -> bool:
                return await mode(namespace) == "Raft"

            await eventually(is_raft, "the mode is Raft", READY_S)
            switched_s = time.monotonic() - began
            await writers.next_acknowledged(time.monotonic())
            switch, writers.longest_s = writers.longest_s, 0.0
            await ready(namespace)
            ready_s = time.monotonic() - began
            await writers.next_acknowledged(time.monotonic())
            growth = writers.longest_s
            await writers.stop()
            assert writers.failures == []
        await check(namespace, access, client, await writers.lost(client))
    held = await of(held_seconds, namespace)
    print(
        f"\n{ENTRIES} entries and {BYTES / 2**20:.0f} MiB, {WRITERS} writers, "
        f"{len(writers.acknowledged)} writes: longest time without an acknowledgement "
        f"{usual:.2f} s before, {switch:.2f} s in the switch (held by the replica {held:.3f} s), "
        f"{growth:.2f} s while it grew; mode Raft after {switched_s:.1f} s, three voters after "
        f"{ready_s:.1f} s"
    )
    assert held < 2.0
    events = namespace.events("part")
    for reason in ("BackfillStarted", "BackfillCompleted"):
        assert events.count(reason) == 1, events
    assert "QuorumLost" not in events
    with pytest.raises(RuntimeError, match="can't go from Raft to None"):
        namespace.kubectl(
            "patch", "partition", "part", "--type=merge",
            "-p", json.dumps({"spec": {"replication": {"mode": "None"}}}),
        )  # fmt: skip


async def kill_operator(cluster: Cluster) -> None:
    """SIGKILL to the operator's process that leads, as soon as one does: it may just be dead."""

    async def killed() -> bool:
        lease = await of(cluster.kubectl.json, "-n", OPERATOR, "get", "lease", "partition-operator")
        holder = lease["spec"]["holderIdentity"]
        with suppress(AssertionError, KeyError):
            await of(kill_container, cluster.layout, cluster.kubectl, OPERATOR, holder)
            return True
        return False

    await eventually(killed, "an operator leads, and is killed", 120)


async def kill_both(cluster: Cluster, namespace: Namespace, pod: str) -> None:
    """The operator that leads and a replica's container, at once."""
    await asyncio.gather(
        kill_operator(cluster),
        of(kill_container, cluster.layout, cluster.kubectl, namespace.name, pod),
    )


async def test_operator_and_replica_killed_at_each_step(
    cluster: Cluster, namespace: Namespace, tmp_path: Path
) -> None:
    await without_raft(namespace)
    async with namespace.access("part") as access, access.client(deadline_s=300) as client:
        async with whole_log(access):
            await fill(client)
            # Replica 0 ends in the middle of its backfill, once; the operator leaves that alone.
            steps = math.ceil(ENTRIES / STEP_ENTRIES)
            armed = f"PARTITION_FAILPOINT=backfill.step.after:{steps // 2 + 1}"
            namespace.kubectl("set", "env", "statefulset/part", armed)
            namespace.kubectl("delete", "pod", "part-0", "--wait=true")
            await only(client)
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            await writers.next_acknowledged(time.monotonic(), 180)

            await of(switch_on, namespace)
            await kill_operator(cluster)

            async def ended_in_the_middle() -> bool:
                pod = await of(namespace.json, "get", "pod", "part-0")
                states = pod["status"].get("containerStatuses", [])
                return any(
                    s.get("lastState", {}).get("terminated", {}).get("exitCode") == 86
                    for s in states
                )

            await eventually(ended_in_the_middle, "the replica ended in its backfill", 240)
            await kill_operator(cluster)

            async def is_raft() -> bool:
                found = await only(client)
                return bool(found.serving) and not found.standalone

            await eventually(is_raft, "Raft took over", 300)
            assert len((await only(client)).members) == 1, "before the first learner"
            await kill_both(cluster, namespace, "part-0")
            await writers.next_acknowledged(time.monotonic(), 300)

            async def roles() -> list[str]:
                seen = [s for s in (await client.statuses()).values() if s and s.serving]
                return [m.role for m in seen[0].members] if seen else []

            async def learning() -> bool:
                return "learner" in await roles()

            await eventually(learning, "the first learner is there", 300)
            await kill_both(cluster, namespace, "part-0")
            await writers.next_acknowledged(time.monotonic(), 300)

            async def promoted() -> bool:
                return (await roles()).count("voter") == 2

            await eventually(promoted, "the first learner is promoted", 300)
            await kill_both(cluster, namespace, "part-1")
            await writers.next_acknowledged(time.monotonic(), 300)
            await ready(namespace)
            await writers.next_acknowledged(time.monotonic())
            await writers.stop()
            assert writers.failures == []
        await check(namespace, access, client, await writers.lost(client))
    print(
        f"\n{ENTRIES} entries and {BYTES / 2**20:.0f} MiB, operator killed 5 times and replicas 4: "
        f"{len(writers.acknowledged)} writes, none lost; longest time without an acknowledgement "
        f"{writers.longest_s:.1f} s"
    )
    events = namespace.events("part")
    for reason in ("BackfillStarted", "BackfillCompleted"):
        assert events.count(reason) <= 1, events


async def test_an_imported_log_is_served_and_replicated(
    cluster: Cluster, namespace: Namespace, tmp_path: Path
) -> None:
    """manifests/samples/import.yaml, as docs/runbooks/enable-replication.md says."""
    seed_log(tmp_path / "log")
    namespace.kubectl("apply", "-f", "-", stdin=SEED)
    put_seed(cluster, namespace, tmp_path / "log")
    samples = ROOT / "manifests" / "samples"
    text = (samples / "import.yaml").read_text()
    wanted = next(
        d["spec"]["containers"][0]["image"] for d in yaml.safe_load_all(text) if d["kind"] == "Pod"
    )
    namespace.kubectl("apply", "-f", "-", stdin=text.replace(wanted, cluster.image))
    done = "--for=jsonpath={.status.phase}=Succeeded"
    await of(namespace.kubectl, "wait", "pod/example-import", done, "--timeout=120s")
    report = json.loads(namespace.kubectl("logs", "example-import"))
    assert (report["first"], report["last"]) == (1, 9)
    namespace.kubectl("delete", "pod", "example-import", "--wait=true")
    namespace.kubectl("apply", "-f", str(samples / "import-partition.yaml"))
    found = await adopted(namespace)
    assert found["status"]["ready"] == "1/1"
    async with namespace.access("example") as access, access.client() as client:
        before = await digest_tree(client, b"")
        patch = json.dumps({"spec": {"replication": {"mode": "Raft"}}})
        namespace.kubectl("patch", "partition", "example", "--type=merge", "-p", patch)
        namespace.kubectl(
            "wait", "partition/example", "--for=condition=BackfillComplete", "--timeout=120s"
        )
        await asyncio.to_thread(namespace.ready, "example", 300)
        assert await digest_tree(client, b"") == before
        await assert_equal(access.endpoints, client)


async def adopted(namespace: Namespace) -> dict[str, Any]:
    async def serves() -> dict[str, Any] | None:
        found: dict[str, Any] = await of(namespace.json, "get", "partition", "example")
        status = found.get("status", {})
        return found if (status.get("state"), status.get("mode")) == ("Ready", "None") else None

    return await eventually(serves, "it serves the imported log", 180)
