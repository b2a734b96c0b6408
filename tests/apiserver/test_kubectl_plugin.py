"""`kubectl partition` and the operator's dry run against a real API server, with an operator and
real replicas. Stand-ins for the controllers of Kubernetes and for kubelets."""

import json
import tarfile
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.plugin import plan, plugin, user
from tests.support.stand_in_nodes import StandInNodes
from tests.support.switch_stage import Stage, stage

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(600)]

KINDS = (
    "partitions,partitionsnapshots,statefulsets,pods,persistentvolumeclaims,services,secrets,"
    "serviceaccounts,poddisruptionbudgets,leases,events,configmaps"
)
READ_ALL = '{apiGroups: ["*"], resources: ["*"], verbs: [get, list]}'
READ_PARTITIONS = "{apiGroups: [logstore.dev], resources: [partitions], verbs: [get, list]}"


class Runner:
    """Runs the plugin as the administrator. Returns what it prints, errors too if it is to fail."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._namespace = namespace

    async def __call__(self, *words: str, code: int = 0) -> str:
        said = await plugin(self._server.kubeconfig, self._namespace, *words)
        assert said.code == code, said
        return said.out if code == 0 else said.out + said.err


def versions(found: Stage) -> dict[str, str]:
    """The resource version of every object of the namespace."""
    items = found.server.kubectl.json("-n", found.namespace, "get", KINDS)["items"]
    return {
        f"{item['kind']}/{item['metadata']['name']}": item["metadata"]["resourceVersion"]
        for item in items
    }


async def test_a_group_is_shown_and_operated_and_a_plan_writes_nothing(
    server: ApiServer, tmp_path: Path
) -> None:
    """In one namespace, because a group takes a while to begin."""
    async with stage(server, tmp_path) as found:
        run = Runner(server, found.namespace)
        await found.three_voters()
        await shown(found, run)
        await fenced_and_hibernated(found, run)
        await snapshotted(found, run, tmp_path)
        await restart_waits_for_approval(found, run)
        # The operator is gone, so whatever changes now is the plan's doing.
        found.operator.stop()
        await planned(server, found)
        revision = (await found.status())["revision"]
        assert revision in await run("approve", "part")
        marks = (await found.partition())["metadata"]["annotations"]
        assert marks["logstore.dev/approve-rollout"] == revision
        assert "is created" in await run("restore", "again", "--snapshot", "one", "--create")


async def shown(found: Stage, run: Runner) -> None:
    seen: dict[str, Any] = yaml.safe_load(await run("status", "part", "-o", "yaml"))
    roles = {member["pod"]: member["role"] for member in seen["members"]}
    assert sorted(roles.values()) == ["leader", "voter", "voter"]
    assert all(member["ready"] for member in seen["members"])
    rows = (await run("status")).splitlines()[1:]
    assert [row.split()[:3] for row in rows] == [["part", "Ready", "3/3"]]
    voter = next(pod for pod, role in roles.items() if role == "voter")
    assert f"{voter} leads." in await run("switchover", "part", "--to", voter)
    assert (await found.status())["leader"] == voter
    await run("pause", "part")
    assert "kubectl partition resume part" in await run("why", "part")
    await run("resume", "part")


async def fenced_and_hibernated(found: Stage, run: Runner) -> None:
    leader = (await found.status())["leader"]
    pod = next(name for name in ("part-0", "part-1") if name != leader)
    await run("fence", "part", pod)

    async def fenced() -> bool:
        return f"Fenced: {pod} answers nobody" in await run("status", "part")

    await eventually(fenced, "the replica is fenced")
    assert "kubectl partition unfence part" in await run("why", "part", code=3)
    await run("unfence", "part", "--all")
    await run("hibernate", "part", "--yes")

    async def hibernated() -> bool:
        return (await found.status())["state"] == "Hibernated"

    await eventually(hibernated, "no pod runs")
    assert "part is Ready." in await run("wake", "part")


async def snapshotted(found: Stage, run: Runner, folder: Path) -> None:
    said = await run("snapshot", "part", "--name", "one", "--volume", "--wait")
    assert "one is Verified: LSN" in said
    body = yaml.safe_load(await run("restore", "again", "--snapshot", "one"))
    assert body["spec"]["bootstrap"] == {"snapshotRef": {"name": "one"}}
    file = folder / "report.tar.gz"
    assert "No Secret was read" in await run("report", "part", "--file", str(file))
    with tarfile.open(file) as archive:
        texts = [archive.extractfile(entry) for entry in archive.getmembers()]
        everything = b"".join(text.read() for text in texts if text is not None).decode()
    secret = found.server.kubectl.json("-n", found.namespace, "get", "secret", "part-client-tls")
    assert len(secret["data"]) == 3
    assert all(data[:60] not in everything for data in secret["data"].values())
    assert '"name": "part-2"' in everything


async def restart_waits_for_approval(found: Stage, run: Runner) -> None:
    found.kubectl(
        *("patch", "partition", "part", "--type=merge", "-p"),
        '{"spec": {"updateStrategy": {"type": "Supervised"}}}',
    )
    assert "no rollout waits" in await run("approve", "part", code=1)
    assert "WaitingForApproval" in await run("restart", "part", "--timeout", "60s")
    assert found.nodes.replaced == []


async def planned(server: ApiServer, found: Stage) -> None:
    reader = user(server, f"reader-{found.namespace}", READ_ALL)

    async def look() -> dict[str, Any]:
        said = await plan(reader, found.namespace, "part", "--json")
        assert said.code == 0, said
        seen: dict[str, Any] = json.loads(said.out)
        return seen

    assert (await look())["steps"] == []
    found.kubectl(
        *("patch", "partition", "part", "--type=merge", "-p"),
        '{"spec": {"resources": {"requests": {"memory": "300Mi"}}}}',
    )
    found.kubectl("delete", "service", "part")
    before = versions(found)
    assert len(before) > 15
    seen = await look()
    first, second = (step["text"] for step in seen["steps"])
    assert first == "create Service part"
    assert second.startswith("change StatefulSet part:")
    assert "resources.requests" in second
    assert seen["state"] == "Ready"
    text = (await plan(server.kubeconfig, found.namespace, "part")).out
    assert "  1. create Service part\n" in text
    assert "Nothing was changed." in text
    assert versions(found) == before
    said = await plan(reader, found.namespace, "nobody")
    assert (said.code, said.out) == (1, "")
    assert "there is no Partition nobody" in said.err


async def test_a_user_with_few_rights_is_told_what_is_not_shown(
    server: ApiServer, tmp_path: Path
) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    body = {
        "apiVersion": "logstore.dev/v1alpha1",
        "kind": "Partition",
        "metadata": {"name": "part"},
        "spec": {"storage": {"size": "1Gi"}},
    }
    server.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(body))
    reader = user(server, f"few-{namespace}", READ_PARTITIONS)
    said = await plugin(reader, namespace, "status", "part")
    assert said.code == 0
    assert "Not shown: pods can't be listed:" in said.out
    refused = await plugin(reader, namespace, "pause", "part")
    assert refused.code == 1
    assert "cannot patch resource" in refused.err
    file = tmp_path / "report.tar.gz"
    report = await plugin(reader, namespace, "report", "part", "--file", str(file))
    assert report.code == 0
    assert "Left out: pods: " in report.out
    with tarfile.open(file) as archive:
        names = {entry.name.partition("/")[2] for entry in archive.getmembers()}
    assert {"README.txt", "partition.json"} <= names
    why = await plugin(server.kubeconfig, namespace, "why", "part")
    assert why.code == 3
    assert "It has no status yet" in why.out
    absent = await plugin(server.kubeconfig, namespace, "status", "absent")
    assert (absent.code, absent.out) == (1, "")


async def test_a_storage_class_is_measured_and_nothing_is_left(
    server: ApiServer, tmp_path: Path
) -> None:
    namespace = f"t-{uuid.uuid4().hex[:8]}"
    server.kubectl("create", "namespace", namespace)
    async with StandInNodes(server.kubectl, namespace, tmp_path):
        said = await plugin(
            *(server.kubeconfig, namespace, "bench", "--image", "image:1", "--storage-class"),
            *("fast", "--seconds", "1", "--mib", "16", "-o", "json"),
        )
    # Whether this machine's disk is fast enough does not matter here.
    assert said.code in (0, 3), said
    report = json.loads(said.out)
    assert report["verdict"] in ("good", "slow", "too slow")
    assert report["syncs"] >= 2
    left = server.kubectl.json("-n", namespace, "get", "pods,persistentvolumeclaims")["items"]
    # No kubelet ends the pod, and no controller releases its claim here.
    assert all("deletionTimestamp" in item["metadata"] for item in left)
