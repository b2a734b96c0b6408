"""A volume is given up step by step, and what the API server does with it. No controllers run."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.clients.nodes import OUT_OF_SERVICE
from partition_operator.clients.volumes import grows, out_of_reach
from partition_operator.errors import Conflict
from partition_operator.failpoints import REBUILD
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPod
from partition_operator.reconcile.partition import actions
from partition_operator.turns import executor

from tests.support.api_server import ApiServer
from tests.support.operator_turns import Turns

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(120)]


class Ended(Exception):
    """In place of the end of the process."""


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    async with Turns(server) as found:
        await found.make()
        yield found


async def cluster_wide(turns: Turns, kind: str, version: str, name: str, **body: Any) -> None:
    """Creates an object without a namespace."""
    metadata = {"name": name, "namespace": ""} | body.pop("metadata", {})
    await turns.kube.create({"apiVersion": version, "kind": kind, "metadata": metadata} | body)


async def with_volume(turns: Turns) -> tuple[str, ObservedClaim]:
    """A claim of replica 0 and its volume, local to a node."""
    claim = await turns.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-part-0"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "local",
                "volumeName": turns.namespace,
                "resources": {"requests": {"storage": "256Mi"}},
            },
        }
    )
    uid, host = claim["metadata"]["uid"], f"host-{turns.namespace}"
    expression = {"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    reference = {"namespace": turns.namespace, "name": "data-part-0", "uid": uid}
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "capacity": {"storage": "256Mi"},
        "claimRef": reference | {"kind": "PersistentVolumeClaim", "apiVersion": "v1"},
        "local": {"path": "/nowhere"},
        "nodeAffinity": {"required": terms},
        "persistentVolumeReclaimPolicy": "Delete",
        "storageClassName": "local",
    }
    await cluster_wide(turns, "PersistentVolume", "v1", turns.namespace, spec=spec)
    observed = ObservedClaim(0, "", "", uid, bound=True, volume=turns.namespace)
    return uid, observed


@pytest.mark.parametrize("failpoint", [*sorted(REBUILD - {"OrphanPods"}), ""])
async def test_a_volume_is_kept_before_its_claim_goes(
    turns: Turns, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    uid, _ = await with_volume(turns)
    action = actions.GiveUpVolume(0, uid, turns.namespace, keep=True)
    observed = await turns.observe()

    def reach(name: str) -> None:
        if name == failpoint:
            raise Ended

    monkeypatch.setattr(executor.failpoints, "reach", reach)
    if failpoint:
        with pytest.raises(Ended):
            await turns.executor.execute(observed, action)
        failpoint = ""
    await turns.executor.execute(observed, action)
    volume = await turns.get("PersistentVolume", turns.namespace)
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    claim = await turns.kube.get("PersistentVolumeClaim", turns.namespace, "data-part-0")
    assert claim is None or "deletionTimestamp" in claim["metadata"]


async def test_neither_another_claim_nor_its_volume_is_touched(turns: Turns) -> None:
    await with_volume(turns)
    action = actions.GiveUpVolume(0, "the-uid-of-an-earlier-claim", turns.namespace, keep=True)
    with pytest.raises(Conflict):
        await turns.executor.execute(await turns.observe(), action)
    volume = await turns.get("PersistentVolume", turns.namespace)
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete"
    claim = await turns.get("PersistentVolumeClaim", "data-part-0")
    assert "deletionTimestamp" not in claim["metadata"]


async def test_a_statefulset_leaves_its_pods(turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        await turns.turn()
    live = await turns.get("StatefulSet", "part")
    metadata = live["metadata"]
    action = actions.OrphanPods("part", metadata["uid"], metadata["resourceVersion"])
    observed = await turns.observe()

    def reach(name: str) -> None:
        if name == "OrphanPods":
            raise Ended

    with monkeypatch.context() as armed:
        armed.setattr(executor.failpoints, "reach", reach)
        with pytest.raises(Ended):
            await turns.executor.execute(observed, action)
    await turns.executor.execute(observed, action)
    # The garbage collector, which does not run here, takes this finalizer when the pods are free.
    live = await turns.get("StatefulSet", "part")
    assert live["metadata"]["finalizers"] == ["orphan"]
    conditions = (await turns.turn(), await turns.conditions())[1]
    assert conditions["Progressing"]["reason"] == "ObjectsLeaving"


async def test_a_local_volume_is_out_of_reach_when_its_node_is_gone_or_off(turns: Turns) -> None:
    _, claim = await with_volume(turns)
    kube = turns.theirs
    unplaced = (ObservedPod(0, "", ready=False, deleting=False),)

    async def told(*claims: ObservedClaim) -> dict[int, str]:
        return await out_of_reach(kube, "part", unplaced, claims or (claim,))

    assert "which was deleted" in (await told())[0]
    node, host = f"node-{turns.namespace}", f"host-{turns.namespace}"
    labels = {"labels": {"kubernetes.io/hostname": host}}
    await cluster_wide(turns, "Node", "v1", node, metadata=labels)
    assert await told() == {}, "a node that does not answer may come back"
    live = await turns.get("Node", node)
    taint = {"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}
    await turns.kube.merge("Node", live, {"spec": {"taints": [taint]}})
    assert f"local to node {node}, which is declared out of service" in (await told())[0]
    placed = (ObservedPod(0, "", ready=False, deleting=False, node=node),)
    assert await out_of_reach(kube, "part", placed, (claim,)) == {}
    assert "is gone" in (await told(replace(claim, volume="none")))[0]
    assert "is gone" in (await told(replace(claim, bound=False, lost=True)))[0]
    await turns.kube.delete("Node", "", node, live["metadata"]["uid"])


async def test_a_class_says_whether_its_volumes_grow(turns: Turns) -> None:
    for name, allowed in (("one", True), ("two", False)):
        await cluster_wide(
            turns,
            "StorageClass",
            "storage.k8s.io/v1",
            f"{name}-{turns.namespace}",
            provisioner="tests.example/none",
            allowVolumeExpansion=allowed,
        )
    found = [await grows(turns.theirs, f"{n}-{turns.namespace}") for n in ("one", "two", "none")]
    assert found == [True, False, False]
