"""Whose an object is, what is taken out of it, and what an API server refuses: by a real one."""

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.api.times import stamp
from partition_operator.clients.kube import ApiError, Kube
from partition_operator.errors import Conflict
from partition_operator.reconcile.observed.last_write import AT_ONCE_MAX
from partition_operator.reconcile.partition.actions import IssueCertificate
from partition_operator.resources import pdb, services, statefulset

from tests.support.api_server import ApiServer
from tests.support.local_group import eventually
from tests.support.operator_turns import Turns
from tests.support.webhook import Webhook

pytestmark = [pytest.mark.apiserver, pytest.mark.timeout(300)]

SECRET = {"apiVersion": "v1", "kind": "Secret"}
OWN = {"tls.crt": "TVktQ0VSVA==", "tls.key": "TVktT05MWS1DT1BZ", "ca.crt": "TVktQ0E="}


@pytest.fixture
async def turns(server: ApiServer) -> AsyncIterator[Turns]:
    async with Turns(server) as found:
        yield found


# --- whose it is ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["part-client-tls", "part-replica-tls"])
async def test_a_secret_of_somebody_else_is_left_alone(turns: Turns, name: str) -> None:
    mine = SECRET | {
        "metadata": {"name": name, "labels": {"app": "shop"}},
        "type": "kubernetes.io/tls",
        "data": OWN,
    }
    before = await turns.create(mine)
    await turns.make()
    await turns.turn()
    assert await turns.state() == "Conflict"
    assert name in (await turns.conditions())["Accepted"]["message"]
    assert await turns.get("Secret", name) == before


async def test_a_secret_that_appears_before_the_first_write_is_left_alone(turns: Turns) -> None:
    """The look of the plan is older than the write: the write itself must not hit another's."""
    await turns.make()
    observed = await turns.observe()
    mine = SECRET | {"metadata": {"name": "part-client-tls"}, "data": {"password": "aHVudGVyMg=="}}
    before = await turns.create(mine)
    with pytest.raises(Conflict):
        await turns.executor.execute(observed, IssueCertificate("part-client-tls", "client"))
    # And between the executor's look and its write.
    theirs = {"name": "part-client-tls", "namespace": turns.namespace}
    with pytest.raises(Conflict):
        await turns.kube.apply(SECRET | {"metadata": theirs, "data": OWN}, None)
    assert await turns.get("Secret", "part-client-tls") == before


async def test_a_write_creates_or_changes_the_object_that_was_seen(turns: Turns) -> None:
    meta = {"name": "part", "namespace": turns.namespace, "uid": "u"}
    found = parse({"metadata": meta, "spec": {"replicas": 3, "storage": {"size": "1Gi"}}})
    for body in (
        services.build_account(found),
        services.build_headless(found),
        statefulset.build(found, found.spec(), 3, "image:1"),
        pdb.build(found, 3),
    ):
        assert body is not None
        kind, name = body["kind"], body["metadata"]["name"]
        body["metadata"].pop("ownerReferences")  # its owner does not exist, and would be checked
        made = await turns.kube.apply(body, None)
        with pytest.raises(Conflict):
            await turns.kube.apply(body, None)
        changed = await turns.edit(kind, name, {"metadata": {"labels": {"x": "y"}}})
        with pytest.raises(Conflict):
            await turns.kube.apply(body, made)
        same = await turns.kube.apply(body, changed)
        assert same["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"]
        # Deleted and made anew by somebody else: another object of the same name.
        await turns.kube.delete(kind, turns.namespace, name, changed["metadata"]["uid"])
        with pytest.raises(Conflict):
            await turns.kube.apply(body, changed)
        other = await turns.kube.apply(body, None)
        with pytest.raises(Conflict):
            await turns.kube.merge(kind, changed, {"metadata": {"labels": {"z": "z"}}})
        await turns.kube.delete(kind, turns.namespace, name, changed["metadata"]["uid"])
        assert await turns.get(kind, name) == other


