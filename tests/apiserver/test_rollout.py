"""Pods get a changed template in order, while clients write and the operator ends at each step.
Real API server and etcd, real replicas on loopback; stand-ins for the controllers of Kubernetes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from partition_operator.failpoints import ROLLOUT

from dev.load import Writers
from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.switch_stage import Stage, stage

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

STEPS = ("Apply.StatefulSet", "EvictPod", "TransferLeadership")


def test_every_failpoint_is_tried() -> None:
    assert set(STEPS) >= ROLLOUT


def patch(found: Stage, spec: dict[str, Any]) -> None:
    words = json.dumps({"spec": spec})
    found.kubectl("patch", "partition", "part", "--type=merge", "-p", words)


async def leads(found: Stage, pod: str) -> bool:
    status = await found.status()
    return status["leader"] == pod and status.get("switchover") == pod


async def rolled_out(found: Stage) -> dict[str, Any]:
    return await condition(found, "True")


async def condition(found: Stage, status: str, reason: str = "") -> dict[str, Any]:
    """Waits until RolledOut is so, for the newest generation."""

    async def seen() -> dict[str, Any] | None:
        found.operator.revive()
        partition = await found.partition()
        generation = partition["metadata"]["generation"]
        for one in partition.get("status", {}).get("conditions", []):
            same = (one["type"], one["status"]) == ("RolledOut", status)
            if same and one["observedGeneration"] == generation and reason in ("", one["reason"]):
                return dict(one)
        return None

    return await eventually(seen, f"RolledOut is {status} {reason}", 120)


async def test_the_pods_are_replaced_in_order_although_the_operator_ends_at_each_step(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        await found.three_voters()
        await rolled_out(found)
        assert found.nodes.replaced == []
        assert "RolloutCompleted" not in found.events()
        leader = (await found.status())["leader"]
        async with found.client() as client:
            writers = Writers(client, 4, tmp_path / "journal", "k/")
            writers.start()
            found.operator.stop()
            patch(found, {"resources": {"requests": {"memory": "300Mi"}}})
            for failpoint in STEPS:
                found.operator.start(failpoint)
                await found.died_at(failpoint)
            found.operator.start()
            await rolled_out(found)
            await found.ready("Raft", 3)
            await writers.stop()
            assert await writers.lost(client) == []
            assert writers.failures == []
        assert sorted(found.nodes.replaced) == ["part-0", "part-1", "part-2"]
        assert found.nodes.replaced[-1] == leader
        status = await found.status()
        assert status["updatedReplicas"] == 3
        pods = server.kubectl.json("-n", found.namespace, "get", "pods")["items"]
        revisions = {p["metadata"]["labels"]["controller-revision-hash"] for p in pods}
        assert revisions == {status["revision"]}
        memory = {p["spec"]["containers"][0]["resources"]["requests"]["memory"] for p in pods}
        assert memory == {"300Mi"}
        events = found.events()
        assert "RolloutStarted" in events
        assert "RolloutCompleted" in events


async def test_a_new_operator_leaves_the_image_until_the_user_moves_it(
    server: ApiServer, tmp_path: Path
) -> None:
    async with stage(server, tmp_path) as found:
        await found.three_voters()
        await rolled_out(found)
        found.operator.stop()
        found.operator.set(PARTITION_OPERATOR_IMAGE="image:2")
        found.operator.start()
        told = await condition(found, "True", "OtherImage")
        assert "image:2" in told["message"]
        assert (await found.status())["image"] == "image:1"

        patch(found, {"paused": True, "image": "image:2"})
        await condition(found, "False", "Paused")
        assert (await found.status())["image"] == "image:1"
        template = found.kubectl("get", "statefulset", "part", "-o", "jsonpath={.spec.template}")
        assert "image:1" in template
        patch(found, {"paused": False, "updateStrategy": {"type": "Supervised"}})
        told = await condition(found, "False", "WaitingForApproval")
        assert found.nodes.replaced == []
        approval = told["message"].rpartition("part ")[2].split()[0]
        found.kubectl("annotate", "partition", "part", approval)
        told = await condition(found, "True", "UpToDate")
        assert (await found.status())["image"] == "image:2"
        assert len(found.nodes.replaced) == 3

        leader = (await found.status())["leader"]
        other = next(name for name in ("part-0", "part-1") if name != leader)
        found.kubectl("annotate", "partition", "part", f"logstore.dev/switchover={other}")
        await eventually(lambda: leads(found, other), f"{other} leads", 60)
        found.kubectl("annotate", "partition", "part", "logstore.dev/restart=once")
        patch(found, {"updateStrategy": {"type": "Rolling"}})
        await condition(found, "False", "Rolling")
        await condition(found, "True", "UpToDate")
        assert len(found.nodes.replaced) == 6
        await asyncio.to_thread(found.kubectl, "get", "partition", "part")
