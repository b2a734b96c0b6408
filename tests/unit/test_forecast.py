"""The dry run of the operator: what it says about each action, how far it looks, and that its
clients send nothing that changes something."""

import re
import typing
from dataclasses import fields, replace
from typing import Any

import pytest
from partition_operator import dry_run
from partition_operator.clients.read_only import ReadOnlyKube, ReadOnlyReplicas, WriteRefused
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.action_words import changes, describe
from partition_operator.reconcile.partition.forecast import NOTHING, OBSERVES, forecast

from tests.support import partition_views as views

BODY = {"kind": "Service", "metadata": {"name": "part"}, "spec": {"ports": []}}
VALUES: dict[str, Any] = {"body": BODY, "labels": {}, "record": {}, "role": "replica"}


def made(action: type[Any]) -> Any:
    """The action with some value for each field."""
    known = {f.name: VALUES.get(f.name, 1 if f.type is int else "x") for f in fields(action)}
    return action(**known)


@pytest.mark.parametrize("action", typing.get_args(actions.Action), ids=lambda a: a.__name__)
def test_every_action_has_words_of_its_own(action: type[Any]) -> None:
    said = describe(made(action), views.group())
    assert re.match(r"[a-z]", said)
    assert action.__name__ not in said


def test_a_changed_object_is_said_by_its_fields_without_the_values_of_variables() -> None:
    live = {
        "spec": {
            "replicas": 1,
            "containers": [
                {
                    "name": "replica",
                    "image": "image:1",
                    "env": [{"name": "PASSWORD", "value": "old"}],
                },
                {"name": "injected"},
            ],
        }
    }
    wanted = {
        "spec": {
            "replicas": 3,
            "containers": [
                {
                    "name": "replica",
                    "image": "image:2",
                    "env": [{"name": "PASSWORD", "value": "new"}],
                }
            ],
        }
    }
    assert changes(live, live) == []
    assert changes(live, wanted) == [
        "spec.replicas: 1 -> 3",
        "spec.containers[replica].image: image:1 -> image:2",
        "spec.containers[replica].env[PASSWORD].value changes",
    ]


def test_a_new_partition_is_planned_to_its_first_unknown_effect() -> None:
    found = forecast(views.see(views.partition()), views.draw)
    assert [step.action for step in found.steps] == ["RecordCluster"]
    assert found.then == OBSERVES


def test_writes_of_objects_are_assumed_done() -> None:
    observed = views.see(views.partition(clusterID=views.CLUSTER), certificates_good={})
    found = forecast(observed, views.look)
    texts = [step.text for step in found.steps]
    assert texts[:2] == [
        "issue a certificate for the replica into Secret part-replica-tls",
        "issue a certificate for the client into Secret part-client-tls",
    ]
    assert texts[-1] == "create StatefulSet part"
    assert len(texts) == len(set(texts)) >= 5
    assert found.then == OBSERVES


def test_a_group_without_work_has_no_steps() -> None:
    found = forecast(views.group(), views.look)
    assert (found.steps, found.then) == ((), NOTHING)
    said = dry_run.text(dry_run.described("ns/part", found))
    assert "The operator would do nothing now." in said
    assert "Nothing was changed." in said


async def test_the_clients_send_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    async def request(self: object, method: str, path: str, *_: Any, **__: Any) -> dict[str, Any]:
        sent.append(method)
        return {"items": [], "metadata": {}}

    monkeypatch.setattr("partition_operator.clients.kube.Kube._request", request)
    kube = ReadOnlyKube(None, 1.0)  # type: ignore[arg-type]
    live = {"metadata": {"namespace": "ns", "name": "part", "uid": "u", "resourceVersion": "1"}}
    body = live | {"kind": "Service"}
    await kube.get("Service", "ns", "part")
    await kube.list_labelled("Pod", "ns", {})
    writes = [
        lambda: kube.apply(body, live),
        lambda: kube.create(body),
        lambda: kube.replace(body),
        lambda: kube.merge("Service", live, {}),
        lambda: kube.merge_status("ns", "part", {}),
        lambda: kube.apply_status(body, {}),
        lambda: kube.delete("Service", "ns", "part", "u"),
        lambda: kube.delete_unchanged("Service", "ns", "part", "u", "1"),
        lambda: kube.evict("ns", "part-0", "u"),
    ]
    for write in writes:
        with pytest.raises(WriteRefused, match="a dry run changes nothing"):
            await write()
    assert sent == ["GET", "GET"]
    replicas = ReadOnlyReplicas(None, None, 1.0)  # type: ignore[arg-type]
    with pytest.raises(WriteRefused):
        await replicas.command(views.partition(), views.pod(0), "Bootstrap", None)


def test_the_condition_that_says_what_is_missing_is_shown() -> None:
    found = forecast(views.group(), views.look)
    status = dict(found.first.status)
    status["conditions"] = [
        {"type": "Ready", "status": "False", "message": "no leader"},
        {"type": "Progressing", "status": "False", "message": "nothing to do"},
        {"type": "Paused", "status": "True", "message": "paused"},
        {"type": "Accepted", "status": "True", "message": "valid"},
    ]
    first = replace(found.first, status=status)  # type: ignore[arg-type]
    described = dry_run.described("ns/part", replace(found, first=first))
    assert described["attention"] == ["Ready: no leader", "Paused: paused"]