async def test_an_object_of_ours_that_lost_its_labels_gets_them_back(turns: Turns) -> None:
    await turns.make()
    await turns.turn()
    gone = {"metadata": {"labels": {names.LABEL_PARTITION: None, names.LABEL_MANAGED_BY: None}}}
    ours = [
        ("Service", "part"),
        ("StatefulSet", "part"),
        ("Secret", "part-client-tls"),
        ("Secret", "part-replica-tls"),
        ("ServiceAccount", "part"),
    ]
    before = {key: await turns.get(*key) for key in ours}
    for key in ours:
        await turns.edit(*key, gone)
    await turns.turn()
    assert await turns.state() == "Bootstrapping", "no Conflict"
    for key in ours:
        after = await turns.get(*key)
        assert after["metadata"]["labels"] == before[key]["metadata"]["labels"]
        assert after["metadata"]["uid"] == before[key]["metadata"]["uid"]
        assert after.get("data") == before[key].get("data")


async def test_a_claim_and_a_pod_that_lost_their_labels_are_found_by_name(turns: Turns) -> None:
    await turns.make()
    await turns.turn()
    cluster = (await turns.get("Partition", "part"))["status"]["clusterID"]
    made = await turns.create(claim("data-part-0", cluster))
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data-part-0"}}
    await turns.create(pod("part-0", volumes=[volume]))
    volumes = await turns.observer.volumes(turns.namespace, "part", {"data-part-0"})
    assert volumes == {"data-part-0": made["metadata"]["uid"]}, "what lay on it is not lost"
    await turns.turn()
    made = await turns.get("PersistentVolumeClaim", "data-part-0")
    assert made["metadata"]["labels"] == names.selector("part")
    assert (await turns.get("Pod", "part-0"))["metadata"]["labels"] == names.labels("part")


