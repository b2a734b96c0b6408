"""Volumes get another VolumeAttributesClass: in place, or by replacement where the driver can't."""

from dataclasses import replace
from typing import Any

import pytest
from partition_operator.clients.observer import _claim
from partition_operator.clients.volumes import attributes_problem
from partition_operator.reconcile.observed.partition import ObservedClaim, ObservedPartition
from partition_operator.reconcile.partition import actions
from partition_operator.reconcile.partition.forecast import forecast
from partition_operator.resources.statefulset import claim_spec

from tests.support.partition_views import (
    CLUSTER,
    after,
    by_type,
    claim,
    group,
    look,
    partition,
    reasons,
    with_spec,
)

HAS, WANTS = "bronze", "gold"


def bound(ordinal: int, now: str = HAS, **more: Any) -> ObservedClaim:
    values: dict[str, Any] = {"bound": True, "uid": f"u{ordinal}", "volume": f"pv-{ordinal}"}
    values |= {"size": "1Gi", "capacity": "1Gi", "storage_class": "fast", "cluster_id": CLUSTER}
    values |= {"attributes": now, "attributes_now": now}
    return claim(ordinal, **(values | more))


def asking(*claims: ObservedClaim, **storage: Any) -> ObservedPartition:
    """A whole group of three, led by part-0, whose spec asks for WANTS."""
    found = after(group(3, claims=claims or tuple(bound(n) for n in range(3))))
    wanted = {"size": "1Gi", "volumeAttributesClassName": WANTS} | storage
    return with_spec(found, storage={k: v for k, v in wanted.items() if v is not None})


def told(observed: ObservedPartition) -> tuple[str, str, str]:
    found = by_type(look(observed))["StorageReady"]
    return found["status"], found["reason"], found["message"]


def test_one_volume_after_the_other_changes_in_place_the_leader_last() -> None:
    claims = [bound(n) for n in range(3)]
    for ordinal in (1, 2, 0):
        observed = asking(*claims)
        assert look(observed).action == actions.ModifyClaim(ordinal, f"u{ordinal}", WANTS)
        claims[ordinal] = bound(ordinal, attributes=WANTS)
        under_way = asking(*claims)
        assert look(under_way).action is None, "it waits until the driver has done it"
        assert told(under_way)[:2] == ("True", "Modifying")
        claims[ordinal] = bound(ordinal, WANTS)
    assert look(asking(*claims)).action is None
    assert told(asking(*claims))[1] == "Ready"


def test_it_is_told_by_events() -> None:
    begun = look(asking(*(bound(n) for n in range(3))))
    assert "VolumesModify" in reasons(begun)
    going = after(asking(bound(0, WANTS), bound(1, attributes=WANTS), bound(2, WANTS)))
    done = replace(going, claims=tuple(bound(n, WANTS) for n in range(3)))
    assert "VolumesModified" in reasons(look(done))


@pytest.mark.parametrize("has", ["bronze", ""])
def test_what_the_driver_refuses_reaches_one_volume(has: str) -> None:
    refused = bound(1, has, attributes=WANTS, infeasible=True)
    observed = asking(bound(0, has), refused, bound(2, has))
    assert look(observed).action is None
    status, reason, message = told(observed)
    assert (status, reason) == ("True", "AttributesRefused")
    assert "part-1 to gold in place: set spec.storage.replacement to Rolling" in message
    assert ("set the field to bronze again" if has else "remove the field") in message
    assert "AttributesRefused" in reasons(look(observed))
    # The user takes it back.
    back = asking(bound(0, has), refused, bound(2, has), volumeAttributesClassName=has or None)
    assert look(back).action == actions.ModifyClaim(1, "u1", has)


def test_it_is_replaced_if_the_spec_allows_it() -> None:
    refused = bound(1, attributes=WANTS, infeasible=True)
    observed = asking(bound(0), refused, bound(2), replacement="Rolling")
    step = look(observed)
    assert isinstance(step.action, actions.OrphanPods), "the claim template has no class yet"
    assert "shall be gold, and the driver can't change it in place" in told(observed)[2]
    template = {"metadata": {"name": "data"}, "spec": {"resources": {"requests": {}}}}
    template["spec"] = {
        "resources": {"requests": {"storage": "1Gi"}},
        "volumeAttributesClassName": WANTS,
    }
    live = observed.objects["StatefulSet", "part"]
    body = live | {"spec": live["spec"] | {"volumeClaimTemplates": [template]}}
    anew = replace(observed, objects=observed.objects | {("StatefulSet", "part"): body})
    assert look(anew).action == actions.GiveUpVolume(1, "u1", "pv-1", keep=True)


def test_the_claims_of_a_new_partition_have_the_class() -> None:
    spec = partition({"storage": {"size": "1Gi", "volumeAttributesClassName": WANTS}}).asked
    assert spec is not None
    assert claim_spec(spec)["volumeAttributesClassName"] == WANTS


def test_without_a_class_in_the_spec_volumes_keep_theirs() -> None:
    observed = asking(*(bound(n) for n in range(3)), volumeAttributesClassName=None)
    assert look(observed).action is None
    assert told(observed)[1] == "Ready"


@pytest.mark.parametrize("replacement", [None, "Rolling"])
def test_a_class_that_no_volume_can_have_is_said_and_nothing_is_done(
    replacement: str | None,
) -> None:
    claims = (bound(0), bound(1, storage_class="other"), bound(2))
    problem = "there is no VolumeAttributesClass gold"
    observed = asking(*claims, replacement=replacement, className="fast")
    if replacement is None:
        observed = asking(*claims)
    observed = replace(observed, attributes_problem=problem)
    assert look(observed).action is None
    assert problem in told(observed)[2]


def test_a_dry_run_shows_the_steps() -> None:
    (step,) = forecast(asking(), look).steps
    assert step.text == "change PersistentVolumeClaim data-part-1 to VolumeAttributesClass gold"


def test_a_claim_is_read_from_its_object() -> None:
    item = {
        "metadata": {
            "name": "data-part-1",
            "uid": "u",
            "resourceVersion": "1",
            "creationTimestamp": "t",
        },
        "spec": {"volumeAttributesClassName": WANTS, "volumeName": "pv"},
        "status": {
            "currentVolumeAttributesClassName": HAS,
            "modifyVolumeStatus": {
                "status": "Infeasible",
                "targetVolumeAttributesClassName": WANTS,
            },
        },
    }
    found = _claim(partition(), item, {})
    assert (found.attributes, found.attributes_now, found.infeasible) == (WANTS, HAS, True)


class Classes:
    """Of the API server: storage classes, and classes of attributes, by name."""

    def __init__(self, drivers: dict[str, str]) -> None:
        self._drivers = drivers

    async def get(self, kind: str, namespace: str, name: str) -> dict[str, str] | None:
        driver = self._drivers.get(name)
        key = "driverName" if kind == "VolumeAttributesClass" else "provisioner"
        return None if driver is None else {key: driver}


@pytest.mark.parametrize(
    ("drivers", "problem"),
    [
        ({"gold": "a.example", "fast": "a.example"}, ""),
        ({"fast": "a.example"}, "there is no VolumeAttributesClass gold, or the API server does"),
        ({"gold": "b.example", "fast": "a.example"}, "gold is of driver b.example, and storage"),
    ],
)
async def test_the_driver_has_to_be_the_same(drivers: dict[str, str], problem: str) -> None:
    kube: Any = Classes(drivers)
    found = await attributes_problem(kube, WANTS, {"fast"})
    assert found.startswith(problem) or problem in found
    assert bool(found) == bool(problem)
