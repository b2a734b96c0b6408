"""Which template the pods get: images, kept pod specs, and pauses."""

import json
from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.reconcile.observed.last_write import Write
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.plan import plan
from partition_operator.resources.common import content_hash

from tests.support.partition_views import (
    CLUSTER,
    IMAGE,
    NOW,
    after,
    by_type,
    claims,
    complete,
    group,
    look,
    partition,
    pod,
    reasons,
    see,
)
from tests.support.rollouts import (
    NEW,
    OLD,
    STATEFUL_SET,
    annotated,
    image_of,
    of,
    of_all,
    rolling,
    told,
    with_image,
    with_revision,
    without_image,
)


def test_a_new_operator_restarts_no_replica() -> None:
    found = with_revision(of_all(group(), OLD), OLD)
    step = plan(found, "image:2")
    assert step.action is None
    assert step.status["image"] == IMAGE
    condition = by_type(step)["RolledOut"]
    assert (condition["status"], condition["reason"]) == ("True", "OtherImage")
    assert "image:2" in condition["message"]


def test_a_partition_of_an_operator_that_recorded_no_image_keeps_its_image() -> None:
    found = group()
    status = {k: v for k, v in found.partition.status.items() if k != "image"}
    found = replace(found, partition=parse(found.partition.body | {"status": status}))
    assert plan(found, "image:2").action is None


def test_an_image_moves_with_the_spec_or_with_auto_update() -> None:
    found = group()
    assert image_of(plan(found, "image:2", image_auto_update=True)) == "image:2"
    body = found.partition.body
    asked = parse(body | {"spec": body["spec"] | {"image": "image:3"}})
    moved = replace(found, partition=asked)
    assert image_of(plan(moved, "image:2", image_auto_update=True)) == "image:3"
    # Without spec.image again, it stays, because all pods have had it.
    kept = after(with_revision(of_all(complete(moved), NEW), NEW))
    assert kept.partition.status["image"] == "image:3"
    assert look(without_image(kept)).action is None


def test_an_image_that_never_worked_is_not_kept() -> None:
    found = after(with_revision(of_all(group(), OLD), OLD))
    bad = after(with_revision(complete(with_image(found, "bad:1")), NEW))
    bad = after(of(bad, 2, revision=NEW, ready=False, broken="ErrImagePull"))
    assert told(look(bad)) == ("False", "Rolling")
    assert image_of(look(without_image(bad))) == IMAGE
    paused = parse(found.partition.body | {"spec": found.partition.body["spec"] | {"paused": True}})
    stopped = after(with_image(replace(found, partition=paused), "bad:1"))
    assert told(look(stopped)) == ("False", "Paused")
    assert stopped.partition.status["image"] == IMAGE


def test_an_image_that_a_new_partition_never_ran_is_not_kept() -> None:
    found = see(partition({"image": "bad:1"}, clusterID=CLUSTER))
    found = with_revision(complete(found), OLD)
    broken = (pod(n, ready=False, revision=OLD, broken="ErrImagePull") for n in range(3))
    found = after(replace(found, pods=tuple(broken), claims=claims(3, CLUSTER)))
    assert "image" not in found.partition.status
    mended = complete(without_image(found))
    assert image_of(look(without_image(found))) == IMAGE
    assert look(with_revision(mended, NEW)).action == actions.Delete("Pod", "part-0", "")


def test_an_image_with_which_no_pod_was_ready_is_not_kept() -> None:
    found = after(with_revision(of_all(group(), OLD), OLD))
    asleep = replace(found, pods=(), replicas=())
    slept = after(with_revision(complete(with_image(asleep, "bad:1")), NEW))
    assert told(look(slept))[0] == "True", "there is no pod to replace"
    assert slept.partition.status["image"] == IMAGE
    # The StatefulSet was made anew with it, for another claim template, and is not seen yet.
    bare = {key: live for key, live in found.objects.items() if key != STATEFUL_SET}
    made = after(complete(with_image(replace(found, objects=bare), "bad:1")))
    assert told(look(made))[0] == "True"
    assert made.partition.status["image"] == IMAGE