async def test_a_claim_and_a_pod_of_somebody_else_are_a_conflict(turns: Turns) -> None:
    """The StatefulSet would mount the claim, whoever's it is."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    kind = "PersistentVolumeClaim"
    before = await turns.create(
        {"apiVersion": "v1", "kind": kind, "metadata": {"name": "data-part-0"}, "spec": spec}
    )
    await turns.create(pod("part-0"))
    await turns.make()
    await turns.turn()
    assert await turns.state() == "Conflict"
    message = (await turns.conditions())["Accepted"]["message"]
    assert "PersistentVolumeClaim data-part-0" in message
    assert "Pod part-0" in message
    assert await turns.get(kind, "data-part-0") == before
    assert await turns.kube.get("StatefulSet", turns.namespace, "part") is None


async def test_what_is_seen_of_a_secret_is_not_its_content(turns: Turns) -> None:
    applied = {"kubectl.kubernetes.io/last-applied-configuration": OWN["tls.key"]}
    meta = {"name": "part-client-tls", "annotations": applied}
    await turns.create(SECRET | {"metadata": meta, "data": OWN})
    await turns.make(replication={"mode": "None"}, replicas=3)
    await turns.create(pod("part-1"))
    observed = await turns.observe()
    assert OWN["tls.key"] not in repr(observed)
    assert observed.conflicting == (), "without Raft there is no pod of that name"


def pod(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "replica", "image": "image:1"}
    body = {"containers": [container], "automountServiceAccountToken": False} | spec
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


async def test_the_charts_rights_are_enough_to_look_write_and_put_back(turns: Turns) -> None:
    await turns.make()
    await turns.turn()  # asks for events, too: its pod is missing
    cluster = (await turns.get("Partition", "part"))["status"]["clusterID"]
    await turns.create(claim("data-part-0", cluster))
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data-part-0"}}
    await turns.create(pod("part-0", volumes=[volume]))
    gone = {"metadata": {"labels": {names.LABEL_PARTITION: None}}}
    for key in (("Service", "part"), ("Secret", "part-client-tls")):
        await turns.edit(*key, gone)
    await turns.turn()
    for key in (
        ("Service", "part"),
        ("Secret", "part-client-tls"),
        ("PersistentVolumeClaim", "data-part-0"),
        ("Pod", "part-0"),
    ):
        assert names.LABEL_PARTITION in (await turns.get(*key))["metadata"]["labels"], key
    invalid = {"tolerations": [{"key": "x", "operator": "Equals"}]}
    await turns.edit("Partition", "part", {"spec": invalid})
    await turns.turn()
    assert [reason for reason, _ in await turns.events()] == ["ObjectRefused"]


def claim(name: str, cluster: str) -> dict[str, Any]:
    """As the operator marked it, and somebody took its labels."""
    meta = {"name": name, "annotations": {names.ANNOTATION_CLUSTER_ID: cluster}}
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "256Mi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": meta, "spec": spec}


# --- what is no longer wanted -----------------------------------------------------------------


async def test_what_is_removed_from_the_spec_is_removed_from_the_objects(turns: Turns) -> None:
    node = {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}
    required = {"nodeSelectorTerms": [{"matchExpressions": [node]}]}
    await turns.make(
        resources={"requests": {"cpu": "20m"}, "limits": {"cpu": "500m", "memory": "512Mi"}},
        tolerations=[{"key": "a", "operator": "Exists", "effect": "NoSchedule"}],
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        podTemplate={"metadata": {"annotations": {"a/b": "c"}, "labels": {"team": "x"}}},
    )
    await turns.turn()
    template = (await turns.get("StatefulSet", "part"))["spec"]["template"]
    assert template["metadata"]["annotations"] == {"a/b": "c"}
    assert template["metadata"]["labels"] == names.labels("part") | {"team": "x"}
    assert {"affinity", "tolerations"} <= template["spec"].keys()
    # A toleration without its effect, then none at all; one limit of two.
    less = {"resources": {"limits": {"cpu": None}}, "affinity": None, "podTemplate": None}
    less["tolerations"] = [{"key": "a", "operator": "Exists"}]
    await turns.edit("Partition", "part", {"spec": less})
    await turns.turn()
    template = (await turns.get("StatefulSet", "part"))["spec"]["template"]
    assert template["spec"]["containers"][0]["resources"]["limits"] == {"memory": "512Mi"}
    assert template["spec"]["tolerations"] == [{"key": "a", "operator": "Exists"}]
    assert "affinity" not in template["spec"]
    assert "annotations" not in template["metadata"]
    assert template["metadata"]["labels"] == names.labels("part")
    await turns.edit("Partition", "part", {"spec": {"tolerations": None, "resources": None}})
    await turns.turn()
    live = await turns.get("StatefulSet", "part")
    assert "tolerations" not in live["spec"]["template"]["spec"]
    await turns.turn()
    assert await turns.get("StatefulSet", "part") == live, "and then nothing is written"


async def test_what_others_added_stays(turns: Turns) -> None:
    await turns.make()
    await turns.turn()
    mark = {"metadata": {"annotations": {"theirs": "1"}, "labels": {"theirs": "1"}}}
    added = await turns.edit("Service", "part", mark)
    await turns.turn()
    assert await turns.get("Service", "part") == added


async def test_keys_by_which_pods_are_found_can_not_be_set(turns: Turns) -> None:
    for kind, key in (("labels", names.LABEL_PARTITION), ("annotations", "logstore.dev/attempt")):
        with pytest.raises(ApiError, match=f"podTemplate.metadata.{kind}") as caught:
            await turns.make(podTemplate={"metadata": {kind: {key: "x"}}})
        assert caught.value.refused


# --- what is refused --------------------------------------------------------------------------

INVALID = {
    "limits below requests": {
        "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "512Mi"}}
    },
    "no such operator": {"tolerations": [{"key": "x", "operator": "Equals", "value": "y"}]},
    "no label": {"podTemplate": {"metadata": {"labels": {"a b": "c"}}}},
}


@pytest.mark.parametrize("case", INVALID)
async def test_what_the_api_server_refuses_is_said_in_its_words(turns: Turns, case: str) -> None:
    await turns.make(**INVALID[case])
    pause = await turns.turn()
    found = await turns.conditions()
    applied, ready = found["ObjectsApplied"], found["Ready"]
    assert (applied["status"], applied["reason"]) == ("False", "ObjectRefused")
    assert "StatefulSet part" in applied["message"]
    assert "Invalid value" in applied["message"] or "Unsupported value" in applied["message"]
    assert (ready["status"], ready["reason"]) == ("False", "ObjectRefused")
    assert await turns.state() == "ObjectRefused"
    assert ("ObjectRefused", applied["message"]) in await turns.events()
    assert pause is not None
    assert 0 < pause <= 60
    for kind, name in (("Service", "part"), ("Secret", "part-client-tls")):
        await turns.get(kind, name)
    change = dict.fromkeys(INVALID[case])
    await turns.edit("Partition", "part", {"spec": change})
    await turns.turn()
    assert (await turns.conditions())["ObjectsApplied"]["status"] == "True"
    assert await turns.state() == "Bootstrapping"
    assert "ObjectsApplied" in [reason for reason, _ in await turns.events()]


async def test_a_refused_service_keeps_nothing_else_from_being_made(turns: Turns) -> None:
    """A quota of a kind whose object comes before the StatefulSet; then it is raised."""
    hard = {"count/services": "1"}
    await turns.kube._request(
        "POST",
        f"/api/v1/namespaces/{turns.namespace}/resourcequotas",
        {"metadata": {"name": "q"}, "spec": {"hard": hard}},
    )
    # No controller counts here.
    await turns.put_status("resourcequotas", "q", {"hard": hard, "used": {"count/services": "0"}})
    await turns.make()
    await turns.turn()
    assert "exceeded quota: q" in (await turns.conditions())["ObjectsApplied"]["message"]
    await turns.get("StatefulSet", "part")
    more = {"count/services": "5"}
    await turns.kube._request(
        "PATCH",
        f"/api/v1/namespaces/{turns.namespace}/resourcequotas/q",
        {"spec": {"hard": more}},
        content_type="application/merge-patch+json",
    )
    await turns.put_status("resourcequotas", "q", {"hard": more})

    async def passed() -> bool:
        await turns.turn()
        return (await turns.conditions())["ObjectsApplied"]["status"] == "True"

    await eventually(passed, "the Service is tried again by itself", 60)
    await turns.get("Service", "part")


async def test_pods_that_are_refused_to_the_statefulset_are_said(turns: Turns) -> None:
    """The API server tells its controller alone, which writes an event."""
    await turns.make()
    await turns.turn()
    assert (await turns.conditions())["ObjectsApplied"]["status"] == "True"
    live = await turns.get("StatefulSet", "part")
    told = "create Pod part-0 in StatefulSet part failed error: exceeded quota: q"
    now = dt.datetime.now(dt.UTC)
    about = {"kind": "StatefulSet", "name": "part", "namespace": turns.namespace}
    for name, uid, when, message in (
        ("old", live["metadata"]["uid"], now - dt.timedelta(minutes=1), "another error"),
        ("new", live["metadata"]["uid"], now, told),
        ("others", "another-uid", now + dt.timedelta(seconds=1), "of an earlier StatefulSet"),
    ):
        await turns.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": name},
                "reason": "FailedCreate",
                "message": message,
                "lastTimestamp": stamp(when),
                "involvedObject": about | {"uid": uid},
            }
        )
    await turns.turn()
    found = await turns.conditions()
    assert found["ObjectsApplied"]["message"].count(told) == 1
    assert (found["Ready"]["status"], found["Ready"]["reason"]) == ("False", "ObjectRefused")
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data-part-0"}}
    await turns.create(pod("part-0", volumes=[volume]))
    await turns.turn()
    assert (await turns.conditions())["ObjectsApplied"]["status"] == "True"


async def test_a_webhook_that_refuses_is_quoted(
    server: ApiServer, turns: Turns, tmp_path: Path
) -> None:
    async with Webhook(
        server,
        turns.namespace,
        tmp_path / "hook",
        group="policy",
        resource="poddisruptionbudgets",
        message="budgets are made by the platform team",
    ) as hook:
        await turns.make()
        meta = {"name": "part", "namespace": turns.namespace, "uid": "u"}
        found = parse({"metadata": meta, "spec": {"replicas": 3, "storage": {"size": "1Gi"}}})
        body = pdb.build(found, 3)
        assert body is not None
        await in_force(turns.kube, body, hook)
        with pytest.raises(ApiError, match="budgets are made by the platform team") as caught:
            await turns.kube.apply(body, None)
        assert caught.value.refused


async def in_force(kube: Kube, body: dict[str, Any], hook: Webhook) -> None:
    """The API server learns of a webhook a moment after it was made."""
    probe = body | {"metadata": body["metadata"] | {"name": "probe", "ownerReferences": []}}

    async def asked() -> bool:
        try:
            made = await kube.create(probe)
        except ApiError:
            return True
        await kube.delete(
            body["kind"], body["metadata"]["namespace"], "probe", made["metadata"]["uid"]
        )
        return hook.calls > 0

    await eventually(asked, "the webhook is asked", 30)


# --- what others change -----------------------------------------------------------------------


async def test_a_webhook_that_changes_each_write_makes_no_loop(
    server: ApiServer, turns: Turns, tmp_path: Path
) -> None:
    """It rewrites the image and stamps each write; the StatefulSet's controller writes its status
    between the looks."""
    count = 0

    def change(body: dict[str, Any]) -> list[dict[str, Any]]:
        nonlocal count
        count += 1
        image = "/spec/template/spec/containers/0/image"
        return [
            {
                "op": "add",
                "path": "/spec/template/metadata/annotations",
                "value": {"n": str(count)},
            },
            {"op": "replace", "path": image, "value": "mirror.example/image:1"},
        ]

    async with Webhook(
        server,
        turns.namespace,
        tmp_path / "hook",
        group="apps",
        resource="statefulsets",
        change=change,
    ) as hook:
        meta = {"name": "probe", "namespace": turns.namespace, "uid": "u"}
        found = parse({"metadata": meta, "spec": {"replicas": 1, "storage": {"size": "1Gi"}}})
        await in_force(turns.kube, statefulset.build(found, found.spec(), 1, "image:1"), hook)
        await turns.make()
        before = hook.calls
        for number in range(6):
            await turns.turn()
            status = {"replicas": 1, "currentReplicas": number % 2}
            await turns.put_status("statefulsets", "part", status, "apps/v1")
        assert hook.calls == before + 1
        assert (await turns.get("StatefulSet", "part"))["metadata"]["generation"] == 1
        applied = (await turns.conditions())["ObjectsApplied"]
        assert (applied["status"], applied["reason"]) == ("True", "Altered")
        assert "StatefulSet part" in applied["message"]
        assert "image" in applied["message"]


async def test_somebody_who_undoes_each_write_is_met_with_a_pause_and_said(turns: Turns) -> None:
    await turns.make()
    await turns.turn()
    for _ in range(AT_ONCE_MAX + 4):
        await turns.edit("Service", "part", {"metadata": {"labels": {names.LABEL_PARTITION: "x"}}})
        pause = await turns.turn()
    live = await turns.get("Service", "part")
    assert live["metadata"]["labels"][names.LABEL_PARTITION] == "x", "it waits"
    assert pause is not None
    assert 0 < pause <= 10
    applied = (await turns.conditions())["ObjectsApplied"]
    assert (applied["status"], applied["reason"]) == ("False", "ChangedByOthers")
    assert "Service part" in applied["message"]
    assert [reason for reason, _ in await turns.events()].count("ChangedByOthers") == 1
    versions = {(await turns.get("Service", "part"))["metadata"]["resourceVersion"]}
    for _ in range(3):
        await turns.turn()
        await asyncio.sleep(0)
        versions.add((await turns.get("Service", "part"))["metadata"]["resourceVersion"])
    assert len(versions) == 1
