"""A size or class that is mended before there is a volume, and one that volumes don't follow."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from partition_common import backoff
from partition_operator.api import names
from partition_operator.api.partition import parse
from partition_operator.clients.observer import _claim
from partition_operator.reconcile.observed import last_write
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition import actions, writes

from tests.support.partition_views import (
    CLUSTER,
    CREATED,
    claim,
    complete,
    condition,
    empty,
    group,
    look,
    partition,
    pod,
    see,
)

OLD = {"size": "10Ti", "className": "nosuch"}
NEW = {"size": "1Gi", "className": "fast"}
KEY = ("StatefulSet", "part")


def made(ordinal: int, storage: dict[str, str], **more: Any) -> ObservedClaim:
    values = {"size": storage["size"], "storage_class": storage.get("className", "")}
    values |= {"uid": f"u{ordinal}", "version": f"v{ordinal}", "cluster_id": ""}
    return claim(ordinal, **(values | more))


def waiting(*claims: ObservedClaim) -> ObservedPartition:
    """A Partition whose objects were made of OLD, and whose spec says NEW by now."""
    found = partition({"replicas": 1, "storage": OLD}, clusterID=CLUSTER, bootstrapped=False)
    before = complete(see(found, pods=(pod(0, ip="", ready=False),)))
    spec = {"replicas": 1, "storage": NEW}
    live = before.objects[KEY]
    seen = live | {"metadata": live["metadata"] | {"uid": "set", "resourceVersion": "7"}}
    objects = before.objects | {KEY: seen}
    after = parse(found.body | {"spec": spec})
    return replace(before, objects=objects, claims=claims, partition=after)


def test_what_was_made_of_a_wrong_spec_is_made_anew() -> None:
    observed = waiting(made(0, OLD))
    assert look(observed).action == actions.DeleteUnchanged("StatefulSet", "part", "set", "7")
    observed = without_set(observed)
    assert look(observed).action == actions.DeleteUnchanged(
        "PersistentVolumeClaim", "data-part-0", "u0", "v0"
    )
    going = replace(observed, claims=(made(0, OLD, deleting=True),))
    assert look(going).action is None, "a StatefulSet would take the old claim"
    action = look(replace(observed, claims=())).action
    assert isinstance(action, actions.Apply)
    (template,) = action.body["spec"]["volumeClaimTemplates"]
    assert template["spec"]["storageClassName"] == "fast"
    assert template["spec"]["resources"]["requests"]["storage"] == "1Gi"


@pytest.mark.parametrize(
    "change",
    [
        {"claims": (made(0, OLD, bound=True),)},
        {"claims": (made(0, OLD), made(1, OLD, bound=True))},
        # It runs, so it has a volume, whatever the claim says.
        {"replicas": (empty(0),)},
    ],
)
def test_what_has_a_volume_is_never_deleted(change: dict[str, Any]) -> None:
    action = look(replace(waiting(made(0, OLD)), **change)).action
    assert not isinstance(action, actions.DeleteUnchanged)


def without_set(observed: ObservedPartition) -> ObservedPartition:
    objects = {key: value for key, value in observed.objects.items() if key != KEY}
    return replace(observed, objects=objects)


def test_a_claim_that_somebody_made_is_left_alone() -> None:
    older = made(0, OLD, created="2025-12-31T00:00:00Z", cluster_id=CLUSTER)
    observed = without_set(waiting(older))
    assert not isinstance(look(observed).action, actions.DeleteUnchanged)
    body = observed.partition.body
    spec = body["spec"] | {"bootstrap": {"adopt": True}}
    adopting = replace(without_set(waiting(made(0, OLD))), partition=parse(body | {"spec": spec}))
    assert not isinstance(look(adopting).action, actions.DeleteUnchanged)


@pytest.mark.parametrize(
    ("cluster_id", "deleted"),
    [
        ("", False),
        ("22222222-2222-4222-8222-222222222222", False),
        # It lost its labels, and its mark says whose it is.
        (CLUSTER, True),
    ],
)
def test_a_claim_without_labels_is_deleted_only_with_our_mark(
    cluster_id: str, *, deleted: bool
) -> None:
    unlabelled = made(0, OLD, cluster_id=cluster_id, labelled=False)
    action = look(without_set(waiting(unlabelled))).action
    assert isinstance(action, actions.DeleteUnchanged) == deleted


def test_a_deletion_that_is_refused_is_said_and_tried_later() -> None:
    observed = waiting(made(0, OLD))
    for kind, name in (KEY, ("PersistentVolumeClaim", "data-part-0")):
        action = look(observed).action
        assert isinstance(action, actions.DeleteUnchanged)
        found = writes.target(action, "part")
        assert found is not None
        assert found[0] == (kind, name)
        record = last_write.refused(None, found[1], "denied by a webhook", observed.now)
        held = replace(observed, writes={found[0]: record})
        assert look(held).action is None
        assert look(held).retry_s == backoff.WRITE_REFUSED.after(1)
        told = condition(look(held), "ObjectsApplied")
        assert (told["status"], told["reason"]) == ("False", "ObjectRefused")
        assert f"{kind} {name}: denied by a webhook" in told["message"]
        due = replace(held, now=observed.now + dt.timedelta(seconds=backoff.WRITE_REFUSED.after(1)))
        assert look(due).action == action
        observed = without_set(observed)


def test_a_group_that_exists_keeps_its_claims() -> None:
    known = made(0, NEW, cluster_id=CLUSTER)
    observed = group(1, claims=(known,), spec={"storage": NEW})
    other = observed.partition.body | {"spec": {"replicas": 1, "storage": OLD}}
    assert look(replace(observed, partition=parse(other))).action is None


def test_what_is_right_is_left_alone() -> None:
    observed = complete(without_set(waiting(made(0, NEW))))
    again = made(0, {"size": "1024Mi", "className": "fast"})
    assert not isinstance(look(replace(observed, claims=(again,))).action, actions.DeleteUnchanged)


@pytest.mark.parametrize("labels", [names.selector("part"), {}])
def test_a_claim_is_read_from_its_object(labels: dict[str, str]) -> None:
    item = {
        "metadata": {
            "name": "data-part-2",
            "uid": "u2",
            "resourceVersion": "v2",
            "creationTimestamp": CREATED,
            "deletionTimestamp": CREATED,
            "labels": labels,
            "annotations": {names.ANNOTATION_CLUSTER_ID: CLUSTER},
        },
        "spec": {
            "volumeName": "pv",
            "storageClassName": "fast",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    marks = {"cluster_id": CLUSTER, "deleting": True, "bound": True, "labelled": bool(labels)}
    marks |= {"volume": "pv"}
    assert _claim(partition(), item, names.selector("part")) == made(2, NEW, **marks)


def test_status_tells_what_bound_claims_have() -> None:
    assert "storage" not in look(waiting(made(0, OLD))).status
    claims = (made(0, NEW, bound=True), made(1, NEW, bound=True, size="2Gi"), made(2, NEW))
    observed = group(3, claims=claims, spec={"storage": NEW})
    assert look(observed).status["storage"] == {"size": "2Gi", "className": "fast"}
    strange = made(3, NEW, bound=True, size="5Ti", labelled=False)
    assert look(replace(observed, claims=(*claims, strange))).status["storage"]["size"] == "2Gi"
    away = look(replace(observed, claims=()))
    assert away.status["storage"] == {"size": "2Gi", "className": "fast"}


def test_a_class_that_is_not_followed_is_said() -> None:
    observed = group(1, claims=(made(0, NEW, bound=True),), spec={"storage": NEW})
    assert condition(look(observed), "Accepted")["message"] == "the spec is valid"
    spec = {"replicas": 1, "storage": NEW | {"className": "slow"}}
    observed = replace(observed, partition=parse(observed.partition.body | {"spec": spec}))
    assert "class fast, which can't change" in condition(look(observed), "Accepted")["message"]


def grown(*claims: ObservedClaim, size: str = "2Gi") -> ObservedPartition:
    spec = {"storage": NEW | {"size": size}}
    observed = group(3, claims=claims, spec={"storage": NEW})
    body = observed.partition.body
    return replace(observed, partition=parse(body | {"spec": body["spec"] | spec}))


def ours(ordinal: int, **more: Any) -> ObservedClaim:
    values: dict[str, Any] = {"bound": True, "cluster_id": CLUSTER, "capacity": "1Gi"}
    return made(ordinal, NEW, **(values | more))


def test_bound_claims_of_the_group_ask_for_more_one_by_one() -> None:
    observed = grown(ours(0), ours(1), ours(2))
    assert look(observed).action == actions.GrowClaim(0, "u0", "2Gi")
    observed = grown(ours(0, size="2Gi"), ours(1), ours(2))
    assert look(observed).action == actions.GrowClaim(1, "u1", "2Gi")
    told = condition(look(observed), "StorageReady")
    assert (told["status"], told["reason"]) == ("True", "Growing")
    assert "part-0, part-1, part-2 grow to 2Gi" in told["message"]
    complete = [ours(n, size="2Gi", capacity="2Gi") for n in range(3)]
    step = look(grown(*complete))
    assert step.action is None
    assert condition(step, "StorageReady")["reason"] == "Ready"


def test_no_other_claim_is_grown() -> None:
    for claim_ in (ours(0, bound=False), ours(0, deleting=True), ours(0, cluster_id="other")):
        observed = grown(claim_, ours(1, size="2Gi"), ours(2, size="2Gi"))
        assert not isinstance(look(observed).action, actions.GrowClaim)
    larger = [ours(n, size="3Gi", capacity="3Gi") for n in range(3)]
    assert not isinstance(look(grown(*larger)).action, actions.GrowClaim)


def test_a_full_disk_is_said_while_volumes_grow() -> None:
    observed = grown(ours(0, size="2Gi"), ours(1), ours(2))
    full = tuple(replace(r, disk_full=r.ordinal == 1) for r in observed.replicas)
    observed = replace(observed, replicas=full)
    assert look(observed).action == actions.GrowClaim(1, "u1", "2Gi")
    told = condition(look(observed), "StorageReady")
    assert told["reason"] == "DiskFull"
    assert "raise spec.storage.size" in told["message"]


def test_a_refused_growth_stops_nothing_else() -> None:
    observed = grown(ours(0), ours(1), ours(2))
    refused = last_write.Write(
        "size 2Gi", observed.now, refusal="no", retry_at=observed.now + dt.timedelta(minutes=1)
    )
    keys = [("PersistentVolumeClaim", names.claim("part", n)) for n in range(3)]
    observed = replace(observed, writes=dict.fromkeys(keys, refused))
    step = look(observed)
    assert step.action is None
    assert condition(step, "ObjectsApplied")["reason"] == "ObjectRefused"
