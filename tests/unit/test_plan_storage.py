"""A size or class that is mended before there is a volume, and one that volumes don't follow."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.api.partition import parse
from partition_operator.reconcile import actions
from partition_operator.reconcile.observed import Claim, Observed

from tests.support.partition_views import (
    CLUSTER,
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


def made(ordinal: int, storage: dict[str, str], **more: Any) -> Claim:
    values = {"size": storage["size"], "storage_class": storage.get("className", "")}
    values |= {"uid": f"u{ordinal}", "version": f"v{ordinal}", "cluster_id": ""}
    return claim(ordinal, **(values | more))


def waiting(*claims: Claim) -> Observed:
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


def without_set(observed: Observed) -> Observed:
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


def test_a_group_that_exists_keeps_its_claims() -> None:
    known = made(0, NEW, cluster_id=CLUSTER)
    observed = group(1, claims=(known,), spec={"storage": NEW})
    other = observed.partition.body | {"spec": {"replicas": 1, "storage": OLD}}
    assert look(replace(observed, partition=parse(other))).action is None


def test_what_is_right_is_left_alone() -> None:
    observed = complete(without_set(waiting(made(0, NEW))))
    again = made(0, {"size": "1024Mi", "className": "fast"})
    assert not isinstance(look(replace(observed, claims=(again,))).action, actions.DeleteUnchanged)


def test_status_tells_what_bound_claims_have() -> None:
    assert "storage" not in look(waiting(made(0, OLD))).status
    claims = (made(0, NEW, bound=True), made(1, NEW, bound=True, size="2Gi"), made(2, NEW))
    observed = group(3, claims=claims, spec={"storage": NEW})
    assert look(observed).status["storage"] == {"size": "2Gi", "className": "fast"}
    away = look(replace(observed, claims=()))
    assert away.status["storage"] == {"size": "2Gi", "className": "fast"}


def test_a_class_that_is_not_followed_is_said() -> None:
    observed = group(1, claims=(made(0, NEW, bound=True),), spec={"storage": NEW})
    assert condition(look(observed), "Accepted")["message"] == "the spec is valid"
    spec = {"replicas": 1, "storage": NEW | {"className": "slow"}}
    observed = replace(observed, partition=parse(observed.partition.body | {"spec": spec}))
    assert "class fast and keep it" in condition(look(observed), "Accepted")["message"]