def test_it_is_not_rolled_out_before_the_template_is_written() -> None:
    """Else who waits for the condition would go on at once."""
    found = after(with_revision(of_all(group(), OLD), OLD))
    step = look(with_image(found, "image:3"))
    assert isinstance(step.action, actions.Apply)
    assert told(step) == ("False", "NotWritten")
    assert "RolloutStarted" not in reasons(step)
    written = after(with_image(found, "image:3"))
    live = {**written.objects[STATEFUL_SET]} | {"spec": step.action.body["spec"]}
    metadata = (
        live["metadata"]
        | {"generation": 2}
        | {"annotations": step.action.body["metadata"]["annotations"]}
    )
    unseen = replace(
        written, objects=written.objects | {STATEFUL_SET: live | {"metadata": metadata}}
    )
    assert told(look(unseen)) == ("False", "NotWritten")
    scaled = parse(found.partition.body | {"spec": found.partition.body["spec"] | {"replicas": 5}})
    assert told(look(replace(found, partition=scaled))) == ("True", "UpToDate")


def test_somebody_elses_template_is_not_rolled_out() -> None:
    """While the operator waits to put it right."""
    found = rolling()
    live = json.loads(json.dumps(found.objects[STATEFUL_SET]))
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "somebody's"
    found = replace(found, objects=found.objects | {STATEFUL_SET: live})
    wanted = look(found).action
    assert isinstance(wanted, actions.Apply)
    refused = Write(content_hash(wanted.body), NOW, refusal="by a policy")
    found = replace(found, writes={STATEFUL_SET: refused})
    step = look(found)
    assert not isinstance(step.action, actions.EvictPod)
    assert told(step) == ("False", "NotWritten")


def test_a_kept_pod_spec_that_somebody_changed_is_not_used() -> None:
    found = group()
    live = json.loads(json.dumps(found.objects[STATEFUL_SET]))
    pod_spec = json.loads(live["metadata"]["annotations"][names.ANNOTATION_POD_SPEC])
    pod_spec["containers"][0]["image"] = "somebody's"
    live["metadata"]["annotations"][names.ANNOTATION_POD_SPEC] = json.dumps(pod_spec)
    assert image_of(look(replace(found, objects=found.objects | {STATEFUL_SET: live}))) == IMAGE


def test_another_pod_spec_of_a_new_operator_waits_for_a_change_of_the_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from partition_operator.resources import statefulset

    found = group()
    make = statefulset._container

    def other(*arguments: Any) -> dict[str, Any]:
        container = make(*arguments)
        return container | {"args": [*container["args"], "--of-a-later-version"]}

    monkeypatch.setattr(statefulset, "_container", other)
    assert look(found).action is None
    restarted = annotated(found, restart="once")
    step = look(restarted)
    assert isinstance(step.action, actions.Apply)
    template = step.action.body["spec"]["template"]
    assert template["spec"]["containers"][0]["args"][-1] == "--of-a-later-version"
    assert template["metadata"]["annotations"] == {names.ANNOTATION_RESTART: "once"}


def test_an_edited_template_is_put_right() -> None:
    found = group()
    live = json.loads(json.dumps(found.objects[STATEFUL_SET]))
    live["spec"]["template"]["spec"]["containers"][0]["image"] = "somebody's"
    step = look(replace(found, objects=found.objects | {STATEFUL_SET: live}))
    assert image_of(step) == IMAGE


def test_a_pause_stops_everything_but_certificates() -> None:
    found = rolling()
    body = found.partition.body
    stopped = parse(body | {"spec": body["spec"] | {"paused": True}})
    found = replace(found, partition=stopped)
    step = look(found)
    assert step.action is None
    assert told(step) == ("False", "Rolling")
    assert by_type(step)["Paused"]["status"] == "True"
    renewing = replace(found, certificates_good={"part-replica-tls": False})
    assert isinstance(look(renewing).action, actions.IssueCertificate)
    begun = after(group())
    paused = parse(begun.partition.body | {"spec": begun.partition.body["spec"] | {"paused": True}})
    assert "Paused" in reasons(look(replace(begun, partition=paused)))
    scaled = parse(paused.body | {"spec": paused.body["spec"] | {"replicas": 5}})
    assert look(replace(begun, partition=scaled)).action is None
