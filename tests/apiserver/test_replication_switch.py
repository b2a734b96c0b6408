"""Raft switched on for a Partition that ran without, by the operator: ended at each of its steps,
the replica ended at some of its own, writers going on. Real API server, etcd and replicas."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from partition_client.tree import digest_tree

from dev.load import Writers
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.seed_logs import seed_log
from tests.support.switch_stage import (
    BEGINNING,
    CLAIM,
    IN_THE_REPLICA,
    PARTITION,
    SWITCHING,
    WRITERS,
    Stage,
    check_group,
    fill,
    stage,
)

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]


async def test_the_operator_ends_at_each_step_while_it_switches_replication_on(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await fill(client)
            found.operator.stop()
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            found.switch_on()
            for failpoint in SWITCHING:
                found.operator.start(failpoint)
                await found.died_at(failpoint)
                await writers.next_acknowledged(time.monotonic())
            found.operator.start()
            await found.ready("Raft", 3)
            await writers.next_acknowledged(time.monotonic())
            await writers.stop()
            await check_group(found, client, writers)


async def test_the_operator_ends_while_a_partition_without_raft_begins(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        for failpoint in BEGINNING:
            found.operator.start(failpoint)
            await found.died_at(failpoint)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await client.set_key(b"k", b"v")
            only = (await client.statuses())[found.nodes.endpoint(0)]
            assert only is not None
            assert only.standalone
        assert len(found.server.kubectl.json("-n", found.namespace, "get", "pods")["items"]) == 1
        assert found.kubectl("get", "pdb", "-o", "name") == ""
        assert "None" in found.kubectl("get", "partitions")


async def test_the_replica_ends_at_each_step_while_replication_is_switched_on(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await fill(client)
            found.nodes.arm("part-0", *IN_THE_REPLICA, "")
            found.nodes.kill("part-0")
            await eventually(lambda: restarted(found, 1), "it runs with the first failpoint")
            writers = Writers(client, WRITERS, tmp_path / "journal", "w/")
            writers.start()
            await writers.next_acknowledged(time.monotonic())
            found.switch_on()
            count = 1 + len(IN_THE_REPLICA)
            await eventually(lambda: restarted(found, count), "the replica ended at each")
            await found.ready("Raft", 3)
            await writers.next_acknowledged(time.monotonic())
            await writers.stop()
            await check_group(found, client, writers)
        assert found.nodes.restarts["part-0"] == count
        assert found.events().count("BackfillStarted") == 1
        assert found.events().count("BackfillCompleted") == 1


async def restarted(found: Stage, count: int) -> bool:
    return found.nodes.restarts.get("part-0", 0) >= count


async def test_a_backfill_that_does_not_move_is_said_to_have_stalled_once(
    server: ApiServer, tmp_path: Path
) -> None:
    """The replica ends at its first step again and again, then no more."""
    settings = {"PARTITION_OPERATOR_BACKFILL_STALLED_SECONDS": "3"}
    async with stage(server, tmp_path, **settings) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        async with found.client() as client:
            await fill(client)
            found.nodes.arm("part-0", "backfill.step.before")
            found.nodes.kill("part-0")
            await eventually(lambda: restarted(found, 1), "it runs with the failpoint")
            await client.set_key(b"serves", b"again")
            found.switch_on()

            async def stalled() -> dict[str, Any] | None:
                found.operator.revive()
                conditions = (await found.status()).get("conditions", [])
                said = [c for c in conditions if c["reason"] == "Stalled"]
                return said[0] if said else None

            told = await eventually(stalled, "the condition says that it stalled")
            assert (told["type"], told["status"]) == ("BackfillComplete", "False")
            assert "kubectl" in told["message"]
            before = (await found.partition())["status"]["backfill"]
            assert before["doneLSN"] == "0"
            found.nodes.arm("part-0", "")
            await found.ready("Raft", 3)
            assert await client.get_key(b"before/0000") == b"v"
        events = found.events()
        for reason in ("BackfillStarted", "BackfillStalled", "BackfillCompleted"):
            assert events.count(reason) == 1, (reason, events)


async def test_a_log_that_nobody_wrote_is_switched_on(server: ApiServer, tmp_path: Path) -> None:
    async with stage(server, tmp_path) as found:
        found.kubectl("apply", "-f", "-", stdin=PARTITION)
        found.operator.start()
        await found.ready("None", 1)
        found.switch_on()
        await found.ready("Raft", 3)
        async with found.client() as client:
            await client.set_key(b"k", b"v")
            assert await client.get_key(b"k") == b"v"


@pytest.mark.parametrize("early", [False, True], ids=["in order", "Partition first"])
async def test_an_imported_log_is_adopted_without_raft_and_replicated(
    server: ApiServer, tmp_path: Path, early: bool
) -> None:
    """As docs/runbooks/enable-replication.md says: claim, import, Partition, Raft. A Partition that
    is older than the claim takes the volume over, too."""
    partition = PARTITION + "  bootstrap: {adopt: true}\n"
    async with stage(server, tmp_path) as found:
        if early:
            found.kubectl("apply", "-f", "-", stdin=partition)
        found.kubectl("apply", "-f", "-", stdin=CLAIM)
        created = found.server.kubectl.json("-n", found.namespace, "get", "pvc", "data-part-0")
        source = seed_log(tmp_path / "seed" / "log")
        volume = found.nodes.volume("part-0")
        report = await asyncio.to_thread(imported, source, volume)
        shown = json.loads(
            subprocess.check_output(
                [*REPLICA, "inspect", "--data", str(volume), "--json"], text=True
            )
        )
        assert (shown["replication"], shown["last index"]) == ("None", report["last"])
        if not early:
            await eventually(lambda: a_later_second(created), "the claim is older")
            found.kubectl("apply", "-f", "-", stdin=partition)
        found.operator.start()
        await found.ready("None", 1)
        assert (await found.status())["clusterID"] == shown["cluster"]
        async with found.client() as client:
            before = await digest_tree(client, b"")
            found.switch_on()
            await found.ready("Raft", 3)
            for ordinal in range(3):
                endpoint = found.nodes.endpoint(ordinal)
                assert await digest_tree(client, b"", stale_from=endpoint) == before
        claims = found.server.kubectl.json("-n", found.namespace, "get", "pvc")["items"]
        ids = {c["metadata"]["annotations"]["logstore.dev/cluster-id"] for c in claims}
        assert ids == {shown["cluster"]}


REPLICA = (sys.executable, "-m", "partition_replica")


def imported(source: Path, volume: Path) -> dict[str, Any]:
    command = [*REPLICA, "log", "import", str(source), "--data", str(volume), "--json"]
    found: dict[str, Any] = json.loads(subprocess.check_output(command, text=True))
    return found


async def a_later_second(created: dict[str, Any]) -> bool:
    stamp = created["metadata"]["creationTimestamp"]
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()) > stamp
